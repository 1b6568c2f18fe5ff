"""Run a test's own engine in an engine process."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fledge.core.types import EngineInfo
from fledge.engines.local_engine import EngineConnection

SERVE = """
import socket, sys
from fledge.core.processes import end_with_parent
from fledge.engines.process import EngineServer
end_with_parent(int(sys.argv[2]))
EngineServer(engine, lines=(socket.socket(fileno=int(sys.argv[1])),)).run()
"""


@contextmanager
def engine_process(program: str) -> Iterator[EngineConnection]:
    """Run the `engine` that `program` defines, as the engine process does."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-c", program + SERVE, str(theirs.fileno()), str(os.getpid())], pass_fds=(theirs.fileno(),)
    ) as child:
        theirs.close()
        connection = EngineConnection(ours, EngineInfo("test", "cpu", "exact", "as set"))
        try:
            yield connection
        finally:
            connection.close()
            child.kill()
