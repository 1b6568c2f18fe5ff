"""Preferences of a judge, on a real server that is asked about each pair in both orders."""

import re
from typing import Any

import pytest
from mlflow import MlflowClient

from fledge.comparison.findings import Comparison
from fledge.comparison.options import CompareOptions
from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments import _mlflow_preferences
from fledge.experiments._mlflow_experiments import load_artifact, load_comparison
from fledge.experiments.comparison import compare
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.scoring.judge import JudgeConfig
from tests.scoring.judge_server import JudgeServer, serve


def _prefer_longer(text: str) -> dict[str, Any]:
    first, second = (re.search(rf'"{name}": "(.*?)"', text) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    lengths = len(first[1]), len(second[1])
    better = "tie" if lengths[0] == lengths[1] else "first" if lengths[0] > lengths[1] else "second"
    return {"result": better, "rationale": "the longer one"}


@pytest.fixture
def run_id(workspace: Workspace) -> str:
    """Run an experiment of 40 questions; arm 2 gives longer answers, arm 3 the same as arm 1."""

    def script(prompt: str) -> str:
        return "An answer that is long indeed" if "expert" in prompt else "An answer"

    settings = {
        "prompts": ("simple", "expert", "educational"),
        "limit": 40,
        "tracking_uri": workspace.tracking_uri,
        "metric": "preference",
    }
    return run_experiment(ExperimentConfig.load(settings), engine=ScriptedEngine(script)).run_id


def _compare(workspace: Workspace, run_id: str, server: JudgeServer, **options: Any) -> Comparison:
    judging = JudgeConfig(judge=server.url, judge_retries=1)
    return compare(run_id, options=CompareOptions(**options), judging=judging, workspace=workspace)


def test_preferences_of_a_judge_decide_a_comparison(workspace: Workspace, run_id: str) -> None:
    progress: list[tuple[int, int, str]] = []
    with serve(JudgeServer(_prefer_longer)) as server:
        judging = JudgeConfig(judge=server.url)
        found = compare(run_id, judging=judging, progress=lambda *what: progress.append(what), workspace=workspace)
        asked = len(server.bodies)
        again = compare(
            run_id, judging=judging, options=CompareOptions(guards=("latency_s<=+900%",)), workspace=workspace
        )
        assert len(server.bodies) == asked == 2 * 40  # in both orders; pairs of the same text are skipped
    assert progress[-1] == (40, 40, "pairs judged")
    by_arm = {pair.a: pair for pair in found.pairs}
    assert (found.metric, found.winner, found.exploratory) == ("preference", "expert", False)
    assert (by_arm["expert"].verdict, by_arm["expert"].difference) == ("better", 1.0)
    assert (by_arm["educational"].verdict, by_arm["educational"].ties) == ("inconclusive", 40)
    assert again.pairs[0].p == found.pairs[0].p
    assert load_comparison(MlflowClient(workspace.tracking_uri), run_id)["metric"] == "preference"
    (artifact,) = MlflowClient(workspace.tracking_uri).list_artifacts(run_id, "preferences")
    content = load_artifact(MlflowClient(workspace.tracking_uri), run_id, artifact.path, hint="")
    assert len(content["preferences"]) == 40
    assert content["preferences"][0]["rationale"] == "the longer one"
    with pytest.raises(InputError, match="--metric preference needs a judge"):
        compare(run_id, workspace=workspace)
    notes = " ".join(found.notes)
    assert server.url in notes
    assert "asked 80 times" in notes
    assert "40 pairs of the same text" in notes


def test_judgements_survive_a_failure_of_the_tracking_server(
    workspace: Workspace, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise FledgeError("the tracking server does not answer")

    with serve(JudgeServer(_prefer_longer)) as server:
        with monkeypatch.context() as patched:
            patched.setattr(_mlflow_preferences, "_record", fail)
            with pytest.raises(FledgeError, match="does not answer"):
                _compare(workspace, run_id, server)
        asked = len(server.bodies)
        assert _compare(workspace, run_id, server).winner == "expert"
        assert len(server.bodies) == asked == 2 * 40


def test_another_baseline_reuses_all_judgements(workspace: Workspace, run_id: str) -> None:
    with serve(JudgeServer(_prefer_longer)) as server:
        first = _compare(workspace, run_id, server)
        asked = len(server.bodies)
        swapped = _compare(workspace, run_id, server, baseline="expert")
        assert len(server.bodies) == asked
    assert first.pairs[0].difference == 1
    assert {pair.difference for pair in swapped.pairs} == {-1}


def test_another_criterion_is_judged_again(workspace: Workspace, run_id: str) -> None:
    with serve(JudgeServer(_prefer_longer)) as server:
        _compare(workspace, run_id, server)
        compare(run_id, judging=JudgeConfig(judge=server.url, judge_criteria="Which is politer?"), workspace=workspace)
        assert len(server.bodies) == 160
        assert "Which is politer?" in str(server.bodies[-1])
        assert "Which is politer?" not in str(server.bodies[0])


def test_broken_judgements_are_missing_and_requested_again(workspace: Workspace, run_id: str) -> None:
    with serve(JudgeServer(_prefer_longer, broken=0.4, seed=3)) as server:
        found = _compare(workspace, run_id, server)
        missing = 40 - next(pair for pair in found.pairs if pair.a == "expert").questions
        assert 0 < missing < 40
        assert f"{missing} judgements are missing" in " ".join(found.notes)
        assert f"{missing} answers of expert without preference" in " ".join(found.notes)
        server.broken, before = 0.0, len(server.bodies)
        found = _compare(workspace, run_id, server)
        assert len(server.bodies) == before + 2 * missing
    assert next(pair for pair in found.pairs if pair.a == "expert").questions == 40


def test_position_bias_of_a_judge_is_inconclusive(workspace: Workspace, run_id: str) -> None:
    with serve(JudgeServer(lambda _: {"result": "first", "rationale": "it came first"})) as server:
        found = _compare(workspace, run_id, server)
    assert found.winner is None
    assert {pair.verdict for pair in found.pairs} == {"inconclusive"}
    assert "40 of 40 pairs were judged differently when swapped" in " ".join(found.notes)


def test_judge_without_usable_answers_is_an_error(workspace: Workspace, run_id: str) -> None:
    with (
        serve(JudgeServer(_prefer_longer, broken=1.0, kinds=("prose",))) as server,
        pytest.raises(FledgeError, match="no judgement on any of 40 pairs: the judge gave no judgement in 2 answers"),
    ):
        _compare(workspace, run_id, server)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("with --judge the metric is preference", {"options": CompareOptions(metric="token_f1")}),
    ("compares with the baseline", {"options": CompareOptions(all_pairs=True)}),
    ("needs answers", {"run_id": None, "scores": "scores.csv"}),
]


@pytest.mark.parametrize(("message", "settings"), BAD)
def test_options_that_exclude_a_judge_are_refused(workspace: Workspace, message: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        compare(
            **{"run_id": "run", "judging": JudgeConfig(judge="http://127.0.0.1:9/v1#x"), **settings},
            workspace=workspace,
        )
