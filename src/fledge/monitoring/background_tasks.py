"""What the recorder does beside shipping: looking at aliases, noting what could not be served, leading a canary."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.core.control import Control
from fledge.core.endpoint_config import RecorderConfig
from fledge.core.events import EngineCrashed, ReleaseRefused
from fledge.registry.release import note

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from fledge.rollout._mlflow_aliases import AliasWatch
    from fledge.rollout._mlflow_canary import CanaryWatch

RETRY_S = 10.0


class Duties:
    """`run` does what is due, for ever; the other methods may be called from any thread.

    A canary is judged in a thread of its own: nothing that waits for MLflow may hold it up.
    """

    def __init__(self, config: RecorderConfig, control: Control[RecorderConfig]) -> None:
        self._config = config
        self._control = control
        self._called = threading.Event()
        self._looks = threading.Event()
        self._refused: list[ReleaseRefused] = []
        self._crashed: list[EngineCrashed] = []
        self._trouble: dict[str, str] = {}

    def look(self) -> None:
        """Look at the aliases now, as somebody says that one has moved."""
        self._looks.set()
        self._called.set()

    def refused(self, event: ReleaseRefused) -> None:
        """A release could not be served: its history shall tell."""
        self._refused.append(event)
        self._called.set()

    def crashed(self, event: EngineCrashed) -> None:
        """A release's engine is not started again."""
        self._crashed.append(event)

    def run(self) -> None:
        from fledge.rollout._mlflow_aliases import AliasWatch
        from fledge.rollout._mlflow_canary import CanaryWatch

        config = self._config
        watch = AliasWatch(config.tracking_uri, Path(config.releases), config.watched)
        canary = CanaryWatch(config, config.canary, watch, self._control) if config.canary else None
        if canary is not None:
            threading.Thread(target=self._lead, args=(canary,), name="canary", daemon=True).start()
        due = 0.0
        while True:
            self._called.clear()
            if self._looks.is_set() or (config.watch_s and time.monotonic() >= due):
                self._looks.clear()
                if not self._attempt("the aliases cannot be looked at", lambda: self._look(watch)):
                    self._looks.set()
                due = time.monotonic() + config.watch_s
            if self._refused:
                self._attempt("the history cannot be written", lambda: self._note_refused(watch))
            if canary is not None and canary.owed:
                self._attempt("how the canary ended cannot be written", canary.conclude)
            self._called.wait(self._patience(due, owed=canary is not None and canary.owed))

    def _patience(self, due: float, *, owed: bool) -> float | None:
        waits = [RETRY_S] if self._refused or self._looks.is_set() or owed else []
        if self._config.watch_s:
            waits.append(max(0.0, due - time.monotonic()))
        return min(waits, default=None)

    def _lead(self, canary: "CanaryWatch") -> None:
        while True:
            # A crash says nothing before it is known which release is the candidate.
            if self._attempt("the canary waits", canary.step):
                self._attempt("how the canary ended cannot be kept", lambda: self._pass_on_crashes(canary))
            if canary.owed:
                self._called.set()
            time.sleep(canary.period_s)

    def _pass_on_crashes(self, canary: "CanaryWatch") -> None:
        while self._crashed:
            canary.crashed(self._crashed[0].release, self._crashed[0].error)
            self._crashed.pop(0)

    def _look(self, watch: "AliasWatch") -> None:
        for event in watch.look():
            self._control.send(event)
            if isinstance(event, ReleaseRefused):
                self._refused.append(event)

    def _note_refused(self, watch: "AliasWatch") -> None:

        for item in self._refused:
            watch.refused(item.name, item.alias, item.old, item.release, item.old_folder)
        while self._refused:
            item = self._refused[0]
            old, new = (int(release.rpartition("/")[2]) for release in (item.old, item.release))
            words = f"could not be served, {item.old} goes on: {item.error}"
            note(self._config.tracking_uri, item.name, item.alias, "refused", old, new, words)
            self._refused.pop(0)

    def _attempt(self, last_error: str, action: Callable[[], None]) -> bool:
        """Try; what goes wrong is said once, and tried again at the next turn."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 (whatever MLflow and its store raise, the other duties go on)
            words = str(error) or type(error).__name__
            if self._trouble.get(last_error) != words:
                log.warning("%s: %s", last_error, words)
            self._trouble[last_error] = words
            return False
        self._trouble.pop(last_error, None)
        return True
