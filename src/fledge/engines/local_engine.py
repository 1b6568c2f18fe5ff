"""Start a local engine in its own process, and send it prompts."""

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
from fledge.core.errors import FledgeError, rebuild
from fledge.core.events import ChildReady, StartFailed, StartProgress
from fledge.core.frames import ASK, CANCEL, Frames, frame
from fledge.core.generation import GenerationParams
from fledge.core.interrupts import postpone_interrupts
from fledge.core.messages import Ask, Cancel, Piece, TokenScore
from fledge.core.processes import module_command
from fledge.core.types import EngineInfo, Message, Say
from fledge.engines.engine import EngineGoneError, PromptInput, Stats
from fledge.engines.settings import EngineSettings
from fledge.engines.stream import Chunk, FinishReason, Stream, Usage
from fledge.models.snapshot import Snapshot

log = logging.getLogger(__name__)

MAX_RESTARTS = 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Piece]).decode


@dataclass
class _PendingPrompt:
    """A prompt in progress: its message, the connection that it was sent on, and the tokens of each answer."""

    ask: Ask
    stream: Stream
    line: socket.socket
    counts: dict[int, int] = field(default_factory=dict)


class EngineConnection:
    """A connection to an engine process. If it is lost, all answers fail with `EngineGoneError`."""

    def __init__(self, line: socket.socket, info: EngineInfo) -> None:
        self.info = info
        self._line = line
        self._send_lock = threading.Lock()
        self._pending_lock = threading.Lock()
        self._pending: dict[str, _PendingPrompt] = {}
        self._generated_tokens = 0
        self._lost: FledgeError | None = None
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._reader.start()

    def submit(self, prompt: PromptInput, params: GenerationParams) -> Stream:
        identity = secrets.token_hex(8)
        stream = Stream(n=params.n)
        stream.on_cancel = partial(self._cancel, identity)
        ask = _create_ask(identity, prompt, params)
        with self._pending_lock:
            if self._lost is not None:
                raise self._lost
            line = self._line
            self._pending[identity] = _PendingPrompt(ask, stream, line)
        self._send(ASK, ask, line)
        return stream

    def stats(self) -> Stats:
        return Stats(len(self._pending), self._generated_tokens)

    def close(self) -> None:
        """Close the connection; answers in progress fail."""
        self._fail_all(FledgeError("the engine was closed"))
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._line.close()

    def _cancel(self, identity: str) -> None:
        self._send(CANCEL, Cancel(identity), self._line)

    def _send(self, kind: int, message: Ask | Cancel, line: socket.socket) -> None:
        with self._send_lock, contextlib.suppress(OSError):  # the reader notices a closed connection
            line.sendall(frame(kind, _encode(message)))

    def _read(self) -> None:
        while True:
            frames = Frames()
            with contextlib.suppress(OSError):
                while data := self._line.recv(1 << 18):
                    for _, body in frames.feed(data):
                        for piece in _decode(body):
                            self._handle_piece(piece)
            try:
                if not self._reconnect():
                    return
            except FledgeError as error:
                self._fail_all(error)
                return

    def _reconnect(self) -> bool:
        """Restore a lost connection. Returns whether that was possible; without it, all answers have failed."""
        self._fail_all(EngineGoneError("lost the connection to the engine"))
        return False

    def _handle_piece(self, piece: Piece) -> None:
        pending = self._pending.get(piece.id)
        if pending is None:
            return
        stream = pending.stream
        if piece.error:
            self._forget(piece.id)
            stream.fail(rebuild(piece.error_kind, piece.error, piece.hint))
            return
        stream.prompt_tokens, stream.turns_left_out = piece.prompt_tokens, piece.turns_left_out
        self._generated_tokens += len(piece.token_ids)
        count = pending.counts[piece.index] = pending.counts.get(piece.index, 0) + len(piece.token_ids)
        chunk = _to_chunk(piece, count)
        if piece.finish_reason and stream.is_last(chunk):
            self._forget(piece.id)
        stream.put(chunk)

    def _forget(self, identity: str) -> None:
        with self._pending_lock:
            self._pending.pop(identity, None)

    def _fail_all(self, error: FledgeError) -> None:
        with self._pending_lock:
            self._lost = self._lost or error
            pending, self._pending = list(self._pending.values()), {}
        for item in pending:
            item.stream.fail(self._lost)


