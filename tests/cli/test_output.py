"""Output on terminals and pipes."""

import os
import subprocess
import sys
from pathlib import Path

from fledge.core.settings import Workspace
from tests.conftest import Run


def test_terminal_shows_progress_bar_and_messages(workspace: Workspace) -> None:
    ours, theirs = os.openpty()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fledge", "experiment", "--engine", "scripted", "--limit", "30"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**clean, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the command has ended
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(240) == 0, shown.decode()
    text = shown.decode()
    assert "/120 answers, 0 failed" in text
    assert "tokens/s" in text
    assert "next: fledge compare" in text


def test_pipe_closed_early_is_not_an_error(fledge: Run, tmp_path: Path) -> None:
    for flags in (("questions", "show", "default"), ("questions", "show", "default", "--json")):
        command = [sys.executable, "-m", "fledge", *flags]
        running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert running.stdout is not None
        running.stdout.close()
        _, said = running.communicate(timeout=240)
        assert running.returncode == 0, said
        assert b"Error" not in said


def test_escape_sequences_in_data_are_escaped(fledge: Run, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "a\\u001b[2Jb?"}\n')
    done = fledge("questions", "show", "q.jsonl", cwd=tmp_path)
    assert "\x1b" not in done.stdout
    assert "a\\x1b[2Jb?" in done.stdout
