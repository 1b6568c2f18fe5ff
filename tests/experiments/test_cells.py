"""Answers and errors of cells."""

import threading
import time
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.experiments.arms import Arm
from fledge.experiments.cell_runner import ask
from fledge.experiments.cells import Answer, Cell, order_cells
from fledge.experiments.chain_asker import ChainAsker
from fledge.questions.question_set import Question
from fledge.scoring.catalogue import choose_scorers
from tests.conftest import PATIENCE_S

ARM = Arm("a", None, "", GenerationParams(), chain="mine")


def _cells(count: int = 1, question: str = "Why?", reference: str | None = None) -> list[Cell]:
    return [Cell("a", Question(str(place), question, reference), 0, str(place)) for place in range(count)]


def _ask(work: Any, cells: list[Cell], **options: Any) -> list[Answer]:
    chain = work if hasattr(work, "invoke") else RunnableLambda(work)
    options = {"max_concurrency": 4, "scorers": choose_scorers(()), **options}
    return list(ask(cells, {("a", 0): ChainAsker(chain)}, lambda _: None, **options))


def test_cells_are_shuffled_by_the_seed() -> None:
    arms = [ARM, Arm("b", None, "", GenerationParams(), chain="other")]
    questions = [Question(str(place), "Why?") for place in range(50)]
    first = order_cells(arms, questions, 2, 7)
    assert len(first) == len({cell.key for cell in first}) == 200
    assert first == order_cells(arms, questions, 2, 7)
    assert first != order_cells(arms, questions, 2, 8)
    half = [cell.arm for cell in first[:100]]
    assert 30 < half.count("a") < 70


def test_answer_is_stored_before_it_is_yielded() -> None:
    stored: list[str] = []
    chains = {("a", 0): ChainAsker(RunnableLambda(lambda values: values["question"].upper()))}
    for answer in ask(_cells(5), chains, lambda answer: stored.append(answer.key), max_concurrency=2):
        assert answer.key in stored
        assert answer.text == "WHY?"
    assert len(stored) == 5


def test_concurrency_is_limited() -> None:
    lock, now, most, together = threading.Lock(), 0, 0, threading.Barrier(3)

    def work(_values: dict[str, str]) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(PATIENCE_S)
        with lock:
            now -= 1
        return "yes"

    _ask(work, _cells(12), max_concurrency=3)
    assert most == 3
    most, together = 0, threading.Barrier(1)
    _ask(work, _cells(3), max_concurrency=1)
    assert most == 1


@pytest.mark.parametrize(
    ("error", "final"), [(InputError("too long"), True), (FledgeError("refused"), False), (ZeroDivisionError(), False)]
)
def test_error_of_a_chain_is_recorded_in_its_answer(error: Exception, final: bool) -> None:
    def work(_values: dict[str, str]) -> str:
        raise error

    (answer,) = _ask(work, _cells())
    assert answer.error == (str(error) or "ZeroDivisionError")
    assert (answer.final, answer.text, answer.scores, answer.latency_s) == (final, "", {}, None)


def test_characters_that_databases_reject_are_replaced() -> None:
    (answer,) = _ask(lambda _: "a\0b\ud800c \u05d0\U0001f600", _cells())
    assert answer.text == "a\ufffdb?c \u05d0\U0001f600"


def test_empty_answer_is_an_answer() -> None:
    (answer,) = _ask(lambda _: "", _cells(reference="Because."))
    assert (answer.text, answer.error, answer.scores["empty"], answer.scores["token_f1"]) == ("", "", 1.0, 0.0)


def test_answer_of_a_chat_chain_has_prompt_and_token_counts() -> None:
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}

    class Model(FakeListChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            result = super()._generate(*args, **kwargs)
            result.generations[0].message = AIMessage("Indeed so.", usage_metadata=usage)
            return result

    chain = ChatPromptTemplate([("system", "Be brief."), ("human", "{question}")]) | Model(responses=["x"])
    (answer,) = _ask(chain, _cells())
    assert answer.text == "Indeed so."
    assert answer.prompt_text == "system: Be brief.\n\nhuman: Why?"
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 2)
    assert answer.started_ns <= answer.filled_ns <= answer.submitted_ns <= answer.generated_ns <= answer.ended_ns


def test_only_completed_cells_are_stored_after_an_interrupt() -> None:
    stored: list[Answer] = []
    closed = threading.Event()

    def work(values: dict[str, str]) -> str:
        if values["question"] == "Why?":
            closed.wait(PATIENCE_S)
            raise FledgeError("the engine was closed")
        return "yes"

    cells = [
        *_cells(1, question="Who?"),
        *(Cell("a", Question(f"q{place}", "Why?"), 0, f"k{place}") for place in range(3)),
    ]
    answers = ask(cells, {("a", 0): ChainAsker(RunnableLambda(work))}, stored.append, max_concurrency=4)
    assert next(answers).text == "yes"
    answers.close()
    closed.set()
    time.sleep(0.2)
    assert [answer.text for answer in stored] == ["yes"]
