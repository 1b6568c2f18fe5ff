"""Progress of a benchmark, reported after each step and during long steps."""

import threading
import time

from fledge.core.types import Progress, Say

PULSE_S = 4.0


class Reporter:
    """Counts steps and calls `progress(done, total, what)` after each and every `PULSE_S` seconds.

    Thread-safe; `progress` is never called concurrently.
    """

    total = 0  # unknown

    def __init__(self, progress: Progress, say: Say) -> None:
        self._progress, self._say = progress, say
        self._done = 0
        self._what, self._since = "", time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def say(self, text: str) -> None:
        """Start a step without counting it, and announce it."""
        self.begin(text)
        self._say(text)

    def begin(self, what: str) -> None:
        """Set the current step."""
        with self._lock:
            self._what, self._since = what, time.monotonic()

    def step(self, what: str) -> None:
        """Count one more step as done."""
        self.begin(what)
        with self._lock:
            self._done += 1
            self._progress(self._done, self.total, what)

    def _run(self) -> None:
        while not self._stopped.wait(PULSE_S):
            with self._lock:
                seconds = time.monotonic() - self._since
                self._progress(self._done, self.total, f"{self._what}: {seconds:.0f} s")
