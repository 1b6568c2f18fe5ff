"""Tokens of prompts, made in a process of its own: `python -m fledge.engines.prompt_encoder DESCRIPTOR`.

A model's chat template and tokenizer can be made to work without end, to take all memory or to crash; what one
prompt sets off must not take the engine from others. The child ends itself after some seconds of processor time (so
that a busy machine changes nothing) and cannot grow beyond its memory. It is killed for one prompt and started anew
for the next.
"""

import contextlib
import resource
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from fledge.core.errors import FledgeError, InputError
from fledge.core.frames import Frames, frame
from fledge.core.processes import module_command
from fledge.core.types import Message
from fledge.engines.text import Encoded, Text, TextConfig

TIME_LIMIT_S = 2.0
CHARACTERS_PER_S = 200_000  # a slow processor's; a long prompt has more time
MEMORY_LIMIT_BYTES = 1 << 30
TOKENIZER_COPIES = 24  # what a tokenizer takes in memory, as a multiple of its file
SEND_BUFFER_BYTES = 1 << 20

Done = Callable[["Encoded | FledgeError"], None]


class _Request(msgspec.Struct, array_like=True):
    """One of `text` and `messages` is set."""

    room: int
    text: str | None = None
    messages: list[tuple[str, str]] | None = None

    @property
    def characters(self) -> int:
        return len(self.text or "") + sum(len(content) for _, content in self.messages or ())


class _Reply(msgspec.Struct, array_like=True):
    """Tokens, or an error."""

    token_ids: list[int] = []
    turns_left_out: int = 0
    error: str = ""
    hint: str = ""


_encode = msgspec.msgpack.Encoder().encode
_reply = msgspec.msgpack.Decoder(_Reply).decode
_request = msgspec.msgpack.Decoder(_Request).decode


class _Waiting(NamedTuple):
    frame: bytes
    done: Done


@dataclass
class _Child:
    """A running child and our end of its line."""

    process: "subprocess.Popen[bytes]"
    line: socket.socket
    frames: Frames
    unsent: bytearray
    ready: bool = False


class PromptEncoder:
    """Gives prompts to the child and takes their tokens, in order, without waiting: whoever has it watches `line`."""

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._waiting: deque[_Waiting] = deque()
        self._child = self._spawn()

    @property
    def line(self) -> socket.socket:
        """To be watched for reading, and for writing while `is_full`. It changes when the child is started anew."""
        return self._child.line

    @property
    def is_full(self) -> bool:
        """Whether the child has yet to take some of what was given."""
        return bool(self._child.unsent)

    def send(self, prompt: str | Sequence[Message], room: int, done: Done) -> None:
        """Call `done` with the prompt's tokens, or the error, once `receive` finds them."""
        if isinstance(prompt, str):
            request = _Request(room, prompt)
        else:
            request = _Request(room, None, [(turn.role, turn.content) for turn in prompt])
        try:
            body = _encode(request)
        except UnicodeEncodeError:
            done(InputError("the prompt is not valid Unicode text"))
            return
        self._waiting.append(_Waiting(frame(0, body), done))
        self._child.unsent += self._waiting[-1].frame
        self.flush()

    def flush(self) -> None:
        """Give the child as much as it takes now."""
        child = self._child
        with contextlib.suppress(OSError):  # it is full, or has ended, which `receive` sees
            while child.unsent:
                del child.unsent[: child.line.send(child.unsent[:SEND_BUFFER_BYTES])]

    def receive(self) -> None:
        """Take what the child has done; where it has ended, that is the end of the prompt it was at.

        Raises `FledgeError` where it cannot even load the tokenizer.
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
            self._waiting.popleft().done(_outcome(_reply(body)))

    def exchange(self) -> None:
        """Both, when the line is ready for one of them."""
        self.flush()
        self.receive()

    def close(self) -> None:
        """End the child; nobody hears of what it was given."""
        self._waiting.clear()
        self._end()

    def _restart(self) -> None:
        code = self._end()
        if not self._child.ready:
            raise FledgeError("the model's tokenizer cannot be loaded", hint="fetch the model again, or name another")
        self._child = self._spawn()
        if self._waiting:
            limit = "too much time" if code == -signal.SIGPROF else "too much memory, or crashed"
            reason = f"the model's tokenizer or chat template took {limit} on this prompt"
            self._waiting.popleft().done(InputError(reason, hint="shorten the prompt"))
        self._child.unsent += b"".join(item.frame for item in self._waiting)
        self.flush()

    def _end(self) -> int:
        child = self._child
        child.line.close()
        child.process.kill()
        return child.process.wait()

    def _spawn(self) -> _Child:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [*module_command(__name__), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        ours.sendall(frame(0, _encode(self._config)))
        ours.setblocking(False)
        return _Child(process, ours, Frames(), bytearray())


def _outcome(reply: _Reply) -> Encoded | FledgeError:
    if reply.error:
        return InputError(reply.error, reply.hint)
    return Encoded(reply.token_ids, reply.turns_left_out)


def _answer(text: Text, request: _Request) -> _Reply:
    turns = [Message(*turn) for turn in request.messages or ()]  # type: ignore[arg-type]
    prompt = request.text if request.text is not None else turns
    try:
        encoded = text.encode(prompt, request.room)
    except InputError as error:
        return _Reply(error=error.message, hint=error.hint)
    except MemoryError:
        return _Reply(error="the model's tokenizer took too much memory on this prompt", hint="shorten the prompt")
    except BaseException as error:  # noqa: BLE001 (the tokenizer's own panics are no exceptions)
        return _Reply(error=f"the model's tokenizer failed on this prompt: {error}"[:500], hint="change the prompt")
    return _Reply(encoded.token_ids, encoded.turns_left_out)


def _limit(config: TextConfig) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; our end is that of the line
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    memory = MEMORY_LIMIT_BYTES + TOKENIZER_COPIES * len(config.tokenizer)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """The child: a `TextConfig`, then prompts, and a reply to each."""
    line = socket.socket(fileno=int(sys.argv[1]))
    frames, text = Frames(), None
    while data := line.recv(1 << 20):
        for _, body in frames.feed(data):
            if text is None:
                config = msgspec.msgpack.decode(body, type=TextConfig)
                _limit(config)
                text = Text(config)
                line.sendall(frame(0, b""))
                continue
            request = _request(body)
            signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S + request.characters / CHARACTERS_PER_S)
            reply = _answer(text, request)
            signal.setitimer(signal.ITIMER_PROF, 0)
            line.sendall(frame(0, _encode(reply)))


if __name__ == "__main__":
    main()
