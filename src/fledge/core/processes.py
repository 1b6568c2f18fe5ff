"""Run fledge modules as subprocesses."""

import ctypes
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PR_SET_PDEATHSIG = 1  # of Linux's prctl
_RUN = (  # the fledge of this process, and not one that is installed too; anything else is found as ever
    "import runpy, sys; sys.path.insert(0, {root!r}); import fledge; sys.path.append(sys.path.pop(0)); {first}"
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)
_BOUND = "from fledge.core.processes import end_with_parent; end_with_parent({parent}); "


def module_command(module: str, *, bound: bool = False) -> list[str]:
    """What runs one of our modules; as `python -m`, also where fledge is not installed, but lies beside a model.

    A `bound` program does not outlive the thread that starts it, however that ends.
    """
    first = _BOUND.format(parent=os.getpid()) if bound else ""
    return [sys.executable, "-c", _RUN.format(root=str(ROOT), module=module, first=first)]


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, ends. Linux alone can do that."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
