"""Modules of ours as programs of their own."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_RUN = "import runpy, sys; sys.path.append({root!r}); runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"


def module_command(module: str) -> list[str]:
    """What runs one of our modules; as `python -m`, also where fledge is not installed, but lies beside a model."""
    return [sys.executable, "-c", _RUN.format(root=str(ROOT), module=module)]
