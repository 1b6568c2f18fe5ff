"""Asking cells: their chains run side by side, and each answer is scored and kept as it comes."""

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable

from fledge.core.api_key import without_key
from fledge.core.errors import InputError
from fledge.engines.engine import Completion, EngineGoneError
from fledge.experiments.cells import Answer, Cell
from fledge.questions.question_set import Question
from fledge.scoring.catalogue import AnswerScores, score
from fledge.scoring.scorer import Response, Scorer

Chain = Runnable[Any, Any]
# Runs the chain of a cell within its trace, and returns what it gave and the spans seen.
Traced = Callable[[Cell, Callable[[], Any]], tuple[Any, list[dict[str, Any]]]]


def ask(
    cells: Sequence[Cell],
    chains: Mapping[tuple[str, int], Chain],
    keep: Callable[[Answer], None],
    *,
    max_concurrency: int,
    scorers: Sequence[Scorer] = (),
    graders: Sequence[Scorer] = (),
    ungraded: Mapping[str, Answer] = MappingProxyType({}),
    traced: Traced = lambda _, run: (run(), []),
) -> Generator[Answer]:
    """Answers as they come; `chains` holds one chain for each arm and sample; at most `max_concurrency` cells are
    asked at the same time.

    `keep` gets each answer at once, in the thread in which it came: when it returns, the answer cannot be lost. Where
    there are `graders`, which take long and may fail, it gets it before them and once more after. `ungraded` are
    answers, by key, of cells that have only this before them.
    """
    stopped = threading.Event()

    def one(cell: Cell) -> Answer | None:
        if cell.key in ungraded:
            answer = _graded(replace(ungraded[cell.key], attempt=cell.attempt), cell.question, graders)
        else:
            answer = _ask(cell, chains[cell.arm, cell.sample], scorers, traced)
            if graders and not answer.error:
                keep(replace(answer, graded=False))
                answer = replace(_graded(answer, cell.question, graders), ended_ns=time.time_ns())
        if (answer.error or answer.score_errors) and stopped.is_set():  # broken off, which says nothing of the cell
            return None
        keep(answer)
        return answer

    pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="cell")
    try:
        for future in as_completed([pool.submit(one, cell) for cell in cells]):
            answer = future.result()
            if answer is not None:
                yield answer
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


class _Listener(BaseCallbackHandler):
    """Hears what the models of one chain are asked and what they tell of their answers."""

    raise_error = False

    def __init__(self) -> None:
        self.prompt_text = ""
        self.filled_ns = 0
        self.completion: Completion | None = None
        self.prompt_tokens = self.completion_tokens = 0

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **_: Any) -> None:
        self._started(prompts[0])

    def on_chat_model_start(self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **_: Any) -> None:
        self._started("\n\n".join(f"{message.type}: {message.text}" for message in messages[0]))

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        generation = response.generations[0][0]
        self.completion = (generation.generation_info or {}).get("completion")
        usage = getattr(getattr(generation, "message", None), "usage_metadata", None) or {}
        self.prompt_tokens += usage.get("input_tokens", 0)
        self.completion_tokens += usage.get("output_tokens", 0)

    def _started(self, prompt: str) -> None:
        if not self.filled_ns:
            self.prompt_text, self.filled_ns = prompt, time.time_ns()


def _ask(cell: Cell, chain: Chain, scorers: Sequence[Scorer], traced: Traced) -> Answer:
    listener = _Listener()
    text = error = ""
    final = True
    steps: list[dict[str, Any]] = []
    started = time.time_ns()
    try:
        found, steps = traced(cell, lambda: chain.invoke(cell.question.variables, {"callbacks": [listener]}))
        text = _plain(found)
    except EngineGoneError:  # it says nothing of this cell, and comes to all others alike
        raise
    except Exception as problem:  # noqa: BLE001 (a chain may raise anything; it stays with its cell)
        error = _storable(without_key(str(problem)) or type(problem).__name__)
        final = isinstance(problem, InputError)
    arrived = time.time_ns()
    filled = listener.filled_ns or started
    answer = Answer(
        key=cell.key,
        attempt=cell.attempt,
        arm=cell.arm,
        question_id=cell.question.id,
        sample=cell.sample,
        prompt_text=_storable(listener.prompt_text),
        text=text,
        error=error,
        final=final,
        started_ns=started,
        filled_ns=filled,
        submitted_ns=filled,
        generated_ns=arrived,
        ended_ns=arrived,
        latency_s=None if error else (arrived - started) / 1e9,
        steps=steps,
    )
    answer = _with_figures(answer, listener)
    return answer if error else _scored(answer, cell.question, listener, scorers)


def _scored(answer: Answer, question: Question, listener: _Listener, scorers: Sequence[Scorer]) -> Answer:
    response = _response(answer, question, listener.completion.logprobs if listener.completion else ())
    scored = _with_scores(answer, score(response, scorers))
    return replace(scored, ended_ns=max(answer.ended_ns, time.time_ns()))


def score_again(answer: Answer, question: Question, scorers: Sequence[Scorer]) -> Answer:
    """The answer with the scores of these scorers and no others."""
    bare = replace(answer, scores={}, score_errors={}, rationales={})
    return _with_scores(bare, score(_response(answer, question), scorers))


def _graded(answer: Answer, question: Question, graders: Sequence[Scorer]) -> Answer:
    return replace(_with_scores(answer, score(_response(answer, question), graders)), graded=True)


def _with_scores(answer: Answer, found: AnswerScores) -> Answer:
    """The answer with further scores; one that is there at last has no error any more."""
    errors = {name: text for name, text in answer.score_errors.items() if name not in found.values}
    return replace(
        answer,
        scores={**answer.scores, **found.values},
        score_errors={**errors, **{name: _storable(text) for name, text in found.errors.items()}},
        rationales={**answer.rationales, **{name: _storable(text) for name, text in found.rationales.items()}},
    )


def _response(answer: Answer, question: Question, logprobs: Sequence[float] = ()) -> Response:
    return Response(
        answer=answer.text,
        question=question.question,
        reference=question.reference,
        columns=question.columns,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        ttft_s=answer.ttft_s,
        latency_s=answer.latency_s,
        cost=answer.cost,
        logprobs=tuple(logprobs),
    )


def _with_figures(answer: Answer, listener: _Listener) -> Answer:
    """The answer with what an engine of ours tells of it, or with the tokens that another chat model counted."""
    done = listener.completion
    if done is None:
        counted = (listener.prompt_tokens or None, listener.completion_tokens or None)
        return replace(answer, prompt_tokens=counted[0], completion_tokens=counted[1])
    submitted = max(done.started_ns, answer.filled_ns)
    return replace(
        answer,
        submitted_ns=submitted,
        generated_ns=min(submitted + int(done.seconds * 1e9), answer.generated_ns),
        finish_reason=done.finish_reason,
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        ttft_s=done.ttft_s,
        latency_s=done.seconds,
        cost=done.usage.cost,
        turns_left_out=done.turns_left_out,
    )


def _plain(found: Any) -> str:
    """The text of whatever a chain gives."""
    content = found.text if isinstance(found, BaseMessage) else found
    return _storable(content if isinstance(content, str) else str(content)).strip()


def _storable(text: str) -> str:
    """Without what no database takes: NUL, and halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
