"""Alias moves: which are valid, concurrent ones, and killed ones."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from fledge.core.errors import ConflictError
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.prompts.store import open_prompts
from fledge.registry.moves import AliasChange, AliasMove, find_undoable, select_valid
from fledge.registry.release import history, promote, register, rollback

NAME = "mine"


def _move(number: int, follows: int, before: int | None, after: int, action: Any = "promote") -> AliasMove:
    change = AliasChange("model", NAME, before, after)
    return AliasMove(NAME, "champion", action, (change,), 0.0, "me", "here 1 0", "why", follows=follows, number=number)


def test_earlier_of_two_concurrent_moves_is_valid() -> None:
    moves = [_move(1, 0, None, 1), _move(2, 1, 1, 2), _move(3, 1, 1, 3), _move(4, 2, 2, 4), _move(6, 5, 4, 5)]
    assert [move.number for move in select_valid(reversed(moves))] == [1, 2, 4, 6]


@given(st.lists(st.integers(0, 5), max_size=12))
def test_each_valid_move_follows_the_one_before(ages: list[int]) -> None:
    moves = [_move(number, max(0, number - 1 - age), None, number) for number, age in enumerate(ages, 1)]
    valid = select_valid(moves)
    assert all(later.follows >= earlier.number for earlier, later in itertools.pairwise(valid))
    left_out = [move for move in moves if move not in valid]
    assert all(any(move.follows < other.number < move.number for other in valid) for move in left_out)


def test_rollbacks_revert_moves_newest_first() -> None:
    moves = [_move(1, 0, None, 1), _move(2, 1, 1, 2), _move(3, 2, 2, 2), _move(4, 3, 2, 3)]
    undone = []
    for _ in range(3):
        last = find_undoable(moves, "champion")
        assert last is not None
        undone.append((last.after, last.before))
        moves.append(_move(len(moves) + 1, len(moves), last.after, last.before or 0, "rollback"))
    assert undone == [(3, 2), (2, 1), (1, None)]
    assert find_undoable(moves, "champion") is None
    assert find_undoable(moves, "challenger") is None


@pytest.fixture
def released(workspace: Workspace) -> Workspace:
    """Register two versions and make the first one champion."""
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)
    for prompt in ("simple", "expert"):
        register(config, name=NAME, prompt=prompt)
    promote(NAME, 1, force=True, reason="first", workspace=workspace)
    return workspace


def _champion(workspace: Workspace) -> tuple[int, list[str]]:
    """Return the champion version and the prompts with the alias."""
    found = MlflowClient(workspace.tracking_uri).get_model_version_by_alias(NAME, "champion")
    prompts = open_prompts(workspace=workspace)
    return int(found.version), [name for name in ("simple", "expert") if "champion" in prompts.load(name).aliases]


def _contend(workspace: Workspace, rounds: int, ready: Any, results: Any) -> None:
    for number in range(rounds):
        expected = 1 + number % 2
        ready.wait()
        try:
            promote(NAME, 3 - expected, force=True, reason=f"{os.getpid()}", expected=expected, workspace=workspace)
            results.put((number, os.getpid()))
        except ConflictError:
            pass
        ready.wait()


def contest(workspace: Workspace, rounds: int) -> None:
    """Promote from two processes at the same time: one wins each round, and the history shows which."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=_contend, args=(workspace, rounds, ready, results)) for _ in range(2)]
    for process in both:
        process.start()
    won = sorted(results.get(timeout=120) for _ in range(rounds))
    for process in both:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert results.empty()
    assert [number for number, _ in won] == list(range(rounds))
    moves = list(reversed(history(NAME, workspace=workspace)))[1:]
    assert [move.reason for move in moves] == [str(pid) for _, pid in won]
    assert [(move.before, move.after) for move in moves] == [(1 + n % 2, 2 - n % 2) for n in range(rounds)]
    assert _champion(workspace)[0] == moves[-1].after


@pytest.mark.slow
def test_concurrent_promotions_have_one_winner(released: Workspace) -> None:
    contest(released, 12)


KILLED = """
import os, signal, sys
from mlflow import MlflowClient
from fledge.core.settings import Workspace
from fledge.registry.release import promote

step, moment = int(sys.argv[1]), sys.argv[2]
calls = 0

def watched(name):
    method = getattr(MlflowClient, name)
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == step and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*args, **kwargs)
        if calls == step and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(MlflowClient, name, call)

for name in ("create_model_version", "set_prompt_alias", "delete_prompt_alias", "set_registered_model_alias",
             "set_model_version_tag"):
    watched(name)
promote("mine", 2, force=True, reason="killed", workspace=Workspace(sys.argv[3], sys.argv[4]))
print("calls", calls)
"""
OLD, NEW = (1, ["simple"]), (2, ["expert"])


def _killed(workspace: Workspace, step: int, moment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-c", KILLED, str(step), moment, workspace.tracking_uri, workspace.state]
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_killed_promotion_is_finished_by_the_next_command(released: Workspace) -> None:
    """After a kill the alias is the old or the new one; the next command finishes the move and says so."""
    moves = 1
    for step, moment in itertools.product(range(1, 6), ("before", "after")):
        assert _killed(released, step, moment).returncode == -signal.SIGKILL
        assert _champion(released)[0] == (2 if step == 5 or (step, moment) == (4, "after") else 1)
        lines: list[str] = []
        found = history(NAME, say=lines.append, workspace=released)
        if (step, moment) == (1, "before"):  # nothing was written yet
            assert (_champion(released), len(found), lines) == (OLD, moves, [])
            continue
        assert (_champion(released), len(found)) == (NEW, moves + 1)
        ended = (step, moment) == (5, "after")
        assert ["finished the interrupted move" in text for text in lines] == ([] if ended else [True])
        again: list[str] = []
        assert history(NAME, say=again.append, workspace=released) == found
        assert again == []
        rollback(NAME, workspace=released)
        assert _champion(released) == OLD
        moves += 2
    done = _killed(released, 99, "before")
    assert done.stdout.strip() == "calls 5", done.stderr
