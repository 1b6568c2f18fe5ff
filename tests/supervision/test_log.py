"""The log of an endpoint: complete lines of all processes, and rotation."""

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from fledge.supervision import log
from fledge.supervision.log import Log, message_of


def test_chunks_are_joined_into_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    written = Log(path, as_json=False)
    for content in (b"INFO: one\ntw", b"o\n", b"thr", b"ee"):
        written.feed("engine mine/1", content)
    written.feed("endpoint", b"\xff\n")
    written.feed("engine mine/1", b"")  # the process ended without a newline
    written.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [message_of(line) for line in lines] == ["one", "two", "\ufffd", "three"]
    assert all(" engine mine/1: " in line for line in lines if "\ufffd" not in line)
    assert path.stat().st_mode & 0o777 == 0o600


def test_closed_stderr_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    stderr = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stderr)
    written = Log(None, as_json=False)
    written.write("supervisor", "shown")
    assert os.read(reader, 1000).endswith(b"supervisor: shown\n")
    os.close(reader)
    written.write("supervisor", "lost")
    written.close()
    with contextlib.suppress(BrokenPipeError):
        stderr.close()


def test_lines_are_json_on_request(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    written = Log(path, as_json=True)
    written.write("recorder", 'a "quoted" word')
    written.feed("endpoint", b"WARNING: the limits stay\n")
    written.close()
    line, warning = path.read_text(encoding="utf-8").splitlines()
    assert (json.loads(line)["role"], json.loads(line)["level"]) == ("recorder", "info")
    assert message_of(line) == 'a "quoted" word'
    assert (json.loads(warning)["level"], message_of(warning)) == ("warning", "the limits stay")


def test_warnings_show_their_level(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with contextlib.closing(Log(path, as_json=False)) as written:
        written.feed("recorder", b"WARNING: the tracker is away\n")
    assert path.read_text(encoding="utf-8").endswith(" recorder: WARNING: the tracker is away\n")


def test_rotation_keeps_a_limited_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "ROTATE_BYTES", 100)
    path = tmp_path / "log.txt"
    written = Log(path, as_json=False)
    for number in range(40):
        written.write("engine", f"line {number} {'x' * 40}")
    written.close()
    names = sorted(item.name for item in tmp_path.iterdir())
    assert names == ["log.txt", *(f"log.txt.{number}" for number in range(1, log.KEPT + 1))]
    assert "line 39" in path.read_text(encoding="utf-8")
