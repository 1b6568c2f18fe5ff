"""Delay from the last token to disk, and answers lost by a kill, with slow engine steps."""

import random
import signal
import time
from pathlib import Path

import pytest

from fledge.core.settings import Workspace
from tests.experiments.slow_steps import Watcher, journal, made, start

MAX_DELAY_S = 1.0


def kill_and_resume(
    folder: Path, workspace: Workspace, model: str, count: int, times: int, rng: random.Random
) -> list[int]:
    """Kill an experiment `times` times at random moments and resume it. Return for each kill how many answers completed
    more than a second before it were generated again."""
    repeated, run = list[int](), list[str]()
    for _ in range(times):
        before = len(made(folder))
        process = start(folder, workspace, model, "1.0", str(count), *run)
        while len(made(folder)) == before and process.poll() is None:  # wait for the first answer
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 6))
        process.send_signal(signal.SIGKILL)
        killed = time.time()
        process.wait()
        (own,) = (folder / ".fledge" / "experiments").iterdir()
        run = [own.name]
        kept = {line["prompt_text"].split(": ")[-1] for line in journal(folder)}
        repeated.append(
            sum(moment < killed - MAX_DELAY_S and prompt not in kept for prompt, moment in made(folder)[before:])
        )
        if len(journal(folder)) == count:
            break
    return repeated


@pytest.mark.soak
@pytest.mark.parametrize("model", ["scripted", "smollm2"])
def test_no_answer_is_repeated_after_a_kill(workspace: Workspace, tmp_path: Path, model: str) -> None:
    repeated = kill_and_resume(tmp_path, workspace, model, 1600, 20, random.Random(1))
    print(f"{model}: repeated answers that were complete a second before the kill: {repeated}")
    assert sum(repeated) == 0
    assert len(repeated) == 20


@pytest.mark.soak
@pytest.mark.parametrize("model", ["scripted", "smollm2"])
def test_answers_are_on_disk_within_a_second(workspace: Workspace, tmp_path: Path, model: str) -> None:
    process = start(tmp_path, workspace, model, "1.0", "192")
    with Watcher(tmp_path) as watcher:
        assert process.wait(900) == 0
    delays = watcher.delays_s()
    print(f"{model}: from last token to disk: p50 {delays[96]:.3f} s, p99 {delays[-2]:.3f} s, most {delays[-1]:.3f} s")
    assert len(delays) == 192
    assert delays[-2] <= MAX_DELAY_S
