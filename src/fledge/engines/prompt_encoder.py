"""Encode prompts in a child process: `python -m fledge.engines.prompt_encoder DESCRIPTOR`.

A hostile chat template or tokenizer can loop forever, exhaust memory or crash on a prompt; other prompts must not
suffer. The child has a limit of CPU time (so that a busy machine makes no difference) and of memory for each prompt,
and is restarted after it dies.
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

from fledge.core.errors import FledgeError, InputError, rebuild
from fledge.core.frames import Frames, frame
from fledge.core.generation import GenerationParams
from fledge.core.processes import module_command
from fledge.core.types import Message
from fledge.engines.engine import PromptInput
from fledge.engines.stream import Stream
from fledge.engines.text import Encoded, Text, TextConfig, check_tokens

TIME_LIMIT_S = 2.0
CHARACTERS_PER_S = 200_000  # on a slow CPU; long prompts get more time
MEMORY_LIMIT_BYTES = 1 << 30
TOKENIZER_COPIES = 24  # memory of a tokenizer, as a multiple of its file size
SEND_BUFFER_BYTES = 1 << 20

Done = Callable[["Encoded | FledgeError"], None]


class _Request(msgspec.Struct, array_like=True):
    """A prompt; either `text` or `messages` is set."""

    room: int
    text: str | None = None
    messages: list[tuple[str, str]] | None = None

    @property
    def characters(self) -> int:
        return len(self.text or "") + sum(len(content) for _, content in self.messages or ())


class _Reply(msgspec.Struct, array_like=True):
    """Tokens, or an error of the class `kind`."""

    token_ids: list[int] = []
    turns_left_out: int = 0
    error: str = ""
    hint: str = ""
    kind: str = "InputError"


_encode = msgspec.msgpack.Encoder().encode
_reply = msgspec.msgpack.Decoder(_Reply).decode
_request = msgspec.msgpack.Decoder(_Request).decode


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


class PromptEncoder:
    """Sends prompts to the child and receives their tokens in order, without blocking; its owner polls `line`."""

    def __init__(self, config: TextConfig) -> None:
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

    def send(self, prompt: str | Sequence[Message], room: int, done: Done) -> None:
        """Send a prompt; `receive` will call `done` with its tokens or the error."""
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
        """Send as much as the child's socket accepts."""
        child = self._child
        with contextlib.suppress(OSError):  # the buffer is full, or the child has died, which `receive` handles
            while child.unsent:
                del child.unsent[: child.line.send(child.unsent[:SEND_BUFFER_BYTES])]

    def receive(self) -> None:
        """Receive replies. If the child has died, fail the current prompt and restart it.

        Raises `FledgeError` if the child cannot load the tokenizer.
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
            self._waiting.popleft().done(_to_result(_reply(body)))

    def exchange(self) -> None:
        """Send and receive, when the line is ready."""
        self.flush()
        self.receive()

    def close(self) -> None:
        """End the child and drop its prompts."""
        self._waiting.clear()
        self._kill()

    def _restart(self) -> None:
        code = self._kill()
        if not self._child.ready:
            raise FledgeError("the model's tokenizer cannot be loaded", hint="fetch the model again, or name another")
        self._child = self._spawn()
        if self._waiting:
            limit = "too much time" if code == -signal.SIGPROF else "too much memory, or crashed"
            reason = f"the model's tokenizer or chat template took {limit} on this prompt"
            self._waiting.popleft().done(InputError(reason, hint="shorten the prompt"))
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


def encode_prompt(
    encoder: PromptEncoder,
    config: TextConfig,
    prompt: PromptInput,
    params: GenerationParams,
    stream: Stream,
    begin: Callable[[Encoded], None],
) -> None:
    """Call `begin` with the tokens of a prompt, later for text and conversations. An error fails the stream."""

    def done(encoded: Encoded | FledgeError) -> None:
        if isinstance(encoded, FledgeError):
            stream.fail(encoded)
        else:
            begin(encoded)

    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], Message)):
        encoder.send(prompt, params.max_tokens, done)  # type: ignore[arg-type]
        return
    try:
        token_ids = [int(token) for token in prompt]  # type: ignore[arg-type]
        check_tokens(token_ids, params.max_tokens, config)
    except InputError as error:
        stream.fail(error)
        return
    begin(Encoded(token_ids, 0))


def _to_result(reply: _Reply) -> Encoded | FledgeError:
    if reply.error:
        return rebuild(reply.kind, reply.error, reply.hint)
    return Encoded(reply.token_ids, reply.turns_left_out)


def _encode_prompt(text: Text, request: _Request) -> _Reply:
    turns = [Message(*turn) for turn in request.messages or ()]  # type: ignore[arg-type]
    prompt = request.text if request.text is not None else turns
    try:
        encoded = text.encode(prompt, request.room)
    except InputError as error:
        return _Reply(error=error.message, hint=error.hint, kind=type(error).__name__)
    except MemoryError:
        return _Reply(error="the model's tokenizer took too much memory on this prompt", hint="shorten the prompt")
    except BaseException as error:  # noqa: BLE001 (the tokenizer's panics are not an Exception)
        return _Reply(error=f"the model's tokenizer failed on this prompt: {error}"[:500], hint="change the prompt")
    return _Reply(encoded.token_ids, encoded.turns_left_out)


def _limit_resources(config: TextConfig) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C; this process ends with the line
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    memory = MEMORY_LIMIT_BYTES + TOKENIZER_COPIES * len(config.tokenizer)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Run the child: receive a `TextConfig`, then prompts, and send a reply to each."""
    line = socket.socket(fileno=int(sys.argv[1]))
    frames, text = Frames(), None
    while data := line.recv(1 << 20):
        for _, body in frames.feed(data):
            if text is None:
                config = msgspec.msgpack.decode(body, type=TextConfig)
                _limit_resources(config)
                text = Text(config)
                line.sendall(frame(0, b""))
                continue
            request = _request(body)
            signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S + request.characters / CHARACTERS_PER_S)
            reply = _encode_prompt(text, request)
            signal.setitimer(signal.ITIMER_PROF, 0)
            line.sendall(frame(0, _encode(reply)))


if __name__ == "__main__":
    main()
