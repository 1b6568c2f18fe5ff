"""Exported models: a damaged one is neither run nor released; an export reports progress and ends with its parent."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from fledge.core.atomic_folder import is_whole
from fledge.engines import openvino_files
from fledge.engines.openvino_files import REVISION, find_or_export
from fledge.models import snapshot
from fledge.registry.package import export

pytestmark = pytest.mark.slow

EXPORT = """
import sys
from pathlib import Path
from fledge.engines.openvino_files import find_or_export
from fledge.models import snapshot

find_or_export(snapshot.resolve("embedded"), Path(sys.argv[1]), "exact", lambda text: print(text, flush=True))
"""


def test_a_damaged_export_is_repeated_before_a_release(tmp_path: Path, engine_cache: Path) -> None:
    model = snapshot.resolve("embedded")
    made = find_or_export(model, engine_cache, "exact", lambda _: None)
    kept = tmp_path / "engines" / made.name
    shutil.copytree(made, kept)
    with (kept / "openvino_model.bin").open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xff" * 4096)
    assert not is_whole(kept)
    messages: list[str] = []
    assert export(model, tmp_path, ("exact",), messages.append, required=True) == {"exact": kept}
    assert messages[0] == "exporting embedded to OpenVINO, once for this model: about 8 s"
    assert any("converting" in text and "about 8 s" in text for text in messages)
    assert is_whole(kept)
    (kept / "more.bin").touch()
    assert not is_whole(kept)


def test_a_long_stage_is_reported_repeatedly(
    tmp_path: Path, engine_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = snapshot.resolve("embedded")
    made = find_or_export(model, engine_cache, "exact", lambda _: None)
    shutil.copytree(made, tmp_path / made.name)
    monkeypatch.setattr(openvino_files, "HEARTBEAT_S", 0.05)
    messages: list[str] = []
    find_or_export(model, tmp_path, "fast", messages.append)
    assert messages[0].startswith("quantizing embedded to int8, once for this model: about ")
    assert len([text for text in messages if "measuring the accuracy of int8" in text]) > 2


def test_waiting_for_another_export_is_reported(tmp_path: Path, engine_cache: Path) -> None:
    model = snapshot.resolve("embedded")
    made = find_or_export(model, engine_cache, "exact", lambda _: None)
    shutil.copytree(made, tmp_path / made.name)
    reported = threading.Event()
    messages: list[str] = []

    def say(text: str) -> None:
        messages.append(text)
        reported.set()

    with (tmp_path / f"{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=find_or_export, args=(model, tmp_path, "exact", say))
        waiting.start()
        assert reported.wait(60)
    waiting.join(60)
    assert not waiting.is_alive()
    assert messages == ["another process is exporting this model; waiting for it, 0 s so far"]


def test_an_export_ends_with_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", EXPORT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    assert next(line for line in parent.stdout if "converting" in line)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert not list(tmp_path.glob(f"*-exact-{REVISION}"))


def test_an_interrupted_export_leaves_no_process(tmp_path: Path) -> None:

    def say(text: str) -> None:
        if "converting" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_or_export(snapshot.resolve("embedded"), tmp_path, "exact", say)
    named = [item.info["cmdline"] or [] for item in psutil.process_iter(["cmdline"])]
    assert not [line for line in named if str(tmp_path) in " ".join(line)]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
