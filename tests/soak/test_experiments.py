"""Long fault tests of experiments; tests/experiments/test_resume.py has short ones."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fledge.core.settings import Workspace
from fledge.experiments._mlflow_experiments import load_table
from tests.experiments.tracking_server import TrackingServer, all_traces

CELLS = 600
KILLS = 20


def _fledge(folder: Path, uri: str, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "fledge", "experiment", "--tracking-uri", uri, *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(command, cwd=folder, env=clean, stdout=output, stderr=output)


def _answers(folder: Path) -> list[str]:
    """Return the keys of the answers on disk of the only experiment in a folder."""
    paths = list((folder / ".fledge" / "experiments").glob("*/answers.jsonl"))
    content = paths[0].read_bytes() if paths else b""
    return [json.loads(line)["key"] for line in content[: content.rfind(b"\n") + 1].splitlines()]


def _check(client: MlflowClient, folder: Path) -> None:
    """Check that each answer and trace exists once."""
    (own,) = (folder / ".fledge" / "experiments").iterdir()
    keys = _answers(folder)
    assert len(keys) == CELLS
    assert max(Counter(keys).values()) == 1  # no duplicates
    run = client.get_run(own.name)
    assert (run.info.status, run.data.metrics["cells"], run.data.metrics["failed"]) == ("FINISHED", CELLS, 0)
    table = load_table(client, own.name)
    assert len(table) == len(table.groupby(["question_id", "arm", "sample"])) == CELLS  # none lost
    traces = all_traces(client, own.name)
    assert len(traces) == len(set(traces)) == CELLS  # no duplicates
    assert set(traces) == set(table["trace_id"])


@pytest.mark.soak
def test_experiment_killed_twenty_times_is_complete(workspace: Workspace, tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("FLEDGE_SOAK_SEED", "1"))
    arguments = ["--samples", "3", "--limit", "50", "--concurrency", "8"]
    moments = []
    for _ in range(KILLS):
        process = _fledge(tmp_path, workspace.tracking, *arguments)
        before = len(_answers(tmp_path))
        target = min(CELLS, before + rng.randrange(1, 2 * (CELLS - before) // KILLS + 2))
        while len(_answers(tmp_path)) < target and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.random() * 3 if before == CELLS else rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append(len(_answers(tmp_path)))
        (own,) = (tmp_path / ".fledge" / "experiments").iterdir()
        arguments = ["--resume", own.name]
    print(f"answers on disk at each kill: {moments}")
    assert _fledge(tmp_path, workspace.tracking, *arguments).wait(600) == 0
    _check(MlflowClient(workspace.tracking), tmp_path)


@pytest.mark.soak
def test_experiment_survives_a_minute_without_the_tracking_server(
    workspace: Workspace, tmp_path: Path, port: int
) -> None:
    server = TrackingServer(tmp_path, port)
    try:
        process = _fledge(tmp_path, server.url, "--samples", "3", "--limit", "50", "--concurrency", "4")
        while len(_answers(tmp_path)) < CELLS // 3:
            assert process.poll() is None
            time.sleep(0.01)
        server.stop()
        print(f"server stopped at {len(_answers(tmp_path))} answers")
        time.sleep(60)
        print(f"server started at {len(_answers(tmp_path))} answers")
        server.start()
        assert process.wait(600) == 0
        _check(MlflowClient(server.url), tmp_path)
    finally:
        server.close()
