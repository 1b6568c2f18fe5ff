import math
import re
from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.scoring.catalogue import (
    BUILT_IN,
    choose_scorers,
    direction_of,
    find_scorer,
    is_known_metric,
    range_of,
    score,
    scorer,
)
from fledge.scoring.scorer import Response

FULL = Response(
    answer="It is a good method of learning from data.",
    question="What is machine learning, in a sentence?",
    reference="(A) It is 1 way of learning from data.",
    columns={"contains": "data", "not_contains": "magic", "regex": "learn", "json": "any", "answer_pattern": "data"},
    finish_reason="stop",
    prompt_tokens=8,
    completion_tokens=9,
    ttft_s=0.1,
    latency_s=0.5,
    cost=0.001,
    logprobs=(-0.1, -0.2),
)


def test_ranges_of_metrics() -> None:
    assert range_of("token_f1") == range_of("error_rate") == range_of("judge") == (0, 1)
    assert range_of("preference") == (-1, 1)
    assert range_of("latency_s") == range_of("latency_p95_s") == (0, math.inf)
    assert range_of("column_of_my_own") == (-math.inf, math.inf)


def test_built_in_scores_are_in_range() -> None:
    found = score(FULL, tuple(BUILT_IN.values()))
    assert found.errors == {}
    assert set(found.values) == set(BUILT_IN)
    assert all(BUILT_IN[name].low <= value <= BUILT_IN[name].high for name, value in found.values.items())


def test_a_scorer_applies_if_its_inputs_are_known() -> None:
    bare = score(Response("hello there"), choose_scorers(()))
    assert set(bare.values) == {"response_length", "response_quality", "empty", "refusal"}
    judged = score(Response("hello there", reference="hello", finish_reason="length"), choose_scorers(()))
    assert set(judged.values) - set(bare.values) == {"token_f1", "exact_match", "chrf", "similarity", "truncated"}
    columns = score(Response("hello", columns={"contains": "hell", "regex": ""}), choose_scorers(()))
    assert columns.values["contains"] == 1
    assert "matches" not in columns.values  # an empty cell asserts nothing


def test_scorers_are_chosen_by_name() -> None:
    assert {item.name for item in choose_scorers(("empty", "bleu"))} == {"empty", "bleu"}
    assert len(choose_scorers(("all",))) == sum(not item.recorded for item in BUILT_IN.values())
    assert [item.name for item in choose_scorers(("empty", "all"))].count("empty") == 1
    with pytest.raises(InputError, match="unknown scorer 'magic'"):
        choose_scorers(("magic",))


def test_directions_of_metrics() -> None:
    assert direction_of("token_f1") is True
    assert direction_of("latency_s") is False
    assert direction_of("error_rate") is False
    assert direction_of("response_length") is None
    assert is_known_metric("response_length")
    assert not is_known_metric("magic")


def test_registered_functions_are_scorers() -> None:
    scorer(polite)
    assert score(Response("please wait"), choose_scorers(("polite",))).values == {"polite": 1.0}

    @scorer(name="short", higher_is_better=False, low=0, high=1)
    def anything(answer: str, question: str) -> float:
        return len(answer) / len(question)

    assert direction_of("short") is False
    assert score(Response("ab", "abcd"), choose_scorers(("short",))).values == {"short": 0.5}
    beyond = score(Response("abcdefgh", "abcd"), choose_scorers(("short",)))
    assert beyond.values == {}
    assert "score 2 is not from 0 to 1" in beyond.errors["short"]


def polite(answer: str) -> bool:
    return "please" in answer


@pytest.mark.parametrize("result", [float("nan"), float("inf"), "high", [1]])
def test_invalid_score_is_an_error_of_its_scorer_only(result: object) -> None:
    scorer(lambda answer: result if answer else None, name="odd")  # type: ignore[arg-type,return-value]
    found = score(Response("x"), choose_scorers(("odd", "empty")))
    assert found.values == {"empty": 0.0}
    assert "ValueError" in found.errors["odd"]


def test_none_is_neither_score_nor_error() -> None:
    scorer(lambda answer: None if answer else 1.0, name="nothing")
    assert score(Response("x"), choose_scorers(("nothing",))) == ({}, {}, {})


