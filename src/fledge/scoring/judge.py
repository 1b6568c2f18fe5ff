"""A judge: a model that grades answers, or says which of two is better; what it says is checked before it counts."""

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
GIVE_UP = 5  # failures to answer one after the other
JUDGE = "judge"  # the name of its score
TRY_JUDGE = "see that a model answers there, and is able to judge; --judge URL#NAME"
PREFERENCE = "preference"  # that of which of two answers it finds better
CRITERIA = (
    "Is the answer right and complete? Where there is an expected response, what it says is what counts, not how it is "
    "worded. An answer that is wrong, evades the question or says nothing is poor."
)


@dataclass(frozen=True)
class JudgeConfig(metaclass=FromSources):
    """Which judge, and by what."""

    GROUP: ClassVar = "Judge"

    judge: str = option(
        "", "a judge: the URL of an OpenAI-compatible server, as http://127.0.0.1:8000/v1#NAME", group=""
    )
    judge_criteria: str = option("", "grading criteria, in words; correct and complete unless set")
    judge_retries: int = option(2, "how often to ask the judge again after an answer that cannot be parsed")
    judge_timeout: float = option(60.0, "seconds that the judge has for an answer")
    judge_concurrency: int = option(8, "most questions put to the judge at once")

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def criteria(self) -> str:
        return self.judge_criteria or CRITERIA

    def problems(self) -> list[str]:
        """What is wrong with the values, all of it."""
        found = out_of_range(
            self, ("judge_retries", 0, 20), ("judge_timeout", 0.1, 3600), ("judge_concurrency", 1, 1024)
        )
        if self.judge and not self.judge.startswith(("http://", "https://")):
            found.append(f"a judge is a URL, not {self.judge!r}")
        if "{{" in self.judge_criteria or "}}" in self.judge_criteria:
            found.append("judge_criteria are words, without {{ and }}")
        if "@" in urlsplit(self.judge).netloc or urlsplit(self.judge).query:
            found.append("a judge's URL is recorded, and must hold no key: export OPENAI_API_KEY=...")
        return found


class Said(NamedTuple):
    """What a judge said: a value, which is still to be checked, and why."""

    value: Any
    rationale: str


class NotUnderstoodError(FledgeError):
    """The judge answered, and what it said is no judgement: ask again."""


class JudgeError(FledgeError):
    """The judge gave no judgement, however often it was asked; there is no score."""


class NoAnswerError(JudgeError):
    """The judge cannot be reached, refuses, or takes too long: asking again at once is of no use."""


class JudgeModel(Protocol):
    """Asks a model. `again` is true where its last answer was no judgement."""

    def grade(self, question: str, answer: str, reference: str | None, *, again: bool) -> Said:
        """A whole number from 1 to 5. Raises `NotUnderstoodError` or `NoAnswerError`."""
        ...

    def prefer(self, question: str, first: str, second: str, reference: str | None, *, again: bool) -> Said:
        """`first`, `second` or `tie`."""
        ...


@dataclass(frozen=True)
class Preference:
    """1 for `a`, -1 for `b`, 0 for neither; not `agreed` where the judge said otherwise with the two swapped."""

    value: int
    agreed: bool
    rationale: str


class JudgeCounts(NamedTuple):
    """How often the judge was asked, asked again, gave no judgement in the end, and contradicted itself."""

    asked: int = 0
    retried: int = 0
    failed: int = 0
    inconsistent: int = 0


