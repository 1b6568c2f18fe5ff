"""A child process for work on input that may loop forever, exhaust memory or crash: the others must not suffer.

The child has a limit of CPU time (so that a busy machine makes no difference) for each item and of memory, and is
restarted after it dies.
"""

import abc
import contextlib
import resource
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from fledge.core.errors import FledgeError
from fledge.core.frames import Frames, frame
from fledge.core.processes import module_command

SEND_BUFFER_BYTES = 1 << 20

Done = Callable[["bytes | FledgeError"], None]
Handle = Callable[[bytes], bytes]
Prepare = Callable[[bytes], Handle]


class _Waiting(NamedTuple):
    frame: bytes
    done: Done


@dataclass
class _Child:
    """A running child and our end of its socket pair."""

    process: "subprocess.Popen[bytes]"
    line: socket.socket
    frames: Frames
    unsent: bytearray
    ready: bool = False


class GuardedChild(abc.ABC):
    """Sends items to a child and receives its replies in order, without blocking; the owner polls `line`."""

    module: ClassVar[str]

    def __init__(self, config: bytes) -> None:
        self._config = config
        self._waiting: deque[_Waiting] = deque()
        self._child = self._spawn()

    @property
    def line(self) -> socket.socket:
        """The socket to poll for reading, and for writing while `is_full`. It changes when the child restarts."""
        return self._child.line

    @property
    def is_full(self) -> bool:
        """Whether data for the child is still unsent."""
        return bool(self._child.unsent)

    def submit(self, body: bytes, done: Done) -> None:
        """Send an item; `receive` will call `done` with the reply, or with the error if the child died of it."""
        self._waiting.append(_Waiting(frame(0, body), done))
        self._child.unsent += self._waiting[-1].frame
        self.flush()

    def flush(self) -> None:
        """Send as much as the child's socket accepts."""
        child = self._child
        with contextlib.suppress(OSError):  # the buffer is full, or the child has died, which `receive` handles
            while child.unsent:
                del child.unsent[: child.line.send(child.unsent[:SEND_BUFFER_BYTES])]

    def receive(self) -> None:
        """Receive replies. If the child has died, fail the current item and restart the child.

        Raises `FledgeError` if the child cannot start.
        """
        try:
            data = self._child.line.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._restart()
            return
        for _, body in self._child.frames.feed(data):
            if not self._child.ready:
                self._child.ready = True
                continue
            self._waiting.popleft().done(body)

    def exchange(self) -> None:
        """Send and receive, when the line is ready."""
        self.flush()
        self.receive()

    def close(self) -> None:
        """End the child and drop its items."""
        self._waiting.clear()
        self._kill()

    @abc.abstractmethod
    def _explain_death(self, limit: str) -> FledgeError:
        """Return the error for an item that took the child beyond a `limit`."""

    @abc.abstractmethod
    def _explain_no_start(self) -> FledgeError:
        """Return the error for a child that died before it was ready."""

    def _restart(self) -> None:
        code = self._kill()
        if not self._child.ready:
            raise self._explain_no_start()
        self._child = self._spawn()
        if self._waiting:
            limit = "too much time" if code == -signal.SIGPROF else "too much memory, or crashed"
            self._waiting.popleft().done(self._explain_death(limit))
        self._child.unsent += b"".join(item.frame for item in self._waiting)
        self.flush()

    def _kill(self) -> int:
        child = self._child
        child.line.close()
        child.process.kill()
        return child.process.wait()

    def _spawn(self) -> _Child:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [*module_command(self.module), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        ours.sendall(frame(0, self._config))
        ours.setblocking(False)
        return _Child(process, ours, Frames(), bytearray())


def limit_memory(size: int) -> None:
    """Limit the address space of this process, in bytes; a crash leaves no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time(seconds: float) -> None:
    """Let the kernel end this process after `seconds` more of CPU time; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def serve(prepare: Prepare) -> None:
    """Run the child: `prepare` gets the config and returns what makes a reply from an item."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C; this process ends with the line
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    line = socket.socket(fileno=int(sys.argv[1]))
    frames = Frames()
    handle: Handle | None = None
    while data := line.recv(1 << 20):
        for _, body in frames.feed(data):
            if handle is None:
                handle = prepare(body)
                line.sendall(frame(0, b""))
                continue
            reply = handle(body)
            limit_time(0)
            line.sendall(frame(0, reply))
