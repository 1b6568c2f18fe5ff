"""Cleanup after an interruption."""

import subprocess
import sys
from pathlib import Path

KEEP_WRITING = """
import itertools, sys, threading, time
from fledge.core.interrupts import scratch_folder

def download(folder):
    for number in itertools.count():
        (folder / str(number % 10)).mkdir(parents=True, exist_ok=True)
        (folder / str(number % 10) / "file").write_text("x")
        if ended.wait(0.01):
            return

ended = threading.Event()
try:
    with scratch_folder() as folder:
        threading.Thread(target=download, args=(folder,)).start()
        time.sleep(0.1)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    for _ in range(6000):
        if folder.is_dir():
            break
        time.sleep(0.01)
    print(folder, folder.is_dir())
ended.set()
"""


def test_interrupted_download_leaves_no_folder() -> None:
    done = subprocess.run([sys.executable, "-c", KEEP_WRITING], capture_output=True, text=True, check=True)
    folder, _, still_there = done.stdout.strip().rpartition(" ")
    assert still_there == "True"  # the thread wrote after the first deletion
    assert not Path(folder).exists()
