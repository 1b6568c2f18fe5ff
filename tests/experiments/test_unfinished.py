"""An experiment that has not come to its end is said to be unfinished, not unknown."""

import pytest

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.experiments.comparison import compare
from fledge.tracking._mlflow_connection import connect


@pytest.mark.parametrize(("status", "said"), [("KILLED", "killed"), ("RUNNING", "still running, or killed")])
def test_a_comparison_of_an_unfinished_experiment_tells_how_to_go_on(
    workspace: Workspace, status: str, said: str
) -> None:
    client = connect(workspace.tracking)
    run = client.create_run("0", tags={"fledge.kind": "experiment"}).info.run_id
    if status != "RUNNING":
        client.set_terminated(run, status)
    with pytest.raises(InputError, match=rf"experiment {run} is unfinished \({said}\)") as caught:
        compare(run, workspace=workspace)
    assert caught.value.hint == f"fledge experiment --resume {run[:8]}"


def test_another_run_is_no_experiment(workspace: Workspace) -> None:
    run = connect(workspace.tracking).create_run("0").info.run_id
    for name in (run, "nosuch"):
        with pytest.raises(InputError, match="there is no run"):
            compare(name, workspace=workspace)
