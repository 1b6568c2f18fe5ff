"""A judge on a real server: invalid judgements are retried, counted, and never scored."""

import re
import subprocess
import sys
import time
from typing import Any

import pytest

from fledge.core.errors import FledgeError
from fledge.scoring._mlflow_judge import open_judge
from fledge.scoring.judge import (
    GIVE_UP,
    Judge,
    JudgeConfig,
    JudgeError,
    Judgement,
    NoAnswerError,
    NotUnderstoodError,
    same_model,
)
from fledge.scoring.scorer import Grade
from tests.scoring.judge_server import BROKEN, JudgeServer, serve


def _grade(text: str) -> dict[str, Any]:
    """A judge that gives 5 to a long answer and 1 to a short one."""
    answer = re.search(r'"answer": "(.*?)"', text)
    assert answer is not None
    return {"result": 5 if len(answer[1]) > 10 else 1, "rationale": "by its length"}


def _longer(text: str) -> dict[str, Any]:
    first, second = (re.search(rf'"{name}": "(.*?)"', text) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    lengths = len(first[1]), len(second[1])
    better = "tie" if lengths[0] == lengths[1] else "first" if lengths[0] > lengths[1] else "second"
    return {"result": better, "rationale": "the longer one"}


def test_grades_are_scaled_with_rationales() -> None:
    with serve(JudgeServer(_grade)) as server:
        judge = open_judge(JudgeConfig(judge=server.url))
        assert judge.grade("Why?", "because it is so", "because") == Grade(1.0, "by its length")
        assert judge.grade("Why?", "no").value == 0.0
        assert judge.counts == (2, 0, 0, 0)
        text = str(server.bodies[0]["messages"])
    assert "Why?" in text
    assert "because it is so" in text
    assert "expected_response" in text
    assert server.bodies[0]["model"] == "judge"
    assert server.bodies[0]["temperature"] == 0


@pytest.mark.parametrize("kind", BROKEN)
def test_invalid_judgements_give_no_grade(kind: str) -> None:
    with serve(JudgeServer(_grade, broken=1.0, kinds=(kind,))) as server:
        judge = open_judge(JudgeConfig(judge=server.url, judge_retries=2))
        with pytest.raises(JudgeError, match="no judgement in 3 answers"):
            judge.grade("Why?", "because it is so")
        assert judge.counts == (3, 2, 1, 0)
    assert "JSON object alone" in str(server.bodies[1]["messages"])
    assert "JSON object alone" not in str(server.bodies[0]["messages"])


def test_retries_with_30_percent_invalid_answers() -> None:
    with serve(JudgeServer(_grade, broken=0.3, seed=1)) as server:
        judge = open_judge(JudgeConfig(judge=server.url, judge_retries=2))
        graded, failed = 0, 0
        for number in range(200):
            good = number % 2 == 0
            try:
                found = judge.grade("Why?", "because it is so" if good else "no")
            except JudgeError:
                failed += 1
            else:
                assert found.value == float(good)
                graded += 1
        counts = judge.counts
    broken = sum(count for kind, count in server.broke.items() if kind)
    assert broken > 50
    assert counts.asked == len(server.bodies)
    assert counts.failed == failed == 200 - graded
    assert counts.retried == broken - failed  # every broken answer was retried, except the last of each failure
    assert failed < 20


def test_consistent_preference_counts() -> None:
    with serve(JudgeServer(_longer)) as server:
        judge = open_judge(JudgeConfig(judge=server.url))
        assert judge.prefer("Why?", "because it is so", "no").value == 1
        assert judge.prefer("Why?", "no", "because it is so").value == -1
        assert judge.prefer("Why?", "yes", "but").value == 0
        assert judge.counts == (6, 0, 0, 0)


def test_position_bias_gives_a_tie() -> None:
    with serve(JudgeServer(lambda _: {"result": "first", "rationale": "it came first"})) as server:
        judge = open_judge(JudgeConfig(judge=server.url))
        found = judge.prefer("Why?", "because", "no")
        assert (found.value, found.agreed) == (0, False)
        assert judge.counts.inconsistent == 1


def test_timeout_and_refusal_are_errors() -> None:
    with serve(JudgeServer(_grade, hang_s=90.0)) as server:
        judge = open_judge(JudgeConfig(judge=server.url, judge_timeout=0.5))
        started = time.monotonic()
        with pytest.raises(JudgeError, match=r"took more than 0\.5 s"):
            judge.grade("Why?", "because")
        assert time.monotonic() - started < 60
    with serve(JudgeServer(_grade, status=401)) as server:
        judge = open_judge(JudgeConfig(judge=server.url))
        with pytest.raises(JudgeError, match=r"does not answer: .*no"):
            judge.grade("Why?", "because")
        assert judge.counts == (1, 0, 1, 0)


def test_unreachable_judge_is_an_error(port: int) -> None:
    with pytest.raises(FledgeError, match=f"nothing answers at http://127.0.0.1:{port}"):
        open_judge(JudgeConfig(judge=f"http://127.0.0.1:{port}/v1#none", judge_timeout=1.0))


class Scripted:
    """A judge without a server, with scripted output."""

    def __init__(self, *said: Any) -> None:
        self.said = list(said)
        self.answered = 0

    def grade(self, *_: Any, again: bool) -> Judgement:
        assert again == bool(self.answered)
        value = self.said.pop(0)
        self.answered += 1
        if isinstance(value, Exception):
            raise value
        return Judgement(value, "")

    prefer = grade


@pytest.mark.parametrize("value", [0, 6, 3.5, True, None, "three", "", [3], {"a": 1}, float("nan")])
def test_invalid_grades_are_retried(value: Any) -> None:
    judge = Judge(Scripted(value, 3), retries=1)
    assert judge.grade("q", "a").value == 0.5
    assert judge.counts == (2, 1, 0, 0)


@pytest.mark.parametrize("value", [3, "3", 3.0, " 3 ", "3.0"])
def test_valid_grades_are_accepted(value: Any) -> None:
    assert Judge(Scripted(value)).grade("q", "a").value == 0.5


def test_invalid_judgement_is_retried_and_refusal_is_not() -> None:
    assert Judge(Scripted(NotUnderstoodError("?"), 5)).grade("q", "a").value == 1.0
    with pytest.raises(JudgeError, match="no"):
        Judge(Scripted(NoAnswerError("no"), 5)).grade("q", "a")


def test_judge_is_abandoned_after_five_failures() -> None:
    class Silent:
        def grade(self, *_: Any, **__: Any) -> Judgement:
            raise NoAnswerError("nobody there")

        prefer = grade

    judge = Judge(Silent())
    for _ in range(20):
        with pytest.raises(JudgeError):
            judge.grade("q", "a")
    assert judge.counts == (GIVE_UP, 0, 20, 0)


@pytest.mark.parametrize(
    ("judge", "model", "same"),
    [
        ("http://127.0.0.1:8000/v1#a", "http://127.0.0.1:8000/v1#a", True),
        ("http://127.0.0.1:8000/v1#org/name", "org/name", True),
        ("http://127.0.0.1:8000/v1#a", "http://127.0.0.1:8000/v1#b", False),
        ("http://127.0.0.1:8000/v1#a", "embedded", False),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/", True),
    ],
)
def test_warning_if_a_model_judges_itself(judge: str, model: str, same: bool) -> None:
    assert bool(same_model(judge, model)) == same


@pytest.mark.parametrize(
    "bad",
    [
        {"judge": "gpt"},
        {"judge": "http://u:p@h/v1"},
        {"judge": "http://key@h/v1"},
        {"judge": "http://h/v1?key=x"},
        {"judge_retries": -1},
        {"judge_criteria": "{{ x }}"},
    ],
)
def test_invalid_settings_are_rejected(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"judge|retries"):
        JudgeConfig(**bad)


def test_only_the_judge_is_contacted() -> None:
    """Without the setting MLflow fetches model prices from GitHub."""
    program = (
        "import sys; asked = set()\n"
        "sys.addaudithook(lambda event, given: asked.add(given[0]) if event == 'socket.getaddrinfo' else None)\n"
        "from fledge.scoring._mlflow_judge import open_judge\n"
        "from fledge.scoring.judge import JudgeConfig\n"
        "open_judge(JudgeConfig(judge=sys.argv[1])).grade('Why?', 'because it is so')\n"
        "assert asked == {'127.0.0.1'}, asked\n"
    )
    with serve(JudgeServer(_grade)) as server:
        done = subprocess.run([sys.executable, "-c", program, server.url], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
