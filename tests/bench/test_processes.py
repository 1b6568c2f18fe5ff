"""A measured process and its children always end."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from fledge.bench.processes import BenchDeadlineError, run
from fledge.core.errors import FledgeError
from tests.conftest import PATIENCE_S

# Writes its process id and that of a child that ignores SIGTERM, then hangs.
HANGING = """
    import json, os, signal, subprocess, sys, time
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", ignore])
    sys.stdout.write(json.dumps({"pids": [os.getpid(), child.pid]}) + "\\n")
    sys.stdout.write('{"half a li')
    sys.stdout.flush()
    time.sleep(600)
"""


def _program(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def _have_ended(pids: list[int]) -> bool:
    """Return whether all of these processes end; a zombie counts as ended."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, left = psutil.wait_procs([one for one in processes if one.status() != psutil.STATUS_ZOMBIE], timeout=PATIENCE_S)
    return not left


def test_lines_and_memory_are_measured() -> None:
    counts: list[int] = []
    measured = run(_program("""
        import time
        print('{"a": 1}', flush=True)
        time.sleep(2)
        print('{"a": 2}')
    """), PATIENCE_S, counts.append)  # fmt: skip
    assert measured.lines == [{"a": 1}, {"a": 2}]
    assert counts == [1, 2]
    assert measured.memory_bytes > 1_000_000


def test_the_error_of_a_failed_process_has_its_last_line() -> None:
    with pytest.raises(FledgeError, match="a measured process exited with code 3: it is broken"):
        run(_program("import sys; sys.stderr.write('first\\nit is broken\\n'); sys.exit(3)"), PATIENCE_S)


def test_a_hung_process_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = HANGING.replace(
        "sys.stdout.flush()", f"sys.stdout.flush(); open({str(pids)!r}, 'w').write(str(child.pid))"
    )
    with pytest.raises(BenchDeadlineError, match="it wrote nothing for 5 s"):
        run(_program(program), 5.0)
    assert _have_ended([int(pids.read_text())])


def test_no_process_outlives_a_killed_benchmark() -> None:
    """This includes children in their own session and programs that do not use `run`."""
    bench = f"""
        import subprocess
        from fledge.bench.guard import guard_processes
        with guard_processes():
            subprocess.run({_program(HANGING)!r}, start_new_session=True)
    """
    with subprocess.Popen(_program(bench), stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout
        pids = json.loads(killed.stdout.readline())["pids"]
        pids += [child.pid for child in psutil.Process(killed.pid).children(recursive=True)]
        assert len(set(pids)) == 3  # including the guard
        killed.kill()
    assert _have_ended(pids)


def test_no_process_outlives_its_guarded_block() -> None:
    bench = f"""
        import subprocess, sys
        from fledge.bench.guard import guard_processes
        with guard_processes():
            child = subprocess.Popen({_program(HANGING)!r}, start_new_session=True, stdout=subprocess.PIPE, text=True)
            line = child.stdout.readline()
        sys.stdout.write(line)
    """
    done = subprocess.run(_program(bench), capture_output=True, text=True, check=True)
    assert _have_ended(json.loads(done.stdout)["pids"])
