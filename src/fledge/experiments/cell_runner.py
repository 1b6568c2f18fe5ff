"""Running cells concurrently: generate, score and store each answer."""

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
    """Yield answers as they are completed, running at most `max_concurrency` cells at a time; `askers` are by arm and
    sample.

    `keep` stores each answer in its worker thread before it is yielded. With `graders`, which are slow and may fail, it
    is called before and after grading. `ungraded` holds, by key, answers that only need grading.
    """
    stopped = threading.Event()

    def one(cell: Cell) -> Answer | None:
        if cell.key in ungraded:
            answer = _grade(replace(ungraded[cell.key], attempt=cell.attempt), cell.question, graders)
        else:
            answer = _ask(cell, askers[cell.arm, cell.sample], scorers)
            if graders and not answer.error:
                keep(replace(answer, graded=False))
                answer = replace(_grade(answer, cell.question, graders), ended_ns=time.time_ns())
        if (answer.error or answer.score_errors) and stopped.is_set():  # the error may be due to the interruption
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
        text = _clean_text(asker(cell, exchange)).strip()
    except EngineGoneError:  # not an error of this cell: all others fail too
        raise
    except Exception as problem:  # noqa: BLE001 (a chain may raise anything; record it in its cell)
        error = _clean_text(without_key(str(problem)) or type(problem).__name__)
        final = isinstance(problem, InputError)
    arrived = time.time_ns()
    filled = exchange.filled_ns or started
    answer = Answer(
        key=cell.key,
        attempt=cell.attempt,
        arm=cell.arm,
        question_id=cell.question.id,
        sample=cell.sample,
        prompt_text=_clean_text(exchange.prompt_text),
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
    answer = _add_usage(answer, exchange)
    return answer if error else _score(answer, cell.question, exchange, scorers)


def _score(answer: Answer, question: Question, exchange: Exchange, scorers: Sequence[Scorer]) -> Answer:
    response = _build_response(answer, question, exchange.completion.logprobs if exchange.completion else ())
    scored = _add_scores(answer, score(response, scorers))
    return replace(scored, ended_ns=max(answer.ended_ns, time.time_ns()))


def score_again(answer: Answer, question: Question, scorers: Sequence[Scorer]) -> Answer:
    """Return the answer with its scores replaced by those of `scorers`."""
    bare = replace(answer, scores={}, score_errors={}, rationales={})
    return _add_scores(bare, score(_build_response(answer, question), scorers))


def _grade(answer: Answer, question: Question, graders: Sequence[Scorer]) -> Answer:
    return replace(_add_scores(answer, score(_build_response(answer, question), graders)), graded=True)


def _add_scores(answer: Answer, found: AnswerScores) -> Answer:
    """Return the answer with more scores; a new score clears the earlier error of its scorer."""
    errors = {name: text for name, text in answer.score_errors.items() if name not in found.values}
    return replace(
        answer,
        scores={**answer.scores, **found.values},
        score_errors={**errors, **{name: _clean_text(text) for name, text in found.errors.items()}},
        rationales={**answer.rationales, **{name: _clean_text(text) for name, text in found.rationales.items()}},
    )


def _build_response(answer: Answer, question: Question, logprobs: Sequence[float] = ()) -> Response:
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


def _add_usage(answer: Answer, exchange: Exchange) -> Answer:
    """Return the answer with the measurements of fledge's engine, or the token counts of another model."""
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


def _clean_text(text: str) -> str:
    """Return the text without characters that databases reject: NUL and lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
