"""What the recorder does beside shipping: looking at aliases, noting what could not be served, leading a canary."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.core.control import Control

if TYPE_CHECKING:
    from fledge.monitoring._mlflow_aliases import AliasWatch

TICK_S = 0.5
RETRY_S = 10.0


class Duties:
    """`run` does what is due, for ever; `look` and `refused` may be called from any thread."""

    def __init__(self, config: dict[str, Any], control: Control) -> None:
        self._config = config
        self._control = control
        self._called = threading.Event()
        self._looks = threading.Event()
        self._refused: list[dict[str, Any]] = []
        self._trouble: dict[str, str] = {}

    def look(self) -> None:
        """Look at the aliases now, as somebody says that one has moved."""
        self._looks.set()
        self._called.set()

    def refused(self, message: dict[str, Any]) -> None:
        """A release could not be served: its history shall tell."""
        self._refused.append(message)
        self._called.set()

    def run(self) -> None:
        from fledge.monitoring._mlflow_aliases import AliasWatch
        from fledge.monitoring._mlflow_canary import CanaryWatch

        config = self._config
        watch = AliasWatch(config["tracking_uri"], Path(config["releases"]), config["watched"])
        canary = CanaryWatch(config, watch, self._control) if config["canary"] else None
        due = 0.0
        while True:
            self._called.clear()
            if self._looks.is_set() or (config["watch_s"] and time.monotonic() >= due):
                self._looks.clear()
                self._attempt("the aliases cannot be looked at", lambda: self._look(watch))
                due = time.monotonic() + config["watch_s"]
            if self._refused:
                self._attempt("the history cannot be written", self._note_refused)
            if canary is not None:
                self._attempt("the canary waits", canary.step)
            self._called.wait(self._patience(due, with_canary=canary is not None))

    def _patience(self, due: float, *, with_canary: bool) -> float | None:
        if with_canary:
            return TICK_S
        waits = [RETRY_S] if self._refused else []
        if self._config["watch_s"]:
            waits.append(max(0.0, due - time.monotonic()))
        return min(waits, default=None)

    def _look(self, watch: "AliasWatch") -> None:
        for move in watch.look():
            self._control.send(**move)
            if move["event"] == "refused":
                self._refused.append(move)

    def _note_refused(self) -> None:
        from fledge.registry.release import note

        while self._refused:
            item = self._refused[0]
            old, new = (int(item[which].rpartition("/")[2]) for which in ("old", "release"))
            words = f"could not be served, {item['old']} goes on: {item['error']}"
            note(self._config["tracking_uri"], item["name"], item["alias"], "refused", old, new, words)
            self._refused.pop(0)

    def _attempt(self, trouble: str, action: Callable[[], None]) -> None:
        """Try; what goes wrong is said once, and tried again at the next turn."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 (whatever MLflow and its store raise, the other duties go on)
            words = str(error) or type(error).__name__
            if self._trouble.get(trouble) != words:
                sys.stderr.write(f"fledge: recorder: {trouble}: {words}\n")
            self._trouble[trouble] = words
        else:
            self._trouble.pop(trouble, None)
