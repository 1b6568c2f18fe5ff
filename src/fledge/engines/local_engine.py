"""An engine of this machine, in a process of its own, as the program that started it asks it."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import IO

import msgspec

from fledge.core import errors
from fledge.core.control import decode_events, encode_config
from fledge.core.endpoint_config import EngineConfig
from fledge.core.errors import FledgeError, InputError
from fledge.core.events import ChildReady, StartFailed, StartProgress
from fledge.core.frames import ASK, CANCEL, Frames, frame
from fledge.core.generation import GenerationParams
from fledge.core.interrupts import postpone_interrupts
from fledge.core.messages import Ask, Cancel, Piece
from fledge.core.processes import module_command
from fledge.core.types import EngineInfo, Message, Say
from fledge.engines.engine import EngineGoneError, PromptInput, Stats
from fledge.engines.settings import EngineSettings
from fledge.engines.stream import Chunk, FinishReason, Stream, Usage
from fledge.models.snapshot import Snapshot

log = logging.getLogger(__name__)

MOST_RESTARTS = 1

_encode = msgspec.msgpack.Encoder().encode
_pieces = msgspec.msgpack.Decoder(list[Piece]).decode


@dataclass
class _Asked:
    """A prompt under way: its message, the line on which it was sent, and the tokens of each answer."""

    ask: Ask
    stream: Stream
    line: socket.socket
    counts: dict[int, int] = field(default_factory=dict)


class EngineConnection:
    """Asks the engine at the other end of a line. `EngineGoneError` ends what was asked when the line ends."""

    def __init__(self, line: socket.socket, info: EngineInfo) -> None:
        self.info = info
        self._line = line
        self._sending = threading.Lock()
        self._changing = threading.Lock()  # of what is under way
        self._asked: dict[str, _Asked] = {}
        self._generated_tokens = 0
        self._lost: FledgeError | None = None
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._reader.start()

    def submit(self, prompt: PromptInput, params: GenerationParams) -> Stream:
        identity = secrets.token_hex(8)
        stream = Stream(n=params.n)
        stream.on_cancel = partial(self._cancel, identity)
        ask = _ask(identity, prompt, params)
        with self._changing:
            if self._lost is not None:
                raise self._lost
            line = self._line
            self._asked[identity] = _Asked(ask, stream, line)
        self._send(ASK, ask, line)
        return stream

    def stats(self) -> Stats:
        return Stats(len(self._asked), self._generated_tokens)

    def close(self) -> None:
        """Hang up; what is under way fails."""
        self._end(FledgeError("the engine was closed"))
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._line.close()

    def _cancel(self, identity: str) -> None:
        self._send(CANCEL, Cancel(identity), self._line)

    def _send(self, kind: int, message: Ask | Cancel, line: socket.socket) -> None:
        with self._sending, contextlib.suppress(OSError):  # the reader sees the end of the line
            line.sendall(frame(kind, _encode(message)))

    def _read(self) -> None:
        while True:
            frames = Frames()
            with contextlib.suppress(OSError):
                while data := self._line.recv(1 << 18):
                    for _, body in frames.feed(data):
                        for piece in _pieces(body):
                            self._take(piece)
            try:
                if not self._reconnect():
                    return
            except FledgeError as error:
                self._end(error)
                return

    def _reconnect(self) -> bool:
        """Whether there is a new line, now that the old one has ended."""
        self._end(EngineGoneError("lost the connection to the engine"))
        return False

    def _take(self, piece: Piece) -> None:
        asked = self._asked.get(piece.id)
        if asked is None:
            return
        stream = asked.stream
        if piece.error:
            self._forget(piece.id)
            stream.fail((InputError if piece.error_kind == "input" else FledgeError)(piece.error, piece.hint))
            return
        stream.prompt_tokens, stream.turns_left_out = piece.prompt_tokens, piece.turns_left_out
        self._generated_tokens += len(piece.token_ids)
        count = asked.counts[piece.index] = asked.counts.get(piece.index, 0) + len(piece.token_ids)
        chunk = _chunk(piece, count)
        if piece.finish_reason and stream.is_last(chunk):
            self._forget(piece.id)
        stream.put(chunk)

    def _forget(self, identity: str) -> None:
        with self._changing:
            self._asked.pop(identity, None)

    def _end(self, error: FledgeError) -> None:
        with self._changing:
            self._lost = self._lost or error
            asked, self._asked = list(self._asked.values()), {}
        for item in asked:
            item.stream.fail(self._lost)


class LocalEngine(EngineConnection):
    """A process that runs a model's engine, and ends with this one.

    It starts at once; ask it after `wait_ready`. One that dies is started once more, and what it was asked is asked
    again; after that `EngineGoneError` ends all.
    """

    def __init__(self, settings: EngineSettings, model: Snapshot, say: Say) -> None:
        """`say` is told what takes long."""
        self._config = EngineConfig(_settings(settings), model={**asdict(model), "path": str(model.path)})
        self._say = say
        self._restarts = 0
        self._closing = threading.Event()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the engine)
        self._ready = False
        with postpone_interrupts():
            self._child, self._control, self._line = self._spawn()

    def wait_ready(self) -> None:
        """Wait until it can be asked. Raises what kept the engine from starting."""
        try:
            info = self._wait()
        except BaseException:
            self.close()
            raise
        super().__init__(self._line, info)
        self._ready = True
        log.debug("engine %s is ready (process %d)", info.name, self.pid)

    @property
    def pid(self) -> int:
        """The process of the engine."""
        return self._child.pid

    def close(self) -> None:
        self._closing.set()
        self._kill()
        if self._ready:
            super().close()
        self._line.close()
        self._said.close()

    def _reconnect(self) -> bool:
        if self._closing.is_set():
            return False
        code = self._kill()
        reason = f"the engine process {_cause(code)}{self._last_words()}"
        if self._restarts >= MOST_RESTARTS:
            self._end(
                EngineGoneError(
                    f"{reason}, for the second time", hint="run fledge doctor, or limit the cache with --cache-gb"
                )
            )
            return False
        self._restarts += 1
        with self._changing:
            again = [item for item in self._asked.values() if item.stream.restart()]
            lost = [item for item in self._asked.values() if item not in again]
            self._asked = {item.ask.id: item for item in again}
        for item in lost:
            item.stream.fail(EngineGoneError(reason, hint="retry in a few seconds"))
        self._say(f"{reason}; restarting it and retrying the prompts in progress: {len(again)}")
        self._child, self._control, line = self._spawn()
        try:
            self._wait()
        except FledgeError:
            line.close()
            raise
        if self._closing.is_set():
            self._kill()
            line.close()
            return False
        with self._changing:
            old, self._line = self._line, line
            waiting = [item for item in self._asked.values() if item.line is old]  # also what came meanwhile
            for item in waiting:
                item.line = line
                item.counts.clear()
        old.close()
        for item in waiting:
            self._send(ASK, item.ask, line)
        return True

    def _spawn(self) -> "tuple[subprocess.Popen[bytes], socket.socket, socket.socket]":
        control, its_control = socket.socketpair()
        line, its_line = socket.socketpair()
        inherited = (its_control.fileno(), its_line.fileno())
        child = subprocess.Popen(
            [*module_command("fledge.engines.process"), str(its_control.fileno())],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C in the terminal is for us, who end it
        )
        control.sendall(encode_config(replace(self._config, lines=(its_line.fileno(),))))
        its_control.close()
        its_line.close()
        return child, control, line

    def _wait(self) -> EngineInfo:
        with self._control.makefile("rb") as lines:
            for event in decode_events(lines, self._refuse):
                match event:
                    case ChildReady(EngineInfo() as info):
                        return info
                    case StartProgress(text):
                        self._say(text)
                    case StartFailed(error, hint, kind):
                        self._kill()
                        raise errors.rebuild(kind, error, hint)
        code = self._kill()
        raise EngineGoneError(
            f"the engine process {_cause(code)} while it started{self._last_words()}", hint="fledge doctor"
        )

    def _refuse(self, reason: str) -> None:
        self._say(f"message of the engine process refused: {reason}")

    def _kill(self) -> int:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)  # with what it has started
        self._control.close()
        return self._child.wait()

    def _last_words(self) -> str:
        return _last_line(self._said)


def _settings(settings: EngineSettings) -> dict[str, str | bool | int | float]:
    common = {item.name: getattr(settings, item.name) for item in fields(EngineSettings)}
    return {**common, "tracking_uri": ""}  # not the engine's business, and it may hold a password


def _ask(identity: str, prompt: PromptInput, params: GenerationParams) -> Ask:
    ask = Ask(identity, asdict(params))
    if isinstance(prompt, str):
        return replace(ask, text=str(prompt))  # LangChain has a kind of its own, which msgpack does not take
    turns: list[tuple[str, str]] = [(turn.role, str(turn.content)) for turn in prompt if isinstance(turn, Message)]
    if turns:
        return replace(ask, messages=turns)
    return replace(ask, token_ids=[int(token) for token in prompt])  # type: ignore[arg-type]


def _chunk(piece: Piece, count: int) -> Chunk:
    pairs: Sequence[tuple[str, float]] = piece.logprobs or ()
    reason: FinishReason | None = piece.finish_reason  # type: ignore[assignment]
    return Chunk(
        piece.text,
        tuple(piece.token_ids),
        reason,
        tuple(value for _, value in pairs),
        piece.index,
        Usage(piece.prompt_tokens, count) if reason else None,
        tuple(text for text, _ in pairs),
        piece.made_ns,
    )


def _cause(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    memory = ": possibly out of memory" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{memory}"


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return f" ({lines[-1][:300]})" if lines else ""
