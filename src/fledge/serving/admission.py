"""Admission control of a release: a request beyond its limits is refused immediately, with a retry time."""

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator

from fledge.core.errors import FledgeError
from fledge.core.limits import Limits

RATE_WINDOW_S = 10.0
CHARACTERS_PER_TOKEN = 4  # an estimate, before the engine tokenizes the prompt


class BusyError(FledgeError):
    """The queue is full. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Admission:
    """Counts the requests of a release, running and waiting, and their tokens."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = 0
        self.tokens = 0
        self._ended: deque[float] = deque()

    def busy(self) -> BusyError | None:
        """Return the error if no request fits into the queue, else None."""
        most = self.limits.max_running + self.limits.queue_requests
        if self.requests < most:
            return None
        return BusyError(f"{self.requests} requests are running or waiting, the maximum", self.retry_after())

    @contextlib.contextmanager
    def admit(self, tokens: int) -> Iterator[None]:
        """Hold a place for a request of `tokens`, prompt and answers together. Raises `BusyError` if there is none."""
        limits = self.limits
        if busy := self.busy():
            raise busy
        if self.requests and self.tokens + tokens > limits.queue_tokens:
            raise BusyError(
                f"{self.tokens} tokens are running or waiting; this request's {tokens} would exceed the maximum of "
                f"{limits.queue_tokens}",
                self.retry_after(),
            )
        self.requests += 1
        self.tokens += tokens
        try:
            yield
        finally:
            self.requests -= 1
            self.tokens -= tokens
            self._ended.append(time.monotonic())
            self._forget()

    def retry_after(self) -> int:
        """Estimate the seconds, 1 to 60, until half of the queue is done, from the recent throughput."""
        self._forget()
        rate = len(self._ended) / RATE_WINDOW_S
        return min(60, max(1, math.ceil(self.requests / 2 / rate))) if rate else 5

    def _forget(self) -> None:
        since = time.monotonic() - RATE_WINDOW_S
        while self._ended and self._ended[0] < since:
            self._ended.popleft()


def estimate_tokens(characters: int) -> int:
    """Estimate the tokens of a text from its length."""
    return characters // CHARACTERS_PER_TOKEN + 1