class LocalEngine(EngineConnection):
    """A process that runs a model's engine, and ends with this one. It accepts prompts after `wait_ready`.

    If the process dies, it is restarted once, and the prompts in progress are sent again. If it dies again, all answers
    fail with `EngineGoneError`.
    """

    def __init__(self, settings: EngineSettings, model: Snapshot, say: Say) -> None:
        """`say` receives progress messages."""
        self._config = EngineConfig(_engine_settings(settings), model={**asdict(model), "path": str(model.path)})
        self._say = say
        self._restarts = 0
        self._closing = threading.Event()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the engine)
        self._ready = False
        with postpone_interrupts():
            self._child, self._control, self._line = self._spawn()

    def wait_ready(self) -> None:
        """Wait until the engine accepts prompts. Raises the error of a failed start."""
        try:
            info = self._wait_for_start()
        except BaseException:
            self.close()
            raise
        super().__init__(self._line, info)
        self._ready = True
        log.debug("engine %s is ready (process %d)", info.name, self.pid)

    @property
    def pid(self) -> int:
        """The process id of the engine."""
        return self._child.pid

    def close(self) -> None:
        self._closing.set()
        self._kill()
        if self._ready:
            super().close()
        self._line.close()
        self._output.close()

    def _reconnect(self) -> bool:
        if self._closing.is_set():
            return False
        code = self._kill()
        reason = f"the engine process {_describe_exit(code)}{_read_last_line(self._output)}"
        if self._restarts >= MAX_RESTARTS:
            self._fail_all(
                EngineGoneError(
                    f"{reason}, for the second time", hint="run fledge doctor, or limit the cache with --cache-gb"
                )
            )
            return False
        self._restarts += 1
        with self._pending_lock:
            again = [item for item in self._pending.values() if item.stream.restart()]
            lost = [item for item in self._pending.values() if item not in again]
            self._pending = {item.ask.id: item for item in again}
        for item in lost:
            item.stream.fail(EngineGoneError(reason, hint="retry in a few seconds"))
        self._say(f"{reason}; restarting it and retrying the prompts in progress: {len(again)}")
        self._child, self._control, line = self._spawn()
        try:
            self._wait_for_start()
        except FledgeError:
            line.close()
            raise
        if self._closing.is_set():
            self._kill()
            line.close()
            return False
        with self._pending_lock:
            old, self._line = self._line, line
            waiting = [item for item in self._pending.values() if item.line is old]  # including new prompts
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
            stdout=self._output,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches only this process, which ends the engine
        )
        control.sendall(encode_config(replace(self._config, lines=(its_line.fileno(),))))
        its_control.close()
        its_line.close()
        return child, control, line

    def _wait_for_start(self) -> EngineInfo:
        with self._control.makefile("rb") as lines:
            for event in decode_events(lines, self._report_invalid_event):
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
            f"the engine process {_describe_exit(code)} while it started{_read_last_line(self._output)}",
            hint="fledge doctor",
        )

    def _report_invalid_event(self, reason: str) -> None:
        self._say(f"message of the engine process refused: {reason}")

    def _kill(self) -> int:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)  # including its children
        self._control.close()
        return self._child.wait()


def _engine_settings(settings: EngineSettings) -> dict[str, str | bool | int | float]:
    common = {item.name: getattr(settings, item.name) for item in fields(EngineSettings)}
    return {**common, "tracking_uri": ""}  # the engine does not need it, and it may contain a password


def _create_ask(identity: str, prompt: PromptInput, params: GenerationParams) -> Ask:
    ask = Ask(identity, asdict(params))
    if isinstance(prompt, str):
        return replace(ask, text=str(prompt))  # msgpack rejects LangChain's subclass of str
    turns: list[tuple[str, str]] = [(turn.role, str(turn.content)) for turn in prompt if isinstance(turn, Message)]
    if turns:
        return replace(ask, messages=turns)
    return replace(ask, token_ids=[int(token) for token in prompt])  # type: ignore[arg-type]


def _to_chunk(piece: Piece, count: int) -> Chunk:
    scores: Sequence[TokenScore] = piece.logprobs or ()
    reason: FinishReason | None = piece.finish_reason  # type: ignore[assignment]
    return Chunk(
        piece.text,
        tuple(piece.token_ids),
        reason,
        tuple(score.logprob or 0.0 for score in scores),
        piece.index,
        Usage(piece.prompt_tokens, count) if reason else None,
        tuple(score.token for score in scores),
        piece.made_ns,
        tuple(piece.prompt or ()),
    )


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    memory = ": possibly out of memory" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{memory}"


def _read_last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return f" ({lines[-1][:300]})" if lines else ""
