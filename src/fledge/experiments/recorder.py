"""Recording behind the asking: answers go from the journal to MLflow in bulk, and wait there while MLflow is away."""

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
LONGEST_PAUSE_S = 10.0
SLOW_S = 5.0
SECONDS_EACH = 0.025  # what a trace takes on SQLite; for the estimate only


class AnswerRecorder:
    """A thread that sends what the journal has; whoever asks never waits for it.

    `send` writes some answers, and may be called again with the same ones. `each_time` is called about twice a second.
    """

    def __init__(
        self, journal: Journal, send: Callable[[Sequence[Answer]], None], each_time: Callable[[], None]
    ) -> None:
        self._journal = journal
        self._send = send
        self._each_time = each_time
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._sent = journal.sent
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float, say: Say) -> None:
        """Wait until all is sent. Raises `FledgeError` when for so long nothing could be sent."""
        last, moved, told = self._sent, time.monotonic(), False
        left = len(self._journal.answers) - last
        if left > BATCH:
            say(f"all answers are in; recording the last {left} in MLflow, about {left * SECONDS_EACH:.0f} s")
        with self._changed:
            while self._sent < len(self._journal.answers):
                self._changed.wait(1.0)
                if self._sent > last:
                    last, moved = self._sent, time.monotonic()
                if self._error and not _is_transient(self._error):
                    raise self._error
                if not told and (self._error or time.monotonic() - moved > SLOW_S):
                    say(_describe_wait(self._error, timeout_s))
                    told = True
                if time.monotonic() - moved > timeout_s:
                    raise not_recorded(self._journal, len(self._journal.answers) - self._sent, self._error)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End after what is just being sent, or without it if that takes longer."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause = IDLE_S
        while not self._closing.is_set():
            self._each_time()
            waiting = self._journal.answers[self._sent : self._sent + BATCH]
            if not waiting:
                self._closing.wait(IDLE_S)
                continue
            try:
                self._journal.sync()
                self._send([answer for answer in waiting if answer.graded])
                self._journal.mark_sent(self._sent + len(waiting))
                log.debug("recorded %d answers in MLflow", self._sent + len(waiting))
            except Exception as error:  # noqa: BLE001 (of many libraries; the answers stay where they are)
                self._error = error
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            with self._changed:
                self._sent += len(waiting)
                self._error, pause = None, IDLE_S
                self._changed.notify_all()


def retry(work: Callable[[], None], journal: Journal, timeout_s: float, say: Say) -> None:
    """Do `work`, which may be done twice, and try again for so long where the tracking server is away."""

    def say_once(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            say(_describe_wait(_error_of(state), timeout_s))

    again = Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_delay(timeout_s),
        wait=wait_exponential(IDLE_S, LONGEST_PAUSE_S),
        before_sleep=say_once,
        retry_error_callback=lambda state: _give_up(journal, _error_of(state)),
    )
    again(work)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _give_up(journal: Journal, error: BaseException | None) -> NoReturn:
    raise not_recorded(journal, 0, error) from error


def not_recorded(journal: Journal, count: int, error: BaseException | None) -> FledgeError:
    """What to tell when MLflow does not take what there is."""
    what = f"{count} answers are not in MLflow yet" if count else "the tables are not in MLflow yet"
    reason = str(error).splitlines()[0] if error and str(error) else "it is too slow"
    return FledgeError(
        f"{what}: {reason}. Every answer is kept in {journal.folder}",
        hint=f"when the tracking server is back: fledge experiment --resume {short_id(journal.plan.run_id)}",
    )


def _is_transient(error: BaseException) -> bool:
    """Whether it is the store that is away; anything else would come again and again."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("mlflow", "sqlalchemy")


def _describe_wait(error: BaseException | None, timeout_s: float) -> str:
    reason = f" ({(str(error).splitlines() or [''])[0][:200]})" if error else ""
    return f"waiting up to {timeout_s:.0f} s for the tracking store{reason}; every answer is kept on disk"
