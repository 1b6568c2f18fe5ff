"""Record answers in MLflow in the background: from the journal, in batches, retrying while MLflow is unavailable."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from fledge.core.errors import FledgeError
from fledge.core.types import Say
from fledge.experiments.cells import Answer
from fledge.experiments.journal import Journal
from fledge.experiments.run_ids import short_id

log = logging.getLogger(__name__)

BATCH = 100
IDLE_S = 0.5
MAX_PAUSE_S = 10.0
SLOW_S = 5.0
SECONDS_EACH = 0.025  # for a trace on SQLite; used in an estimate


class AnswerRecorder:
    """A thread that sends the answers in the journal.

    `send` may be called again with the same answers. `on_tick` is called about twice a second.
    """

    def __init__(self, journal: Journal, send: Callable[[Sequence[Answer]], None], on_tick: Callable[[], None]) -> None:
        self._journal = journal
        self._send = send
        self._on_tick = on_tick
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._sent = journal.sent
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float, say: Say) -> None:
        """Wait until all answers are sent. Raises `FledgeError` if none could be sent for `timeout_s`."""
        last, last_change, reported = self._sent, time.monotonic(), False
        left = len(self._journal.answers) - last
        if left > BATCH:
            say(f"all answers are in; recording the last {left} in MLflow, about {left * SECONDS_EACH:.0f} s")
        with self._changed:
            while self._sent < len(self._journal.answers):
                self._changed.wait(1.0)
                if self._sent > last:
                    last, last_change = self._sent, time.monotonic()
                if self._error and not _is_transient(self._error):
                    raise self._error
                if not reported and (self._error or time.monotonic() - last_change > SLOW_S):
                    say(_describe_wait(self._error, timeout_s))
                    reported = True
                if time.monotonic() - last_change > timeout_s:
                    raise not_recorded_error(self._journal, len(self._journal.answers) - self._sent, self._error)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop after the current batch, or after `timeout_s`."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause = IDLE_S
        while not self._closing.is_set():
            self._on_tick()
            waiting = self._journal.answers[self._sent : self._sent + BATCH]
            if not waiting:
                self._closing.wait(IDLE_S)
                continue
            try:
                self._journal.sync()
                self._send([answer for answer in waiting if answer.graded])
                self._journal.mark_sent(self._sent + len(waiting))
                log.debug("recorded %d answers in MLflow", self._sent + len(waiting))
            except Exception as error:  # noqa: BLE001 (from many libraries; the answers stay in the journal)
                self._error = error
                self._closing.wait(pause)
                pause = min(2 * pause, MAX_PAUSE_S)
                continue
            with self._changed:
                self._sent += len(waiting)
                self._error, pause = None, IDLE_S
                self._changed.notify_all()


def retry(work: Callable[[], None], journal: Journal, timeout_s: float, say: Say) -> None:
    """Call `work`, and again for up to `timeout_s` while the tracking server is unavailable."""

    def say_once(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            say(_describe_wait(_error_of(state), timeout_s))

    again = Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_delay(timeout_s),
        wait=wait_exponential(IDLE_S, MAX_PAUSE_S),
        before_sleep=say_once,
        retry_error_callback=lambda state: _give_up(journal, _error_of(state)),
    )
    again(work)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _give_up(journal: Journal, error: BaseException | None) -> NoReturn:
    raise not_recorded_error(journal, 0, error) from error


def not_recorded_error(journal: Journal, count: int, error: BaseException | None) -> FledgeError:
    """Return the error for answers, or tables if `count` is 0, that MLflow did not accept."""
    what = f"{count} answers are not in MLflow yet" if count else "the tables are not in MLflow yet"
    reason = str(error).splitlines()[0] if error and str(error) else "it is too slow"
    return FledgeError(
        f"{what}: {reason}. Every answer is kept in {journal.folder}",
        hint=f"when the tracking server is back: fledge experiment --resume {short_id(journal.plan.run_id)}",
    )


def _is_transient(error: BaseException) -> bool:
    """Return whether an error comes from the store; others would recur."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("mlflow", "sqlalchemy")


def _describe_wait(error: BaseException | None, timeout_s: float) -> str:
    reason = f" ({(str(error).splitlines() or [''])[0][:200]})" if error else ""
    return f"waiting up to {timeout_s:.0f} s for the tracking store{reason}; every answer is kept on disk"
