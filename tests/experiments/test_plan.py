"""Pre-registered settings of a comparison."""

from dataclasses import replace
from pathlib import Path

import pytest

from fledge.comparison.options import CompareOptions
from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.experiments.comparison import compare
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.scoring import catalogue


def _config(workspace: Workspace, **changes: object) -> ExperimentConfig:
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, engine="scripted", limit=5)
    return replace(config, **changes)  # type: ignore[arg-type]


def test_direction_of_a_scorer_is_pre_registered(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rude.py").write_text(
        "import fledge\n@fledge.scorer(higher_is_better=False)\ndef rude(answer): return float(len(answer))\n"
    )
    result = run_experiment(_config(workspace, scorers=("rude.py:rude",), metric="rude"))
    monkeypatch.setattr(catalogue, "_user_scorers", {})  # as in another process
    found = compare(result.run_id, workspace=workspace)
    assert (found.metric, found.higher_is_better, found.exploratory) == ("rude", False, False)
    with pytest.raises(InputError, match="rude is better when lower"):
        compare(result.run_id, options=CompareOptions(higher_is_better=True), workspace=workspace)


@pytest.mark.parametrize(("metric", "hint"), [("rouge_l", "--scorers rouge_l"), ("judge", "--judge"), ("tokenf1", "")])
def test_metric_without_a_scorer_is_refused(workspace: Workspace, metric: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"--metric {metric} is not scored in this experiment") as caught:
        run_experiment(_config(workspace, metric=metric))
    assert hint in caught.value.hint
    run_experiment(_config(workspace, metric="latency_s", limit=1))
