"""Find a run in MLflow by a user's reference, and list runs."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from fledge.core.errors import InputError
from fledge.experiments.run_ids import LAST, LIST_RUNS, match_run
from fledge.experiments.run_summary import RunSummary

log = logging.getLogger(__name__)
PAGE = 1000
COMPARED = ("experiment",)
EXPERIMENTS = (*COMPARED, "evaluation")
NAMED = (*EXPERIMENTS, "canary")  # kinds that a prefix may refer to


def find_run(client: MlflowClient, name: str, last_of: Sequence[str] = EXPERIMENTS) -> str:
    """Return the id of a run by its id, a unique prefix, or `last`, the newest of the kinds `last_of`.

    Raises `InputError` if there is none, or if several have the prefix.
    """
    if name == LAST:
        newest = next(iter(_find_newest(client, _experiment_ids(client), 1, last_of)), None)
        if newest is None:
            raise InputError("there is no experiment yet", hint="fledge experiment")
        log.info("%s is run %s", LAST, newest.info.run_id)
        return str(newest.info.run_id)
    if re.fullmatch("[0-9a-f]{32}", name):
        found = _find_by_id(client, name)
    else:
        found = match_run(name, _find_by_prefix(client, name))
    if found is None:
        raise InputError(f"there is no run {name!r}", hint=LIST_RUNS)
    return found


def list_runs(client: MlflowClient, limit: int) -> list[RunSummary]:
    """Return the newest experiments and evaluations, at most `limit` (0: all), newest first."""
    found = _find_newest(client, _experiment_ids(client), limit)
    arms = _find_arms(client, found)
    return [_summarize(run, arms[run.info.run_id]) for run in found]


def _summarize(run: Run, arms: Sequence[str]) -> RunSummary:
    metrics = run.data.metrics
    return RunSummary(
        run_id=run.info.run_id,
        kind=run.data.tags["fledge.kind"],
        status=run.info.status.lower(),
        arms=tuple(arms),
        cells=int(metrics["cells"]) if "cells" in metrics else None,
        failed=int(metrics["failed"]) if "failed" in metrics else None,
        started=run.info.start_time / 1000,
    )


def _find_newest(
    client: MlflowClient, experiment_ids: Sequence[str], limit: int, kinds: Sequence[str] = EXPERIMENTS
) -> list[Run]:
    runs = [
        run
        for kind in kinds  # one by one, since MLflow's filters have no OR
        for run in islice(_search(client, experiment_ids, f"tags.`fledge.kind` = '{kind}'", limit), limit or None)
    ]
    runs.sort(key=lambda run: run.info.start_time, reverse=True)
    return runs[: limit or None]


def _find_arms(client: MlflowClient, runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the names of each run's arms, in order."""
    arms: dict[str, list[str]] = defaultdict(list)
    if runs:
        oldest = min(run.info.start_time for run in runs)
        where = list(dict.fromkeys(run.info.experiment_id for run in runs))
        nested = list(_search(client, where, f"tags.`fledge.kind` = 'arm' AND attributes.start_time >= {oldest}"))
        for run in reversed(nested):
            arms[run.data.tags["mlflow.parentRunId"]].append(run.data.tags["fledge.arm"])
    return arms


def _find_by_id(client: MlflowClient, run_id: str) -> str | None:
    try:
        return str(client.get_run(run_id).info.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _find_by_prefix(client: MlflowClient, prefix: str) -> list[str]:
    """Return the ids with this prefix of runs of the kinds `NAMED`."""
    if not re.fullmatch("[0-9a-f]+", prefix):
        return []
    runs = _search(client, _experiment_ids(client), f"attributes.run_id LIKE '{prefix}%'")
    return [run.info.run_id for run in runs if run.data.tags.get("fledge.kind") in NAMED]


def _experiment_ids(client: MlflowClient) -> list[str]:
    found: list[str] = []
    token = None
    while token != "":
        page = client.search_experiments(max_results=PAGE, page_token=token)
        found += [experiment.experiment_id for experiment in page]
        token = page.token or ""
    return found


def _search(client: MlflowClient, experiment_ids: Sequence[str], condition: str, limit: int = 0) -> Iterator[Run]:
    """Yield the runs that meet a condition, newest first, fetching pages on demand."""
    token = None
    while experiment_ids and token != "":
        page = client.search_runs(
            experiment_ids,
            condition,
            max_results=min(limit or PAGE, PAGE),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token or ""
