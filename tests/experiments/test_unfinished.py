"""Commands on an unfinished experiment."""

import pytest

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.experiments.comparison import compare
from fledge.tracking._mlflow_connection import connect


@pytest.mark.parametrize(("status", "reason"), [("KILLED", "killed"), ("RUNNING", "still running, or killed")])
def test_comparison_of_an_unfinished_experiment_suggests_resuming_it(
    workspace: Workspace, status: str, reason: str
) -> None:
    client = connect(workspace.tracking)
    run = client.create_run("0", tags={"fledge.kind": "experiment"}).info.run_id
    if status != "RUNNING":
        client.set_terminated(run, status)
    with pytest.raises(InputError, match=rf"experiment {run} is unfinished \({reason}\)") as caught:
        compare(run, workspace=workspace)
    assert caught.value.hint == f"fledge experiment --resume {run[:8]}"


def test_run_of_another_kind_is_not_found(workspace: Workspace) -> None:
    run = connect(workspace.tracking).create_run("0").info.run_id
    for name in (run, "nosuch"):
        with pytest.raises(InputError, match="there is no run"):
            compare(name, workspace=workspace)
