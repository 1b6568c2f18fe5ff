"""The list of experiments, and finding one of them, on a real store."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.experiments._mlflow_runs import find_run
from fledge.experiments.comparison import compare
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.evaluation import evaluate
from fledge.experiments.run import run_experiment
from fledge.experiments.runs import runs
from fledge.tracking._mlflow_connection import connect


def _config(workspace: Workspace, **changes: object) -> ExperimentConfig:
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, engine="scripted", limit=2)
    return replace(config, **changes)  # type: ignore[arg-type]


def test_experiments_and_evaluations_are_listed_newest_first(workspace: Workspace) -> None:
    assert runs(workspace=workspace) == []
    first = run_experiment(_config(workspace, prompts=("simple", "expert")))
    second = run_experiment(_config(workspace, prompts=("expert",), experiment_name="another"))
    settings = {"tracking_uri": workspace.tracking_uri, "state": workspace.state, "limit": 2, "engine": "scripted"}
    third = evaluate("embedded", settings=settings)
    client = connect(workspace.tracking)
    killed = client.create_run("0", tags={"fledge.kind": "experiment"}).info.run_id
    client.set_terminated(killed, "KILLED")
    found = runs(workspace=workspace)
    assert [(run.run_id, run.kind, run.status, run.arms, run.cells, run.failed) for run in found] == [
        (killed, "experiment", "killed", (), None, None),
        (third.run_id, "evaluation", "finished", ("simple",), 2, 0),
        (second.run_id, "experiment", "finished", ("expert",), 2, 0),
        (first.run_id, "experiment", "finished", ("simple", "expert"), 4, 0),
    ]
    assert found[0].started > found[3].started > 1e9
    assert [run.run_id for run in runs(limit=2, workspace=workspace)] == [killed, third.run_id]
    with pytest.raises(InputError, match="limit must be 0"):
        runs(limit=-1, workspace=workspace)


def test_run_is_found_by_prefix_or_as_the_last(workspace: Workspace) -> None:
    client = connect(workspace.tracking)
    with pytest.raises(InputError, match="there is no experiment yet"):
        find_run(client, "last")
    run_id = run_experiment(_config(workspace, prompts=("simple", "expert"))).run_id
    canary = client.create_run("0", tags={"fledge.kind": "canary"}).info.run_id
    for name in ("last", run_id, run_id[:8]):
        assert find_run(client, name) == run_id
        assert compare(name, workspace=workspace).metric == "token_f1"
    assert find_run(client, canary[:8]) == canary
    for name in ("nothing", "f" * 32, run_id[:3], f"{run_id[:5]}%", "", f"{run_id}0"):
        with pytest.raises(InputError, match=f"there is no run '{name}'") as caught:
            find_run(client, name)
        assert "fledge runs" in caught.value.hint


def test_prefix_of_several_runs_or_of_an_arm_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    client = connect(workspace.tracking)
    kinds = {"abcd" + "1" * 28: "experiment", "abcd" + "2" * 28: "evaluation", "cdef" + "3" * 28: "arm"}
    store = sqlite3.connect(tmp_path / "mlflow.db")
    for run_id, kind in kinds.items():
        created = client.create_run("0", tags={"fledge.kind": kind}).info.run_id
        for table in ("runs", "tags"):
            store.execute(f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", (run_id, created))  # noqa: S608
        store.commit()
    store.close()
    with pytest.raises(InputError, match=r"2 runs begin with 'abcd': abcd1+, abcd2+"):
        find_run(client, "abcd")
    assert find_run(client, "abcd2") == "abcd" + "2" * 28
    with pytest.raises(InputError, match="there is no run 'cdef'"):
        find_run(client, "cdef")
