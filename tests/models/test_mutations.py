"""A model with one change is refused with a reason, answers as before, or has another digest."""

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
DEADLINE_S = 600  # enough for a busy machine


def copy_mutated(folder: Path, seed: int) -> str:
    shutil.copytree(snapshot.resolve("embedded").path, folder)
    return mutate(folder, seed)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_mutation_is_refused_with_a_reason_or_changes_the_digest(seed: int, tmp_path: Path) -> None:
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
    """Return the result of `tests.models.mutations` for a model."""
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
def test_an_accepted_mutation_answers(tmp_path: Path) -> None:
    unchanged = ask(snapshot.resolve("embedded").path, tmp_path)
    for seed in range(SEEDS, SEEDS + ANSWERED):
        folder = tmp_path / str(seed)
        words = copy_mutated(folder, seed)
        result = ask(folder, tmp_path)
        if "refused" in result:
            assert result["hint"], words
        elif result["texts"] != unchanged["texts"]:
            assert result["digest"] != unchanged["digest"], words
        shutil.rmtree(folder)


def report(seeds: int, engine: str, scratch: Path) -> None:
    """Print the results of many mutations, with wall seconds and peak MB.

    `python -m tests.models.test_mutations 100 transformers DIR`
    """
    unchanged = ask(snapshot.resolve("embedded").path, scratch, engine)
    for seed in range(seeds):
        folder = scratch / "model"
        shutil.rmtree(folder, ignore_errors=True)
        words, start = copy_mutated(folder, seed), time.monotonic()
        try:
            result = ask(folder, scratch, engine)
        except (AssertionError, subprocess.TimeoutExpired, ValueError) as error:
            result = {"failed": str(error)[-300:]}
        kind = next((name for name in ("failed", "refused") if name in result), "")
        kind = kind or ("same" if result["texts"] == unchanged["texts"] else "differs")
        row = [
            seed,
            kind,
            f"{time.monotonic() - start:.1f}",
            f"{result.get('peak_mb', 0):.0f}",
            words,
            result.get(kind, ""),
        ]
        sys.stdout.write("\t".join(map(str, row)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    report(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
