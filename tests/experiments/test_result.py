"""Results of an experiment as data frames and as notebook tables."""

import pandas as pd
import pytest

from fledge.comparison.options import CompareOptions
from fledge.core.settings import Workspace
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments.comparison import compare
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.result import ExperimentResult
from fledge.experiments.run import run_experiment
from fledge.questions.sources import read_questions

FRAME = pd.DataFrame({"question": ["Is a < b?", "Is b > a?", "And c?"], "reference": ["a < b", "no", "maybe"]})


@pytest.fixture
def result(workspace: Workspace) -> ExperimentResult:
    config = ExperimentConfig(workspace.tracking_uri, workspace.state, prompts=("simple", "expert"))
    return run_experiment(config, questions=read_questions(FRAME), engine=ScriptedEngine(lambda _: "a < b"))


def test_result_is_a_table_of_arms(result: ExperimentResult) -> None:
    frame = result.to_pandas()
    assert list(frame["arm"]) == ["simple", "expert"]
    assert frame["token_f1"].tolist() == [arm.metrics["token_f1"] for arm in result.arms]
    assert repr(result) == f"<ExperimentResult {result.run_id[:8]}: 6 answers, 0 failed; arms: simple, expert>"
    assert result._repr_html_().count("<tr>") == 2
    assert "workspace" not in result.as_dict()


def test_answers_of_a_result_use_its_workspace(result: ExperimentResult) -> None:
    found = result.answers(sort="token_f1", limit=4)
    assert len(found) == 4
    assert [row.id for row in found] == [row.id for row in found.answers]
    frame = found.to_pandas()
    assert frame["token_f1"].tolist() == [row.scores["token_f1"] for row in found]
    assert "scores" not in frame
    assert repr(found) == f"<AnswerList {result.run_id[:8]}: 4 of 6 answers>"
    assert "a &lt; b" in found._repr_html_()
    assert "a < b" not in found._repr_html_()
    assert result.answers(arm="simple", wrong=True).to_pandas()["arm"].unique().tolist() == ["simple"]


def test_comparison_is_a_table_of_pairs(result: ExperimentResult) -> None:
    options = CompareOptions(guards=("latency_s<=+900%",))
    found = compare(result.run_id, options=options, workspace=result.workspace)
    (row,) = found.to_pandas().to_dict("records")
    (pair,) = found.pairs
    assert (row["a"], row["b"], row["verdict"]) == ("expert", "simple", pair.verdict)
    assert (row["ci_low"], row["ci_high"]) == pair.ci
    assert row["guarded"] is pair.guarded
    assert repr(found) == f"<Comparison by token_f1: {found.conclusion()}>"
    assert "<td>expert</td>" in found._repr_html_()
