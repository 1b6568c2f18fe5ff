"""`runs`: list the experiments in a tracking store."""

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.experiments.journal import Journal
from fledge.experiments.run_summary import RunSummary
from fledge.tracking.connection import connect

SHOWN = 20


def runs(*, limit: int = SHOWN, workspace: Workspace | None = None) -> list[RunSummary]:
    """Return the newest experiments and evaluations, at most `limit` (0: all), newest first."""
    if limit < 0:
        raise InputError(f"limit must be 0 (all) or more, not {limit}", hint=f"--limit {SHOWN}")

    from fledge.experiments._mlflow_runs import list_runs

    workspace = workspace or Workspace()
    found = list_runs(connect(workspace.tracking), limit)
    return [
        run._replace(status="interrupted")
        if run.status == "running" and Journal.is_abandoned(workspace, run.run_id)
        else run
        for run in found
    ]
