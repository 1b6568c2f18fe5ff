"""How soon after its last token an answer is on disk, and what a kill costs, where a step of the engine takes long."""

import random
import signal
import time
from pathlib import Path

import pytest

from fledge.core.settings import Workspace
from tests.experiments.slow_steps import Watcher, journal, made, start

AT_MOST_S = 1.0


def kills(folder: Path, workspace: Workspace, model: str, count: int, times: int, rng: random.Random) -> list[int]:
    """Kill an experiment at random moments and resume it, `times` in all; for each time how many answers that had been
    made a second before the kill were asked again."""
    asked_again, run = list[int](), list[str]()
    for _ in range(times):
        before = len(made(folder))
        process = start(folder, workspace, model, "1.0", str(count), *run)
        while len(made(folder)) == before and process.poll() is None:  # it has begun to answer
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 6))
        process.send_signal(signal.SIGKILL)
        killed = time.time()
        process.wait()
        (own,) = (folder / ".fledge" / "experiments").iterdir()
        run = [own.name]
        kept = {line["prompt_text"].split(": ")[-1] for line in journal(folder)}
        asked_again.append(
            sum(moment < killed - AT_MOST_S and prompt not in kept for prompt, moment in made(folder)[before:])
        )
        if len(journal(folder)) == count:
            break
    return asked_again


@pytest.mark.soak
@pytest.mark.parametrize("model", ["scripted", "smollm2"])
def test_no_answer_is_asked_again_after_a_kill(workspace: Workspace, tmp_path: Path, model: str) -> None:
    asked_again = kills(tmp_path, workspace, model, 1600, 20, random.Random(1))
    print(f"{model}: answers made a second before the kill and asked again: {asked_again}")
    assert sum(asked_again) == 0
    assert len(asked_again) == 20


@pytest.mark.soak
@pytest.mark.parametrize("model", ["scripted", "smollm2"])
def test_answers_are_on_disk_at_once(workspace: Workspace, tmp_path: Path, model: str) -> None:
    process = start(tmp_path, workspace, model, "1.0", "192")
    with Watcher(tmp_path) as watcher:
        assert process.wait(900) == 0
    delays = watcher.delays_s()
    print(f"{model}: from last token to disk: p50 {delays[96]:.3f} s, p99 {delays[-2]:.3f} s, most {delays[-1]:.3f} s")
    assert len(delays) == 192
    assert delays[-2] <= AT_MOST_S
