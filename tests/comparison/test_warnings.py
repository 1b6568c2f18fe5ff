"""Warnings about answers that are empty, truncated, identical, echoes, or in another language."""

import pandas as pd
import pytest

from fledge.comparison.findings import ArmWarning
from fledge.comparison.warnings import find_warnings
from fledge.core.settings import Workspace
from fledge.experiments.comparison import compare

QUESTIONS = [
    "What is gradient boosting good for?",
    "Why do large ships float on water?",
    "How does a compass find the north?",
    "What makes the sky blue at noon?",
    "When do we use cross-validation?",
]
GOOD = [
    "It builds many small trees, each of which mends what the ones before it left over.",
    "They displace as much water as they weigh, so the water carries them.",
    "Its needle is a small magnet, and the earth is a large one.",
    "Short waves of light are scattered more than the long ones on their way through the air.",
    "When there is too little data to keep a large part of it for testing.",
]
SPANISH = [
    "Construye muchos árboles pequeños, y cada uno corrige los errores de los anteriores.",
    "Desplazan tanta agua como pesan, de modo que el agua los sostiene sin dificultad.",
    "La aguja es un pequeño imán, y la Tierra es otro imán mucho más grande.",
    "La luz de onda corta se dispersa más que la de onda larga cuando atraviesa el aire.",
    "Cuando hay tan pocos datos que no se puede apartar una gran parte para probar.",
]


def _table(**arms: list[str]) -> pd.DataFrame:
    rows = [
        {
            "arm": arm,
            "question": str(number),
            "text": question,
            "reference": "",
            "answer": answer.removesuffix("..."),
            "finish_reason": "length" if answer.endswith("...") else "stop",
            "error": "",
            "token_f1": float(bool(answer)),
        }
        for arm, answers in arms.items()
        for number, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("answers", "kind", "share", "text"),
    [
        (["", "\n", *GOOD[2:]], "empty", 0.4, "bad: 40% of the answers are empty"),
        ([f"{answer}..." for answer in GOOD[:2]] + GOOD[2:], "truncated", 0.4, "bad: 40% of the answers were trunc"),
        (["I am a helpful assistant."] * 5, "same", 1.0, "bad: 100% of the answers are identical"),
        (
            [f"{question.upper()} {answer}" for question, answer in zip(QUESTIONS, GOOD, strict=True)],
            "echo",
            1.0,
            "bad: 100% of the answers repeat the question",
        ),
        (
            [f"Question: {question}\nAnswer: {answer}" for question, answer in zip(QUESTIONS, GOOD, strict=True)],
            "echo",
            1.0,
            "bad: 100% of the answers repeat the question",
        ),
        (SPANISH, "language", 1.0, "bad: 100% of the answers are not in the expected language"),
    ],
)
def test_each_kind_of_warning_names_only_its_arm(answers: list[str], kind: str, share: float, text: str) -> None:
    (found,) = find_warnings(_table(good=GOOD, bad=answers))
    assert found == ArmWarning("bad", found.kind, share, found.text)
    assert found.kind == kind
    assert found.text.startswith(text)


def test_clean_answers_give_no_warning() -> None:
    assert find_warnings(_table(good=GOOD, other=list(reversed(GOOD)))) == ()
    assert find_warnings(pd.DataFrame({"arm": ["a"], "question": ["1"], "token_f1": [0.5]})) == ()


def test_language_of_the_question_with_one_word_references() -> None:
    (found,) = find_warnings(_table(good=GOOD, bad=SPANISH).assign(reference="yes"))
    assert (found.arm, found.kind) == ("bad", "language")


def test_failed_answers_do_not_count_as_empty() -> None:
    table = _table(good=GOOD)
    table.loc[:2, ["answer", "error"]] = ["", "the engine failed"]
    assert find_warnings(table) == ()


def test_identical_answers_to_one_reference_give_no_warning() -> None:
    assert find_warnings(_table(good=["yes"] * 5).assign(reference="yes")) == ()


def test_conclusion_warns_of_a_lead_over_empty_answers(workspace: Workspace) -> None:
    tables = [_table(bad=["", "", "", *GOOD[3:]], good=GOOD) for _ in range(8)]
    table = pd.concat(tables, ignore_index=True)
    table["question"] += "-" + (table.index // 10).astype(str)
    found = compare(scores=table, workspace=workspace)
    assert found.winner == "good"
    assert found.warnings == (ArmWarning("bad", "empty", 0.6, "bad: 60% of the answers are empty"),)
    assert found.conclusion() == (
        "bad: 60% of the answers are empty; on the 16 other questions the difference is +0. Winner: good"
    )
