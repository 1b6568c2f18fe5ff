"""Subprocesses: the code they run, and their end with the parent."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from fledge import core

PARENT = """
import subprocess
from fledge.core.processes import module_command

child = subprocess.Popen([*module_command("http.server", bound=True), "0"], stdout=subprocess.PIPE)
child.stdout.readline()  # it is running
print(child.pid, flush=True)
child.wait()
"""


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_bound_process_ends_with_a_killed_parent() -> None:
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environ)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    assert not _has_ended(child)
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while not _has_ended(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _has_ended(child)


def test_bound_process_without_its_parent_exits() -> None:
    program = "from fledge.core.processes import end_with_parent; end_with_parent(1); print('on')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")


def test_subprocess_imports_the_same_fledge_as_its_parent(tmp_path: Path) -> None:
    code = Path(core.__file__).parent
    shutil.copytree(code, tmp_path / "fledge" / "core")
    shutil.copyfile(code.parent / "__init__.py", tmp_path / "fledge" / "__init__.py")
    (tmp_path / "fledge" / "place.py").write_text("import fledge.core\nprint(fledge.core.__file__)\n")
    start = (
        f"import subprocess, sys; sys.path.insert(0, {str(tmp_path)!r}); from fledge.core.processes import *;"
        "subprocess.run(module_command('fledge.place'))"
    )
    found = subprocess.check_output([sys.executable, "-c", start])
    assert Path(found.decode().strip()) == tmp_path / "fledge" / "core" / "__init__.py"
