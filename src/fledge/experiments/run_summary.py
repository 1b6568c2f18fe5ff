"""An entry in a list of runs."""

from typing import NamedTuple


class RunSummary(NamedTuple):
    """An experiment, or an evaluation, which is an experiment of one arm.

    `status` is MLflow's in lower case, or `interrupted` if MLflow's is RUNNING but the process on this machine has
    ended; `cells` and `failed` are None until the experiment ends. `started` is in seconds since the epoch.
    """

    run_id: str
    kind: str
    status: str
    arms: tuple[str, ...]
    cells: int | None
    failed: int | None
    started: float
