"""LLM judge: grades an answer, or picks the better of two. Its output is validated before it counts."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from fledge.core.errors import FledgeError
from fledge.core.settings import FromSources, option, out_of_range
from fledge.scoring.scorer import Grade, Scorer

T = TypeVar("T")
R = TypeVar("R")

WORST, BEST = 1, 5
POLL_S = 0.1
GIVE_UP = 5  # consecutive failures to answer
JUDGE = "judge"  # metric of its grade
TRY_JUDGE = "check that a model capable of judging is served there: --judge URL#NAME"
PREFERENCE = "preference"  # metric of its pairwise comparison
CRITERIA = (
    "Is the answer right and complete? Where there is an expected response, what it says is what counts, not how it is "
    "worded. An answer that is wrong, evades the question or says nothing is poor."
)


@dataclass(frozen=True)
class JudgeConfig(metaclass=FromSources):
    """The judge and its criteria."""

    GROUP: ClassVar = "Judge"

    judge: str = option(
        "", "judge: URL of an OpenAI-compatible server and model, as http://127.0.0.1:8000/v1#NAME", group=""
    )
    judge_criteria: str = option("", "grading criteria as text (default: correct and complete)")
    judge_retries: int = option(2, "retries after a judge answer that cannot be parsed")
    judge_timeout: float = option(60.0, "timeout of a judge request, in seconds")
    judge_concurrency: int = option(8, "maximum number of concurrent judge requests")

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def criteria(self) -> str:
        return self.judge_criteria or CRITERIA

    def problems(self) -> list[str]:
        """Return all problems with the values."""
        found = out_of_range(
            self, ("judge_retries", 0, 20), ("judge_timeout", 0.1, 3600), ("judge_concurrency", 1, 1024)
        )
        if self.judge and not self.judge.startswith(("http://", "https://")):
            found.append(f"judge must be a URL, not {self.judge!r}")
        if "{{" in self.judge_criteria or "}}" in self.judge_criteria:
            found.append("judge_criteria must not contain {{ or }}")
        if "@" in urlsplit(self.judge).netloc or urlsplit(self.judge).query:
            found.append("the judge URL is recorded and must not contain a key: export OPENAI_API_KEY=...")
        return found


class Judgement(NamedTuple):
    """Output of a judge: a value, not yet validated, and its rationale."""

    value: Any
    rationale: str


class NotUnderstoodError(FledgeError):
    """The judge's answer is not a valid judgement; retry."""


class JudgeError(FledgeError):
    """The judge gave no valid judgement after all retries."""


class NoAnswerError(JudgeError):
    """The judge is unreachable, refuses, or timed out; do not retry."""


class JudgeModel(Protocol):
    """Model behind a judge. `again` is true for a retry after an invalid judgement."""

    def grade(self, question: str, answer: str, reference: str | None, *, again: bool) -> Judgement:
        """Return a whole number from 1 to 5. Raises `NotUnderstoodError` or `NoAnswerError`."""
        ...

    def prefer(self, question: str, first: str, second: str, reference: str | None, *, again: bool) -> Judgement:
        """Return `first`, `second` or `tie`. Raises as `grade`."""
        ...


@dataclass(frozen=True)
class Preference:
    """1 for `a`, -1 for `b`, 0 for a tie; `agreed` is false if the judge contradicted itself in swapped order."""

    value: int
    agreed: bool
    rationale: str


class JudgeCounts(NamedTuple):
    """Numbers of requests, retries, missing judgements, and preferences that contradicted themselves when swapped."""

    asked: int = 0
    retried: int = 0
    failed: int = 0
    inconsistent: int = 0


