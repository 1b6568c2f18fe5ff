"""A model with one thing changed is refused with a reason, answers as before, or is known to be another."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import FledgeError
from fledge.models import snapshot
from tests.models.mutations import mutate

SEEDS = 100
ANSWERED = 10
DEADLINE_S = 600  # of a machine that is busy


def copy_mutated(folder: Path, seed: int) -> str:
    shutil.copytree(snapshot.resolve("embedded").path, folder)
    return mutate(folder, seed)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_mutation_is_refused_with_a_reason_or_is_another_model(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    words = copy_mutated(folder, seed)
    refused, digest = try_resolve(folder)
    if refused:
        assert refused.hint, words
        assert refused.message.isprintable(), words
        assert str(folder) in refused.message, words
    else:
        assert digest != snapshot.resolve("embedded").digest, words


def try_resolve(folder: Path) -> tuple[FledgeError | None, str]:
    try:
        return None, snapshot.resolve(str(folder)).digest
    except FledgeError as error:
        return error, ""


def ask(folder: Path, cache: Path, engine: str = "transformers") -> dict[str, Any]:
    """What comes of a model in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.mutations", str(folder), engine, str(cache)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"RUST_BACKTRACE": "0"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.timeout(ANSWERED * DEADLINE_S)
def test_what_is_not_refused_answers(tmp_path: Path) -> None:
    unchanged = ask(snapshot.resolve("embedded").path, tmp_path)
    for seed in range(SEEDS, SEEDS + ANSWERED):
        folder = tmp_path / str(seed)
        words = copy_mutated(folder, seed)
        told = ask(folder, tmp_path)
        if "refused" in told:
            assert told["hint"], words
        elif told["texts"] != unchanged["texts"]:
            assert told["digest"] != unchanged["digest"], words
        shutil.rmtree(folder)


def report(seeds: int, engine: str, scratch: Path) -> None:
    """Print what came of many mutations, with seconds, seconds of processor time and MB.

    `python -m tests.models.test_mutations 100 transformers DIR`
    """
    unchanged = ask(snapshot.resolve("embedded").path, scratch, engine)
    for seed in range(seeds):
        folder = scratch / "model"
        shutil.rmtree(folder, ignore_errors=True)
        words, start = copy_mutated(folder, seed), time.monotonic()
        try:
            told = ask(folder, scratch, engine)
        except (AssertionError, subprocess.TimeoutExpired, ValueError) as error:
            told = {"failed": str(error)[-300:]}
        kind = next((name for name in ("failed", "refused") if name in told), "")
        kind = kind or ("same" if told["texts"] == unchanged["texts"] else "differs")
        row = [
            seed,
            kind,
            f"{time.monotonic() - start:.1f}",
            f"{told.get('peak_mb', 0):.0f}",
            words,
            told.get(kind, ""),
        ]
        sys.stdout.write("\t".join(map(str, row)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    report(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