def test_built_in_name_is_rejected() -> None:
    with pytest.raises(InputError, match="'bleu' is a name that fledge uses"):
        scorer(polite, name="bleu")


@pytest.mark.parametrize("name", ["answer", "error", "sample", "cells", "judge", "a b", "<lambda>"])
def test_reserved_and_invalid_names_are_rejected(name: str) -> None:
    with pytest.raises(InputError, match=r"fledge uses|cannot be the name"):
        scorer(len, name=name)


def test_variadic_parameters_are_not_required() -> None:
    scorer(lambda answer, *_, **__: len(answer), name="with_rest")
    assert score(FULL, choose_scorers(("with_rest",))).values == {"with_rest": len(FULL.answer)}


def test_async_function_is_rejected() -> None:
    async def slow(answer: str) -> float:
        return 1.0

    with pytest.raises(InputError, match="async"):
        scorer(slow)  # type: ignore[arg-type]


def test_duplicate_names_are_rejected(tmp_path: Path) -> None:
    for file, value in (("one.py", 1), ("two.py", 0)):
        (tmp_path / file).write_text(f"def polite(answer):\n    return {value}\n")
    with pytest.raises(InputError, match="two scorers are called 'polite'"):
        choose_scorers((f"{tmp_path / 'one.py'}:polite", f"{tmp_path / 'two.py'}:polite"))


def test_file_registers_its_scorer(tmp_path: Path) -> None:
    (tmp_path / "registers.py").write_text(
        "import fledge\n@fledge.scorer(name='rude', higher_is_better=False)\ndef rudeness(answer):\n    return 0.5\n"
    )
    found = find_scorer(f"{tmp_path / 'registers.py'}:rudeness")
    assert (found.name, found.higher_is_better) == ("rude", False)
    assert direction_of("rude") is False


def test_a_scorer_that_exits_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "quits.py").write_text("def quits(answer):\n    raise SystemExit(0)\n")
    found = score(FULL, (find_scorer(f"{tmp_path / 'quits.py'}:quits"),))
    assert found.errors == {"quits": "SystemExit: 0"}
    (tmp_path / "ends.py").write_text("import sys\nsys.exit()\n")
    with pytest.raises(InputError, match="SystemExit"):
        find_scorer(f"{tmp_path / 'ends.py'}:x")


def test_scorers_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import fledge\n"
        "def loud(answer): return float(answer.isupper())\n"
        "@fledge.scorer(higher_is_better=False)\n"
        "def rude(answer): return 1 / 0\n"
    )
    found = score(Response("HEY"), choose_scorers((f"{path}:loud", f"{path}:rude")))
    assert found.values == {"loud": 1.0}
    assert found.errors == {"rude": "ZeroDivisionError: division by zero"}
    assert direction_of("rude") is False
    with pytest.raises(InputError, match="no function 'none'"):
        find_scorer(f"{path}:none")
    with pytest.raises(InputError, match="does not exist"):
        find_scorer(f"{tmp_path / 'other.py'}:loud")
    path.with_name("broken.py").write_text("def (:")
    with pytest.raises(InputError, match="SyntaxError"):
        find_scorer(f"{path.with_name('broken.py')}:loud")
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        find_scorer("no.such.module:loud")


def test_unusual_answers_give_no_errors() -> None:
    for text in ("", "\U0001f600", "\u200f\u0645\u0631\u062d\u0628\u0627", "\x00\x1b[31m", "a" * 200_000, "\n" * 1000):
        response = Response(text, "q?", "reference", finish_reason="stop", logprobs=(-1.0,))
        assert score(response, choose_scorers(("all",))).errors == {}


def test_docs_page_matches_the_catalogue() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scorers.md").read_text(encoding="utf-8")
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", page, flags=re.MULTILINE)}
    assert set(rows) == set(BUILT_IN)
    ways = {True: "higher", False: "lower", None: "neither"}
    for name, item in BUILT_IN.items():
        _, _, span, way, runs, *_ = (cell.strip() for cell in rows[name].split("|"))
        bounds = f"{item.low:g} to {item.high:g}".replace("-inf to inf", "any number").replace("to inf", "and more")
        assert (span, way) == (bounds, ways[item.higher_is_better]), name
        assert runs == ("always" if item.recorded else "yes" if item.default else "on request"), name
        assert (item.function.__doc__ or "").count(".") >= 2, name
