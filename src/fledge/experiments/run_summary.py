"""What a list of runs says of one of them."""

from typing import NamedTuple


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
