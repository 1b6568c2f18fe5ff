"""Answers reach the disk before the engine's next step ends."""

from pathlib import Path

import pytest

from fledge.core.settings import Workspace
from tests.experiments.slow_steps import journal, made, start


@pytest.mark.slow
def test_answers_are_on_disk_before_the_next_step_ends(workspace: Workspace, tmp_path: Path) -> None:
    assert start(tmp_path, workspace, "gated", "0", "64").wait(280) == 0
    assert len(journal(tmp_path)) == len(made(tmp_path)) == 64
