"""An engine in its own process: it ends with its parent, and its death loses no answer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.engines import selection
from fledge.engines.engine import EngineGoneError, generate
from fledge.engines.local_engine import LocalEngine
from fledge.engines.settings import EngineSettings
from fledge.engines.stream import Stream
from fledge.models import snapshot

pytestmark = pytest.mark.slow

PROMPTS = [f"Question: what is number {number}?\nAnswer:" for number in range(8)]
LONG = GenerationParams(max_tokens=300, ignore_eos=True)
PATIENCE_S = 120


@pytest.fixture
def progress() -> list[str]:
    return []


@pytest.fixture
def engine(progress: list[str]) -> Iterator[LocalEngine]:
    started = selection.start(EngineSettings(), snapshot.resolve("embedded"), progress.append)
    assert isinstance(started, LocalEngine)
    with closing(started):
        yield started


def kill_while_generating(engine: LocalEngine, number: int = signal.SIGKILL) -> None:
    before, deadline = engine.stats().generated_tokens, time.monotonic() + PATIENCE_S
    while engine.stats().generated_tokens < before + 20:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(engine.pid, number)


def ask(engine: LocalEngine) -> list[Stream]:
    return [engine.submit(prompt, LONG) for prompt in PROMPTS]


def test_a_killed_engine_is_restarted_and_its_prompts_are_asked_again(engine: LocalEngine, progress: list[str]) -> None:
    expected = [item.token_ids for item in generate(engine, PROMPTS, LONG)]
    streams = ask(engine)
    kill_while_generating(engine)
    assert [stream.result().token_ids for stream in streams] == expected
    assert any("was ended by SIGKILL" in line and "restarting it" in line for line in progress)
    assert generate(engine, PROMPTS[:1], LONG)[0].token_ids == expected[0]


def test_a_second_death_fails_all_answers(engine: LocalEngine) -> None:
    streams = ask(engine)
    kill_while_generating(engine)
    kill_while_generating(engine, signal.SIGSEGV)
    for stream in streams:
        with pytest.raises(EngineGoneError, match=r"ended by SIGSEGV.*for the second time"):
            stream.result()
    with pytest.raises(EngineGoneError):
        engine.submit("x", LONG)


def test_a_partly_read_answer_fails_when_the_engine_dies(engine: LocalEngine) -> None:
    stream = engine.submit(PROMPTS[0], LONG)
    next(iter(stream))
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineGoneError, match="SIGKILL"):
        list(stream)
    assert engine.submit(PROMPTS[0], GenerationParams(max_tokens=2)).result().completion_tokens == 2


def test_a_failed_start_raises_its_error_and_leaves_no_process(tmp_path: Path) -> None:
    model, before = snapshot.resolve("embedded"), set(psutil.Process().children(recursive=True))
    with pytest.raises(InputError, match="OpenVINO has no device 'gpu' here") as caught:
        selection.start(EngineSettings(engine="openvino", device="gpu"), model)
    assert caught.value.hint == "--device cpu"
    missing = snapshot.Snapshot(**{**vars(model), "path": tmp_path / "gone", "digest": "0" * 64})
    with pytest.raises(FledgeError):
        selection.start(EngineSettings(engine="transformers"), missing)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_an_engine_ends_with_its_parent_which_loads_no_large_library() -> None:
    program = """
import sys
from fledge.engines import selection
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot
engine = selection.start(EngineSettings(), snapshot.resolve("embedded"))
heavy = [name for name in ("torch", "transformers", "openvino", "openvino_genai", "mlflow") if name in sys.modules]
print(engine.pid, heavy, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid, _, heavy = parent.stdout.readline().strip().partition(" ")
        assert heavy == "[]"
        engine = psutil.Process(int(pid))
        processes = [engine, *engine.children(recursive=True)]
        parent.kill()
    assert not psutil.wait_procs(processes, 30)[1]
