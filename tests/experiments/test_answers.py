"""The answers of an experiment: filtered, sorted, and only the wrong ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments.answers import AnswerList, answers
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.scoring.catalogue import scorer
from fledge.tracking._mlflow_connection import connect

QUESTIONS = """question,reference,topic
Where is Paris?,in France,places
Where is Rome?,in Italy,places
When was 1789?,long ago,times
"""


def _config(workspace: Workspace, tmp_path: Path, **changes: object) -> ExperimentConfig:
    (tmp_path / "qa.csv").write_text(QUESTIONS)
    config = ExperimentConfig(
        tracking_uri=workspace.tracking_uri,
        state=workspace.state,
        engine="scripted",
        questions="qa.csv",
        prompts=("simple", "expert"),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def _script(prompt: str) -> str:
    if "1789" in prompt:
        raise FledgeError("the engine stumbled")
    if "Paris" in prompt:
        return "in France"
    return "in Italy, I think, or is it in Spain?" if prompt.startswith("Question:") else "no idea at all"


def _rows(found: AnswerList) -> list[tuple[str, str]]:
    return [(row.question.split()[2], row.arm) for row in found.answers]


def test_answers_can_be_filtered_by_arm_and_topic(workspace: Workspace, tmp_path: Path) -> None:
    run = run_experiment(_config(workspace, tmp_path, samples=2), engine=ScriptedEngine(_script))
    found = answers("last", workspace=workspace)
    assert (found.run_id, found.total, found.metric, found.unscored) == (run.run_id, 12, "", 0)
    first = found.answers[0]
    assert (first.arm, first.sample, first.question, first.reference) == ("simple", 0, "Where is Paris?", "in France")
    assert (first.answer, first.finish_reason, first.topic, first.error) == ("in France", "stop", "places", "")
    assert first.scores["exact_match"] == 1.0
    assert not {"latency_s", "prompt_tokens", "sample"} & first.scores.keys()
    failed = found.answers[-1]
    assert (failed.answer, failed.error, failed.scores) == ("", "the engine stumbled", {})
    assert {row.arm for row in answers(run.run_id[:6], arm="expert", workspace=workspace).answers} == {"expert"}
    times = answers("last", topic="times", limit=3, workspace=workspace)
    assert (times.total, _rows(times)) == (4, [("1789?", "simple")] * 2 + [("1789?", "expert")])


def test_wrong_answers_score_below_one_half(workspace: Workspace, tmp_path: Path) -> None:
    run_experiment(_config(workspace, tmp_path), engine=ScriptedEngine(_script))
    found = answers("last", wrong=True, workspace=workspace)
    assert (found.metric, found.total, found.unscored) == ("token_f1", 2, 2)
    assert _rows(found) == [("Rome?", "simple"), ("Rome?", "expert")]
    assert [row.scores["token_f1"] < 0.5 for row in found.answers] == [True, True]
    run_experiment(_config(workspace, tmp_path, metric="exact_match"), engine=ScriptedEngine(lambda _: "in Italy"))
    found = answers("last", wrong=True, arm="simple", workspace=workspace)
    assert (found.metric, _rows(found)) == ("exact_match", [("Paris?", "simple"), ("1789?", "simple")])


def test_sorting_puts_the_worst_answers_first(workspace: Workspace, tmp_path: Path) -> None:
    scorer(lambda answer: float(len(answer)), name="rambling", higher_is_better=False)
    config = _config(workspace, tmp_path, scorers=("token_f1", "rambling", "response_length"))
    run_experiment(config, engine=ScriptedEngine(_script))
    f1 = [row.scores.get("token_f1") for row in answers("last", sort="token_f1", workspace=workspace).answers]
    assert f1[0] == 0
    assert f1[2:] == [1, 1, None, None]  # answers without a score come last
    longest = answers("last", sort="rambling", limit=4, workspace=workspace).answers
    assert [row.scores["rambling"] for row in longest] == [37, 14, 9, 9]
    assert answers("last", sort="latency_s", workspace=workspace).total == 6
    with pytest.raises(InputError, match="cannot sort by response_length") as caught:
        answers("last", sort="response_length", workspace=workspace)
    assert "token_f1, rambling" in caught.value.hint
    assert "response_length" not in caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "problem", "hint"),
    [
        ({"sort": "nothing"}, "the experiment has no metric 'nothing'", "token_f1, exact_match"),
        ({"arm": "nobody"}, "the experiment has no arm 'nobody'", "--arm one of: simple, expert"),
        ({"topic": "art"}, "the experiment has no topic 'art'", "--topic one of: places, times"),
        ({"limit": -1}, "limit must be 0", "--limit"),
    ],
)
def test_an_unknown_filter_is_refused_with_the_known_values(
    workspace: Workspace, tmp_path: Path, wrong: dict[str, object], problem: str, hint: str
) -> None:
    run_experiment(_config(workspace, tmp_path), engine=ScriptedEngine(_script))
    with pytest.raises(InputError, match=problem) as caught:
        answers("last", **wrong, workspace=workspace)  # type: ignore[arg-type]
    assert hint in caught.value.hint


def test_wrong_answers_need_a_score_from_0_to_1(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "open.csv").write_text("question\nWhy?\nWho?\n")
    run_experiment(_config(workspace, tmp_path, questions="open.csv"), engine=ScriptedEngine(_script))
    with pytest.raises(InputError, match="the questions have no references, and no judge graded"):
        answers("last", wrong=True, workspace=workspace)
    with pytest.raises(InputError, match="no topic 'x'") as caught:
        answers("last", topic="x", workspace=workspace)
    assert caught.value.hint == "leave out --topic"
    run_experiment(_config(workspace, tmp_path, metric="latency_s"), engine=ScriptedEngine(_script))
    with pytest.raises(InputError, match="latency_s cannot tell right answers from wrong"):
        answers("last", wrong=True, workspace=workspace)
    scorer(lambda answer: 7.0 + len(answer), name="stars")
    config = _config(workspace, tmp_path, metric="stars", scorers=("stars",))
    run_experiment(config, engine=ScriptedEngine(_script))
    with pytest.raises(InputError, match="--wrong needs a score from 0 to 1, but stars is "):
        answers("last", wrong=True, workspace=workspace)


def test_answers_of_an_unfinished_experiment_suggest_resuming_it(workspace: Workspace) -> None:
    run = connect(workspace.tracking).create_run("0", tags={"fledge.kind": "experiment"}).info.run_id
    with pytest.raises(InputError, match="is unfinished") as caught:
        answers("last", workspace=workspace)
    assert caught.value.hint == f"fledge experiment --resume {run[:8]}"
