"""`runs`: the experiments that a tracking store has."""

from typing import NamedTuple

from fledge.core.errors import InputError
from fledge.core.settings import Workspace

SHOWN = 20


class RunSummary(NamedTuple):
    """One experiment, or one evaluation, which is an experiment of one arm.

    `status` is MLflow's in lower case, or `interrupted` for one that MLflow has as running, whose process on this
    machine is gone; `cells` and `failed` are None until it has ended. `started` is in seconds since
    the epoch.
    """

    run_id: str
    kind: str
    status: str
    arms: tuple[str, ...]
    cells: int | None
    failed: int | None
    started: float


def runs(*, limit: int = SHOWN, workspace: Workspace | None = None) -> list[RunSummary]:
    """Return the newest experiments and evaluations, at most `limit` (0: all), newest first."""
    if limit < 0:
        raise InputError(f"limit is {limit}, but must be 0 (all) or more", hint=f"--limit {SHOWN}")

    from fledge.experiments._mlflow_runs import list_runs
    from fledge.experiments.journal import Journal
    from fledge.tracking._mlflow_connection import connect

    workspace = workspace or Workspace()
    found = list_runs(connect(workspace.tracking), limit)
    return [
        run._replace(status="interrupted")
        if run.status == "running" and Journal.is_abandoned(workspace, run.run_id)
        else run
        for run in found
    ]