class Judge:
    """Grades and prefers through a model; may be used by many threads. `counts` tells what came of it.

    A judge that does not answer five times in a row is asked no more. What takes longer than `timeout_s` is given up.
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
        """The grade of an answer, from 0 (the judge's 1) to 1 (its 5). Raises `JudgeError` where there is none."""
        said = self._ask(lambda again: self._model.grade(question, answer, reference, again=again), _whole_number)
        return Grade((said.value - WORST) / (BEST - WORST), said.rationale)

    def prefer(self, question: str, a: str, b: str, reference: str | None = None) -> Preference:
        """Which of two answers is better: asked twice, with the two swapped, and only what is said both times counts.

        Raises `JudgeError` where there is no judgement.
        """
        there = self._ask(lambda again: self._model.prefer(question, a, b, reference, again=again), _better)
        back = self._ask(lambda again: self._model.prefer(question, b, a, reference, again=again), _better)
        signs = {"first": 1, "second": -1, "tie": 0}
        value, swapped = signs[there.value], -signs[back.value]
        if value != swapped:
            self._count(inconsistent=1)
            return Preference(0, False, f"{there.rationale} / swapped: {back.rationale}")
        return Preference(value, True, there.rationale)

    def ask_all(
        self, items: Sequence[T], one: Callable[[T], R], progress: Callable[[int, int], None]
    ) -> Generator[tuple[T, R | JudgeError]]:
        """What `one` gives for each item, or why it gives nothing, as it comes; `progress` is told of done and all."""
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
        """Ask no more, and wait for no answer."""
        self._stopped.set()

    def _ask(self, ask: Callable[[bool], Said], check: Callable[[Any], Any]) -> Said:
        problem = ""
        with self._room:
            for attempt in range(self._retries + 1):
                try:
                    said = self._once(ask, attempt)
                    return Said(check(said.value), said.rationale)
                except NotUnderstoodError as error:
                    problem = error.message
        self._count(failed=1)
        raise JudgeError(f"the judge gave no judgement in {self._retries + 1} answers: {problem}")

    def _once(self, ask: Callable[[bool], Said], attempt: int) -> Said:
        if self._stopped.is_set():
            raise JudgeError("stopped")
        if self._unanswered >= GIVE_UP:
            self._count(failed=1)
            raise NoAnswerError(f"the judge did not answer {GIVE_UP} times in a row, and is asked no more")
        self._count(asked=1, retried=int(attempt > 0))
        try:
            said = self._within(lambda: ask(attempt > 0))
        except NoAnswerError:
            self._unanswered += 1
            self._count(failed=1)
            raise
        except NotUnderstoodError:
            self._unanswered = 0
            raise
        self._unanswered = 0
        return said

    def _within(self, work: Callable[[], Said]) -> Said:
        """What `work` gives in time. What takes longer ends by itself, in a thread that keeps no process alive."""
        results: queue.SimpleQueue[Said | Exception] = queue.SimpleQueue()

        def run() -> None:
            try:
                results.put(work())
            except Exception as error:  # noqa: BLE001 (it is raised where it is waited for)
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


def _whole_number(value: Any) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or text.removesuffix(".0") not in {str(number) for number in range(WORST, BEST + 1)}:
        raise NotUnderstoodError(f"{text[:80]!r} is no whole number from {WORST} to {BEST}")
    return int(float(text))


def _better(value: Any) -> str:
    text = str(value).strip().lower()
    if text not in ("first", "second", "tie"):
        raise NotUnderstoodError(f"{text[:80]!r} is not first, second or tie")
    return text


def describe_counts(counts: JudgeCounts) -> str:
    """What a judge did, in a sentence."""
    parts = [f"the judge was asked {counts.asked:,} times"]
    if counts.retried:
        parts.append(f"{counts.retried:,} of them again, after what was no judgement")
    if counts.failed:
        parts.append(f"{counts.failed:,} judgement{'s are' if counts.failed > 1 else ' is'} missing")
    if counts.inconsistent:
        parts.append(f"{counts.inconsistent:,} pairs were judged otherwise when swapped, and count as ties")
    return "; ".join(parts)


def judge_scorer(judge: Judge) -> Scorer:
    """The judge's grade as a score; where it gives none there is no score, and it is counted."""

    def grade(question: str, answer: str, reference: str = "") -> Grade:
        return judge.grade(question, answer, reference or None)

    return Scorer(JUDGE, grade, True, 0.0, 1.0, default=False)


def same_model(judge: str, model: str) -> str:
    """A warning where a judge would grade its own answers; empty where it is another model."""
    ours, theirs = judge.rstrip("/"), model.rstrip("/")
    if not ours or not theirs:
        return ""
    name, other = ours.partition("#")[2], theirs.partition("#")[2] or theirs
    if ours == theirs or (name and name == other) or (not name and ours == theirs.partition("#")[0]):
        return f"the judge {judge} is the model that it judges: models favour their own answers"
    return ""