class Judge:
    """Grades answers and compares pairs through a model. Thread-safe; `counts` holds the totals.

    After five consecutive failures to answer no more requests are sent. A request times out after `timeout_s`.
    """

    def __init__(
        self, model: JudgeModel, *, retries: int = 2, max_concurrency: int = 8, timeout_s: float = 60.0
    ) -> None:
        self._model = model
        self._retries = retries
        self._max_concurrency = max_concurrency
        self._room = threading.Semaphore(max_concurrency)
        self._timeout_s = timeout_s
        self._stopped = threading.Event()
        self._unanswered = 0
        self._lock = threading.Lock()
        self._counts = JudgeCounts()

    @property
    def counts(self) -> JudgeCounts:
        with self._lock:
            return self._counts

    def grade(self, question: str, answer: str, reference: str | None = None) -> Grade:
        """Grade an answer from 0 (the judge's 1) to 1 (its 5). Raises `JudgeError` without a judgement."""
        judgement = self._ask(lambda again: self._model.grade(question, answer, reference, again=again), _check_grade)
        return Grade((judgement.value - WORST) / (BEST - WORST), judgement.rationale)

    def prefer(self, question: str, a: str, b: str, reference: str | None = None) -> Preference:
        """Return the better of two answers. Asks in both orders; contradicting judgements count as a tie.

        Raises `JudgeError` without a judgement.
        """
        forward = self._ask(lambda again: self._model.prefer(question, a, b, reference, again=again), _check_preference)
        backward = self._ask(
            lambda again: self._model.prefer(question, b, a, reference, again=again), _check_preference
        )
        signs = {"first": 1, "second": -1, "tie": 0}
        value, swapped = signs[forward.value], -signs[backward.value]
        if value != swapped:
            self._count(inconsistent=1)
            return Preference(0, False, f"{forward.rationale} / swapped: {backward.rationale}")
        return Preference(value, True, forward.rationale)

    def ask_all(
        self, items: Sequence[T], one: Callable[[T], R], progress: Callable[[int, int], None]
    ) -> Generator[tuple[T, R | JudgeError]]:
        """Call `one` on each item in parallel; yield each item with its result or error as it completes.

        `progress` is called with the numbers of done and all items.
        """
        pool = ThreadPoolExecutor(self._max_concurrency, thread_name_prefix="judge")
        try:
            futures = {pool.submit(one, item): item for item in items}
            for done, future in enumerate(as_completed(futures), 1):
                try:
                    found: R | JudgeError = future.result()
                except JudgeError as error:
                    found = error
                yield futures[future], found
                progress(done, len(items))
        finally:
            self.stop()
            pool.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Stop asking and waiting for answers."""
        self._stopped.set()

    def _ask(self, ask: Callable[[bool], Judgement], check: Callable[[Any], Any]) -> Judgement:
        problem = ""
        with self._room:
            for attempt in range(self._retries + 1):
                try:
                    judgement = self._ask_once(ask, attempt)
                    return Judgement(check(judgement.value), judgement.rationale)
                except NotUnderstoodError as error:
                    problem = error.message
        self._count(failed=1)
        raise JudgeError(f"the judge gave no judgement in {self._retries + 1} answers: {problem}")

    def _ask_once(self, ask: Callable[[bool], Judgement], attempt: int) -> Judgement:
        if self._stopped.is_set():
            raise JudgeError("stopped")
        if self._unanswered >= GIVE_UP:
            self._count(failed=1)
            raise NoAnswerError(f"the judge did not answer {GIVE_UP} times in a row; no further requests are sent")
        self._count(asked=1, retried=int(attempt > 0))
        try:
            judgement = self._run_with_timeout(lambda: ask(attempt > 0))
        except NoAnswerError:
            self._unanswered += 1
            self._count(failed=1)
            raise
        except NotUnderstoodError:
            self._unanswered = 0
            raise
        self._unanswered = 0
        return judgement

    def _run_with_timeout(self, work: Callable[[], Judgement]) -> Judgement:
        """Run `work` with the timeout. On timeout its daemon thread is left to end by itself."""
        results: queue.SimpleQueue[Judgement | Exception] = queue.SimpleQueue()

        def run() -> None:
            try:
                results.put(work())
            except Exception as error:  # noqa: BLE001 (raised in the waiting thread)
                results.put(error)

        threading.Thread(target=run, name="judge", daemon=True).start()
        deadline = time.monotonic() + self._timeout_s
        while not self._stopped.is_set():
            try:
                found = results.get(timeout=max(0.0, min(POLL_S, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    hint = "raise --judge-timeout"
                    raise NoAnswerError(f"the judge took more than {self._timeout_s:g} s", hint=hint) from None
                continue
            if isinstance(found, Exception):
                raise found
            return found
        raise JudgeError("stopped")

    def _count(self, **more: int) -> None:
        with self._lock:
            self._counts = self._counts._replace(
                **{name: getattr(self._counts, name) + count for name, count in more.items()}
            )


def _check_grade(value: Any) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or text.removesuffix(".0") not in {str(number) for number in range(WORST, BEST + 1)}:
        raise NotUnderstoodError(f"{text[:80]!r} is not a whole number from {WORST} to {BEST}")
    return int(float(text))


def _check_preference(value: Any) -> str:
    text = str(value).strip().lower()
    if text not in ("first", "second", "tie"):
        raise NotUnderstoodError(f"{text[:80]!r} is not first, second or tie")
    return text


def describe_counts(counts: JudgeCounts) -> str:
    """Summarize the counts in one sentence."""
    parts = [f"the judge was asked {counts.asked:,} times"]
    if counts.retried:
        parts.append(f"{counts.retried:,} of them retries after an invalid judgement")
    if counts.failed:
        parts.append(f"{counts.failed:,} judgement{'s are' if counts.failed > 1 else ' is'} missing")
    if counts.inconsistent:
        parts.append(f"{counts.inconsistent:,} pairs were judged differently when swapped and count as ties")
    return "; ".join(parts)


def judge_scorer(judge: Judge) -> Scorer:
    """Return a scorer that uses the judge's grade; a missing judgement is an error of the scorer."""

    def grade(question: str, answer: str, reference: str = "") -> Grade:
        return judge.grade(question, answer, reference or None)

    return Scorer(JUDGE, grade, True, 0.0, 1.0, default=False)


def same_model(judge: str, model: str) -> str:
    """Return a warning if the judge and the judged model are the same, else an empty string."""
    ours, theirs = judge.rstrip("/"), model.rstrip("/")
    if not ours or not theirs:
        return ""
    name, other = ours.partition("#")[2], theirs.partition("#")[2] or theirs
    if ours == theirs or (name and name == other) or (not name and ours == theirs.partition("#")[0]):
        return f"the judge {judge} is the model being judged: models favour their own answers"
    return ""
