"""Asking cells: many at the same time, each answer scored and kept as it comes."""

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from types import MappingProxyType

from fledge.core.api_key import without_key
from fledge.core.errors import InputError
from fledge.engines.engine import EngineGoneError
from fledge.experiments.askers import Asker, Exchange
from fledge.experiments.cells import Answer, Cell
from fledge.questions.question_set import Question
from fledge.scoring.catalogue import AnswerScores, score
from fledge.scoring.scorer import Response, Scorer


def ask(
    cells: Sequence[Cell],
    askers: Mapping[tuple[str, int], Asker],
    keep: Callable[[Answer], None],
    *,
    max_concurrency: int,
    scorers: Sequence[Scorer] = (),
    graders: Sequence[Scorer] = (),
    ungraded: Mapping[str, Answer] = MappingProxyType({}),
) -> Generator[Answer]:
    """Yield answers as they come; `askers` holds one for each arm and sample; at most `max_concurrency` cells are asked
    at the same time.

    `keep` gets each answer at once, in the thread in which it came: when it returns, the answer cannot be lost. Where
    there are `graders`, which take long and may fail, it gets it before them and once more after. `ungraded` are
    answers, by key, of cells that have only this before them.
    """
    stopped = threading.Event()

    def one(cell: Cell) -> Answer | None:
        if cell.key in ungraded:
            answer = _graded(replace(ungraded[cell.key], attempt=cell.attempt), cell.question, graders)
        else:
            answer = _ask(cell, askers[cell.arm, cell.sample], scorers)
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


def _ask(cell: Cell, asker: Asker, scorers: Sequence[Scorer]) -> Answer:
    exchange = Exchange()
    text = error = ""
    final = True
    started = time.time_ns()
    try:
        text = _storable(asker(cell, exchange)).strip()
    except EngineGoneError:  # it says nothing of this cell, and comes to all others alike
        raise
    except Exception as problem:  # noqa: BLE001 (a chain may raise anything; it stays with its cell)
        error = _storable(without_key(str(problem)) or type(problem).__name__)
        final = isinstance(problem, InputError)
    arrived = time.time_ns()
    filled = exchange.filled_ns or started
    answer = Answer(
        key=cell.key,
        attempt=cell.attempt,
        arm=cell.arm,
        question_id=cell.question.id,
        sample=cell.sample,
        prompt_text=_storable(exchange.prompt_text),
        text=text,
        error=error,
        final=final,
        started_ns=started,
        filled_ns=filled,
        submitted_ns=filled,
        generated_ns=arrived,
        ended_ns=arrived,
        latency_s=None if error else (arrived - started) / 1e9,
        steps=exchange.steps,
    )
    answer = _with_figures(answer, exchange)
    return answer if error else _scored(answer, cell.question, exchange, scorers)


def _scored(answer: Answer, question: Question, exchange: Exchange, scorers: Sequence[Scorer]) -> Answer:
    response = _response(answer, question, exchange.completion.logprobs if exchange.completion else ())
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


def _with_figures(answer: Answer, exchange: Exchange) -> Answer:
    """The answer with what an engine of ours tells of it, or with the tokens that another chat model counted."""
    done = exchange.completion
    if done is None:
        counted = (exchange.prompt_tokens or None, exchange.completion_tokens or None)
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


def _storable(text: str) -> str:
    """Without what no database takes: NUL, and halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
