"""Encoding, decoding and transport of events between an endpoint's processes."""

import json
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from fledge.core.control import Control, decode_event, decode_events, encode_config, encode_event
from fledge.core.decoding import DecodeError
from fledge.core.endpoint_config import EngineConfig
from fledge.core.endpoint_state import CanaryProgress, EndpointFacts, RecorderFigures
from fledge.core.errors import InputError
from fledge.core.events import (
    EVENTS,
    AliasMoved,
    ChildReady,
    EngineCrashed,
    EngineReady,
    Event,
    FactsChanged,
    LimitsChanged,
    LookRequested,
    Ping,
    Pong,
    RecordsShipped,
    ReleaseRefused,
    ReleaseRetired,
    ReleasesChanged,
    ReloadRequested,
    SharesChanged,
    StartFailed,
    StartProgress,
    StopRequested,
    SupervisorGone,
)
from fledge.core.routes import Route, RouteArm
from fledge.core.types import EngineInfo

FIGURES = RecorderFigures(shipped=3, waiting=1, refused=0, last_error="é\n")
CANARY = CanaryProgress("mine/2", "rolled back", 0.0, "at 5 % of the requests: error_rate")
ROUTE = Route(
    "mine",
    (RouteArm("champion", "mine/1", 0.9), RouteArm("challenger", "mine/2", 0.1)),
    {"champion": "mine/1", "challenger": "mine/2"},
    shadow=RouteArm("shade", "mine/3"),
    shadow_share=0.5,
    versions=("mine/7",),
)
EXAMPLES: list[Event] = [
    Ping(),
    Pong(),
    StopRequested(),
    ChildReady(),
    ChildReady(EngineInfo("openvino", "cpu", "exact", "it is the fastest here")),
    StartProgress("exporting"),
    StartFailed("no room", "free some", "FledgeError"),
    AliasMoved("mine", "champion", "mine/2", "/releases/2"),
    ReleaseRefused("mine", "champion", "mine/2", "mine/1", "damaged", "/releases/1"),
    SharesChanged("mine", "champion", {"champion": 0.95}, {"champion": "mine/1"}, CANARY),
    RecordsShipped(FIGURES),
    LookRequested(),
    LimitsChanged({"max_n": 8, "deadline_s": 120.0}),
    ReleaseRetired("mine/1"),
    EngineCrashed("mine/2", "it keeps crashing"),
    EngineReady("mine/1", "/run/engine-0"),
    ReleasesChanged({"mine/1": "/releases/1"}, (ROUTE, Route("other", ())), {"mine/1": "/run/engine-0"}),
    FactsChanged(EndpointFacts(FIGURES, ("mine/2", "mine/2"), CANARY)),
    FactsChanged(EndpointFacts()),
    ReloadRequested(),
]
MOVED: dict[str, Any] = {"event": "moved", "name": "mine", "alias": "champion", "release": "mine/2", "folder": "/2"}


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_event_is_decoded_as_it_was_encoded(event: Event) -> None:
    line = encode_event(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_event(line) == event


def test_examples_cover_every_event() -> None:
    assert {type(event) for event in EXAMPLES} == set(EVENTS.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"event": "promoted"}, "unknown event 'promoted'"),
        ({"event": ["moved"]}, "does not name an event"),
        ({"name": "mine"}, "does not name an event"),
        ([], "does not name an event"),
        ({name: value for name, value in MOVED.items() if name != "folder"}, "event 'moved': missing field 'folder'"),
        ({**MOVED, "by": "me"}, "event 'moved': unknown field 'by'"),
        ({**MOVED, "release": 2}, "event 'moved': field 'release' must be str, not 2"),
        (
            {"event": "recorder", "figures": {"shipped": True, "waiting": 0, "refused": 0, "last_error": ""}},
            r"event 'recorder': field 'figures\.shipped' must be int, not True",
        ),
        ({"event": "facts", "facts": {"canary": []}}, r"event 'facts': field 'facts\.canary' must be object"),
    ],
)
def test_invalid_message_is_refused_with_its_reason(content: object, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode_event(json.dumps(content).encode())


def test_invalid_lines_are_skipped() -> None:
    refused: list[str] = []
    lines = [encode_event(Pong()), b'{"event": "promoted"}', b"{\xff", encode_event(ReleaseRetired("mine/1"))]
    assert list(decode_events(lines, refused.append)) == [Pong(), ReleaseRetired("mine/1")]
    assert refused[0] == "unknown event 'promoted'"
    assert "is not JSON" in refused[1]


def test_child_answers_pings_and_continues_after_an_invalid_message(caplog: pytest.LogCaptureFixture) -> None:
    parent_end, child_end = socket.socketpair()
    parent_end.sendall(
        encode_config(EngineConfig({"engine": "scripted", "cache_gb": 0.5}, "/releases/1", "/run/engine-0"))
    )
    control = Control(child_end.detach(), EngineConfig)
    assert control.config == EngineConfig({"engine": "scripted", "cache_gb": 0.5}, "/releases/1", "/run/engine-0")
    received: list[Event] = []
    gone = threading.Event()

    def receive(event: Event) -> None:
        received.append(event)
        if isinstance(event, SupervisorGone):
            gone.set()

    control.listen(receive)
    parent_end.sendall(b'{"event": "promoted"}\n' + encode_event(Ping()) + encode_event(StopRequested()))
    with parent_end, parent_end.makefile("rb") as lines:
        assert decode_event(lines.readline()) == Pong()
        parent_end.shutdown(socket.SHUT_WR)
        assert gone.wait(30)
    assert received == [StopRequested(), SupervisorGone()]
    assert "invalid message from the supervisor: unknown event 'promoted'" in caplog.text


def test_child_reports_the_invalid_field_of_its_configuration() -> None:
    parent_end, child_end = socket.socketpair()
    command = [sys.executable, "-m", "fledge.engines.process", str(child_end.fileno())]
    with parent_end, child_end, subprocess.Popen(command, pass_fds=(child_end.fileno(),)) as child:
        child_end.close()
        parent_end.sendall(b'{"settings": {}, "lines": ["3"]}\n')
        with parent_end.makefile("rb") as lines:
            failed = decode_event(lines.readline())
    assert child.returncode == InputError.exit_code
    assert isinstance(failed, StartFailed)
    assert failed.error == "configuration: field 'lines.0' must be int, not '3'"
