"""The control channel between a process and its child: JSON lines over an inherited socket pair.

No other process can connect to it. Its end tells the child that its parent is gone. Pings are answered here.
"""

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Generic, TypeVar

from fledge.core.decoding import DecodeError, decode
from fledge.core.endpoint_config import EndpointConfig, EngineConfig, RecorderConfig
from fledge.core.events import EVENTS, Event, Ping, Pong, StartFailed, SupervisorGone

log = logging.getLogger(__name__)

ChildConfig = EngineConfig | EndpointConfig | RecorderConfig
C = TypeVar("C", bound=ChildConfig)
NAMES = {kind: name for name, kind in EVENTS.items()}


class Control(Generic[C]):
    """The child's end. `config` is the first message, because all users of the machine can read a command line."""

    def __init__(self, descriptor: int, config: type[C]) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lines = self._socket.makefile("rb")
        try:
            self.config = decode(config, json.loads(self._lines.readline()))
        except DecodeError as error:
            self.send(StartFailed(f"configuration: {error.message}", error.hint, type(error).__name__))
            sys.exit(error.exit_code)

    def listen(self, on_event: Callable[[Event], object]) -> None:
        """Start a thread that calls `on_event` for each event; `SupervisorGone` is the last."""
        threading.Thread(target=self._listen, args=(on_event,), name="control", daemon=True).start()

    def send(self, event: Event) -> None:
        """Send an event to the supervisor; ignored if it is gone."""
        try:
            self._socket.sendall(encode_event(event))
        except OSError:
            return

    def _listen(self, on_event: Callable[[Event], object]) -> None:
        with self._socket, self._lines:
            try:
                for event in decode_events(self._lines, _log_refused):
                    if isinstance(event, Ping):
                        self.send(Pong())
                    else:
                        on_event(event)
            except OSError:
                pass
        on_event(SupervisorGone())


def encode_event(event: Event) -> bytes:
    """Return an event as one line."""
    return json.dumps({"event": NAMES[type(event)], **asdict(event)}).encode() + b"\n"


def encode_config(config: ChildConfig) -> bytes:
    """Return the configuration of a child as one line."""
    return json.dumps(asdict(config)).encode() + b"\n"


def decode_event(line: bytes) -> Event:
    """Return the event in a line. Raises `DecodeError` that names event and field."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise DecodeError(f"message {line!r:.100} is not JSON: {error}") from None
    name = content.pop("event", None) if isinstance(content, dict) else None
    if not isinstance(name, str):
        raise DecodeError(f"message {line!r:.100} does not name an event")
    if name not in EVENTS:
        raise DecodeError(f"unknown event {name!r}")
    try:
        return decode(EVENTS[name], content)
    except DecodeError as error:
        raise DecodeError(f"event {name!r}: {error.message}") from None


def decode_events(lines: Iterable[bytes], on_refused: Callable[[str], object]) -> Iterator[Event]:
    """Yield the events in lines. Skip invalid lines and pass the reason to `on_refused`."""
    for line in lines:
        try:
            yield decode_event(line)
        except DecodeError as error:
            on_refused(error.message)


def _log_refused(reason: str) -> None:
    log.warning("invalid message from the supervisor: %s", reason)
