"""Run fledge modules as subprocesses."""

import ctypes
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PR_SET_PDEATHSIG = 1  # of Linux's prctl
_RUN = (  # import the fledge of this process even if another is installed; leave other imports unchanged
    "import runpy, sys; sys.path.insert(0, {root!r}); import fledge; sys.path.append(sys.path.pop(0)); {first}"
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)
_BOUND = "from fledge.core.processes import end_with_parent; end_with_parent({parent}); "


def module_command(module: str, *, bound: bool = False) -> list[str]:
    """Return the command that runs a module of fledge, also if fledge is not installed but packaged with a model.

    The kernel kills a `bound` process when the thread that started it ends.
    """
    first = _BOUND.format(parent=os.getpid()) if bound else ""
    return [sys.executable, "-c", _RUN.format(root=str(ROOT), module=module, first=first)]


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends. Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has ended already
        os._exit(1)
