"""How far an experiment is, from its first second on: answers that are there, and tokens as they are generated."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from fledge.engines.engine import Engine

AnswerProgress = Callable[[int, int, int, int], None]
TICK_S = 0.5


class LiveProgress:
    """Calls `progress(done, total, failed, tokens)` after each answer, and twice a second while there is none."""

    def __init__(self, progress: AnswerProgress, engines: Sequence[Engine], done: int, total: int, failed: int) -> None:
        self._progress = progress
        self._engines = engines
        self._before = self._generated()
        self._done, self._total, self._failed = done, total, failed
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> "LiveProgress":
        self._show()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def count(self, *, failed: bool, tokens: int = 0) -> None:
        """One more answer; `tokens` are those that no engine of ours has counted."""
        self._before -= tokens
        self._done += 1
        self._failed += failed
        self._show()

    def _generated(self) -> int:
        return sum(engine.stats().generated_tokens for engine in self._engines)

    def _tick(self) -> None:
        while not self._ended.wait(TICK_S):
            self._show()

    def _show(self) -> None:
        with self._lock:
            self._progress(self._done, self._total, self._failed, self._generated() - self._before)
