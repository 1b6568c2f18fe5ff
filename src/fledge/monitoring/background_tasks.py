"""Background tasks of the recorder: watch aliases, note refused releases in the history, run a canary."""

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


class BackgroundTasks:
    """`run` loops over due tasks; the other methods may be called from any thread.

    A canary runs in its own thread, so that waiting for MLflow does not delay it.
    """

    def __init__(self, config: RecorderConfig, control: Control[RecorderConfig]) -> None:
        self._config = config
        self._control = control
        self._wake = threading.Event()
        self._look_requested = threading.Event()
        self._refused: list[ReleaseRefused] = []
        self._crashed: list[EngineCrashed] = []
        self._last_errors: dict[str, str] = {}

    def look(self) -> None:
        """Check the aliases now, as one may have moved."""
        self._look_requested.set()
        self._wake.set()

    def note_refusal(self, event: ReleaseRefused) -> None:
        """Queue a note for the history of a release that could not be served."""
        self._refused.append(event)
        self._wake.set()

    def note_crash(self, event: EngineCrashed) -> None:
        """Queue the crash of a release's engine for the canary."""
        self._crashed.append(event)

    def run(self) -> None:
        from fledge.rollout._mlflow_aliases import AliasWatch
        from fledge.rollout._mlflow_canary import CanaryWatch

        config = self._config
        watch = AliasWatch(config.tracking_uri, Path(config.releases), config.watched)
        canary = CanaryWatch(config, config.canary, watch, self._control) if config.canary else None
        if canary is not None:
            threading.Thread(target=self._run_canary, args=(canary,), name="canary", daemon=True).start()
        due = 0.0
        while True:
            self._wake.clear()
            if self._look_requested.is_set() or (config.watch_s and time.monotonic() >= due):
                self._look_requested.clear()
                if not self._try("cannot check the aliases", lambda: self._look(watch)):
                    self._look_requested.set()
                due = time.monotonic() + config.watch_s
            if self._refused:
                self._try("cannot write the history", lambda: self._note_refusals(watch))
            if canary is not None and canary.owed:
                self._try("cannot record the outcome of the canary", canary.conclude)
            self._wake.wait(self._wait_s(due, owed=canary is not None and canary.owed))

    def _wait_s(self, due: float, *, owed: bool) -> float | None:
        waits = [RETRY_S] if self._refused or self._look_requested.is_set() or owed else []
        if self._config.watch_s:
            waits.append(max(0.0, due - time.monotonic()))
        return min(waits, default=None)

    def _run_canary(self, canary: "CanaryWatch") -> None:
        while True:
            # A crash is meaningless before the candidate is known.
            if self._try("cannot evaluate the canary", canary.step):
                self._try("cannot save the outcome of the canary", lambda: self._pass_on_crashes(canary))
            if canary.owed:
                self._wake.set()
            time.sleep(canary.period_s)

    def _pass_on_crashes(self, canary: "CanaryWatch") -> None:
        while self._crashed:
            canary.note_crash(self._crashed[0].release, self._crashed[0].error)
            self._crashed.pop(0)

    def _look(self, watch: "AliasWatch") -> None:
        for event in watch.look():
            self._control.send(event)
            if isinstance(event, ReleaseRefused):
                self._refused.append(event)

    def _note_refusals(self, watch: "AliasWatch") -> None:

        for item in self._refused:
            watch.note_refusal(item.name, item.alias, item.old, item.release, item.old_folder)
        while self._refused:
            item = self._refused[0]
            old, new = (int(release.rpartition("/")[2]) for release in (item.old, item.release))
            words = f"could not be served, {item.old} stays in service: {item.error}"
            note(self._config.tracking_uri, item.name, item.alias, "refused", old, new, words)
            self._refused.pop(0)

    def _try(self, last_error: str, action: Callable[[], None]) -> bool:
        """Run `action` and return whether it succeeded; the same error is logged once."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 (no error of MLflow or its store may stop the other tasks)
            words = str(error) or type(error).__name__
            if self._last_errors.get(last_error) != words:
                log.warning("%s: %s", last_error, words)
            self._last_errors[last_error] = words
            return False
        self._last_errors.pop(last_error, None)
        return True
