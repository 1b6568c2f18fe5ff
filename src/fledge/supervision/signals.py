"""Signals as a file descriptor that a selector can wait for."""

import signal
import socket

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Signals:
    """Redirects the process's signals to a socket from its creation on."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        signal.set_wakeup_fd(self._theirs.fileno())
        for number in HANDLED:
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        return self._ours.fileno()

    def take(self) -> bytes:
        """Return the numbers of received signals, one byte each."""
        return self._ours.recv(64)
