"""Signals as something that can be waited for beside other input."""

import signal
import socket

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Signals:
    """From its making on, the process's signals are read here and do nothing else."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        signal.set_wakeup_fd(self._theirs.fileno())
        for number in HEARD:
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        return self._ours.fileno()

    def take(self) -> bytes:
        """The numbers of those that came, a byte each."""
        return self._ours.recv(64)
