"""What a terminal shows."""

import os
import subprocess
import sys

from fledge.core.settings import Workspace


def test_a_terminal_shows_a_bar_and_messages(workspace: Workspace) -> None:
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
        except OSError:  # the other end is gone
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    text = shown.decode()
    assert "/120 answers, 0 failed" in text
    assert "tokens/s" in text
    assert "next: fledge compare" in text
