"""Canary results as MLflow runs: a passed canary is evidence for its release."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fledge.releases._mlflow_releases import DIGEST_TAG
from fledge.tracking._mlflow_connection import connect, experiment_id, run_within

KIND = "canary"
RESULT_TAG = "fledge.canary"


def record_canary(
    tracking_uri: str, name: str, version: int, passed: bool, reason: str, figures: Sequence[Mapping[str, Any]]
) -> str:
    """Record the result of a canary, with the guards' last values, in a new run and return the run's id."""
    client = connect(tracking_uri)
    digest = client.get_model_version(name, str(version)).tags.get(DIGEST_TAG, "")
    result = {"passed": passed, "reason": reason, "digest": digest, "version": version}
    tags = {"fledge.kind": KIND, RESULT_TAG: json.dumps(result)}
    with run_within(client, experiment_id(client, f"{name}-endpoint"), f"canary-{name}-{version}", tags) as run:
        client.log_dict(run.run_id, {**result, "guards": list(figures)}, "canary.json")
    return str(run.run_id)


def load_canary(client: MlflowClient, run_id: str) -> dict[str, Any] | None:
    """Return what `record_canary` stored: `passed`, `reason` and the release's `digest`; None if not a canary run."""
    try:
        result = client.get_run(run_id).data.tags.get(RESULT_TAG)
    except MlflowException:  # the run does not exist; the caller reports that
        return None
    return json.loads(result) if result else None
