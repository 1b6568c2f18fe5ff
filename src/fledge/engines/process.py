"""The engine process: `python -m fledge.engines.process DESCRIPTOR`. Serves an endpoint or a program on a socket.

One thread repeats: receive messages, advance all answers by one step, send new pieces. A step holds the GIL from start
to end, so other threads would starve.
"""

import math
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec

from fledge.core.control import Control
from fledge.core.decoding import decode
from fledge.core.endpoint_config import EngineConfig
from fledge.core.errors import FledgeError, InputError
from fledge.core.events import ChildReady, Event, StartFailed, StartProgress, StopRequested, SupervisorGone
from fledge.core.frames import ASK, CANCEL, PIECES, Frames, frame
from fledge.core.generation import GenerationParams
from fledge.core.logs import start_logging
from fledge.core.messages import Ask, Cancel, Piece, TokenScore
from fledge.core.types import Message
from fledge.engines import selection
from fledge.engines.engine import LoadedEngine, PromptInput
from fledge.engines.guarded_child import GuardedChild
from fledge.engines.settings import EngineSettings
from fledge.engines.stream import Chunk, Stream
from fledge.models.snapshot import Snapshot
from fledge.releases.manifest import read_cached, snapshot_of

SEND_TIMEOUT_S = 10  # a client that reads nothing for this long is dropped, so that it does not block others

_encode = msgspec.msgpack.Encoder().encode
_decode_ask = msgspec.msgpack.Decoder(Ask).decode
_decode_cancel = msgspec.msgpack.Decoder(Cancel).decode


@dataclass
class _AnswerBuffer:
    """The parts of an answer that is sent in one piece."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    first_token_ns: int = 0
    logprobs: list[TokenScore] = field(default_factory=list)
    prompt: list[TokenScore] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs or []
        self.prompt += piece.prompt or []
        self.first_token_ns = self.first_token_ns or piece.first_token_ns


class ClientConnection:
    """One client's connection. Closing it cancels the client's prompts."""

    def __init__(self, engine: LoadedEngine, line: socket.socket) -> None:
        self.line = line
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
        self._engine = engine
        self._frames = Frames()
        self._streams: dict[str, Stream] = {}
        self._unsent: list[Piece] = []

    def receive(self) -> bool:
        """Handle received messages. Returns False if the connection is closed or a message is invalid."""
        try:
            data = self.line.recv(1 << 18)
            for kind, body in self._frames.feed(data):
                if kind == ASK:
                    self._start(_decode_ask(body))
                elif kind == CANCEL and (stream := self._streams.get(_decode_cancel(body).id)):
                    stream.cancel()
        except (OSError, ValueError, msgspec.MsgspecError):
            return False
        return bool(data)

    def flush(self) -> bool:
        """Send new pieces. Returns False if the client has disconnected or does not read."""
        if not self._unsent:
            return True
        pieces, self._unsent = self._unsent, []
        try:
            self.line.sendall(frame(PIECES, _encode(pieces)))
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.line.close()
        for stream in self._streams.values():
            stream.cancel()

    def _start(self, ask: Ask) -> None:
        try:
            lists = {name: tuple(value) for name, value in ask.params.items() if isinstance(value, list)}
            params = GenerationParams(**{**ask.params, **lists})
        except (ValueError, TypeError) as error:
            self._send_error(ask.id, InputError(str(error)))
            return
        stream = Stream(n=params.n)
        self._streams[ask.id] = stream
        buffers = None if ask.stream else [_AnswerBuffer() for _ in range(params.n)]
        stream.listen(partial(self._on_item, ask.id, stream, buffers))
        self._engine.take(_prompt_of(ask), params, stream)

    def _on_item(
        self, identity: str, stream: Stream, buffers: list[_AnswerBuffer] | None, item: Chunk | Exception
    ) -> None:
        if isinstance(item, Exception):
            self._streams.pop(identity, None)
            self._send_error(identity, item)
            return
        piece = _to_piece(identity, stream, item)
        if buffers is not None:
            buffer = buffers[piece.index]
            buffer.add(piece)
            if piece.finish_reason is None:
                return
            piece = replace(
                piece,
                text="".join(buffer.texts),
                token_ids=buffer.token_ids,
                logprobs=buffer.logprobs or None,
                prompt=buffer.prompt or None,
                first_token_ns=buffer.first_token_ns,
            )
        if piece.finish_reason and stream.is_over:
            self._streams.pop(identity, None)
        self._unsent.append(piece)

    def _send_error(self, identity: str, error: Exception) -> None:
        kind = type(error).__name__ if isinstance(error, InputError) else "engine"
        self._unsent.append(Piece(identity, error=str(error), error_kind=kind, hint=getattr(error, "hint", "")))


def _prompt_of(ask: Ask) -> PromptInput:
    if ask.token_ids is not None:
        return ask.token_ids
    if ask.messages is not None:
        return [Message(*turn) for turn in ask.messages]  # type: ignore[arg-type]
    return ask.text or ""


def _to_piece(identity: str, stream: Stream, chunk: Chunk) -> Piece:
    now = chunk.made_ns or time.time_ns()
    return Piece(
        identity,
        chunk.index,
        chunk.text,
        list(chunk.token_ids),
        stream.prompt_tokens,
        stream.turns_left_out,
        chunk.finish_reason,
        logprobs=_to_scores(chunk),
        prompt=list(chunk.prompt) or None,
        first_token_ns=now,
        made_ns=now,
    )


def _to_scores(chunk: Chunk) -> list[TokenScore] | None:
    if not chunk.logprobs:
        return None
    return list(map(TokenScore, chunk.tokens, chunk.logprobs, chunk.top or [()] * len(chunk.tokens)))


class EngineServer:
    """Runs one engine for the clients that connect to `listener`, or hold the other end of `lines`."""

    def __init__(
        self, engine: LoadedEngine, listener: socket.socket | None = None, lines: tuple[socket.socket, ...] = ()
    ) -> None:
        self._engine = engine
        self._selector = selectors.DefaultSelector()
        self._clients: set[ClientConnection] = set()
        self._watched: dict[GuardedChild, socket.socket] = {}
        self._watch_children()
        if listener is not None:
            self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))
        for line in lines:
            self._add(line)
        engine.between_steps = partial(self._exchange, 0.0)

    def run(self) -> None:
        """Answer prompts until the process is killed."""
        while True:
            self._exchange(0.0 if self._engine.busy else None)
            if self._engine.busy:
                self._engine.turn()

    def warm_up(self) -> None:
        """Generate two tokens. Raises `FledgeError` if the model gives none, or invalid log probabilities."""
        stream = Stream()
        self._engine.take("warm up", GenerationParams(max_tokens=2, logprobs=True, ignore_eos=True), stream)
        while not stream.is_over:
            self._exchange(0.0 if self._engine.busy else None)
            self._engine.turn()
        done = stream.result()
        if not done.token_ids or not all(map(math.isfinite, done.logprobs)):
            raise FledgeError("the model is unusable: its log probabilities are NaN or infinite in the warm-up")

    def _exchange(self, wait_s: float | None) -> None:
        """Send new pieces and receive messages, waiting at most `wait_s` seconds for one; None waits without limit."""
        for client in [client for client in self._clients if not client.flush()]:
            self._drop(client)
        self._watch_children()
        for key, _ in self._selector.select(wait_s):
            key.data()
        for client in [client for client in self._clients if not client.flush()]:  # errors of invalid prompts
            self._drop(client)

    def _watch_children(self) -> None:
        for child in self._engine.children:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.is_full else 0)
            line = self._watched.get(child)
            if line is child.line:
                self._selector.modify(line, events, child.exchange)
                continue
            if line is not None:
                self._selector.unregister(line)
            self._watched[child] = child.line
            self._selector.register(child.line, events, child.exchange)

    def _accept(self, listener: socket.socket) -> None:
        self._add(listener.accept()[0])

    def _add(self, line: socket.socket) -> None:
        client = ClientConnection(self._engine, line)
        self._clients.add(client)
        self._selector.register(line, selectors.EVENT_READ, partial(self._receive, client))

    def _receive(self, client: ClientConnection) -> None:
        if client in self._clients and not client.receive():
            self._drop(client)

    def _drop(self, client: ClientConnection) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.line)
        client.close()


def main() -> None:
    start_logging()
    control = Control(int(sys.argv[1]), EngineConfig)
    config = control.config
    control.listen(_on_event)
    try:
        settings = decode(EngineSettings, config.settings)
        engine = selection.load(settings, _find_model(config), partial(_report_progress, control))
        lines = tuple(socket.socket(fileno=descriptor) for descriptor in config.lines)
        listener = _listen(Path(config.address)) if config.address else None
        server = EngineServer(engine, listener, lines)
        server.warm_up()
    except FledgeError as error:
        control.send(StartFailed(error.message, error.hint, type(error).__name__))
        sys.exit(error.exit_code)
    control.send(ChildReady(engine.info))
    server.run()


def _report_progress(control: Control[EngineConfig], text: str) -> None:
    control.send(StartProgress(text))


def _listen(address: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    address.unlink(missing_ok=True)
    listener.bind(str(address))
    listener.listen()
    return listener


def _find_model(config: EngineConfig) -> Snapshot:
    """Return the model of a cached release, or the one that the parent has checked.

    A damaged release is removed, so that the next start fetches it again.
    """
    if not config.release:
        return msgspec.convert(config.model, Snapshot, dec_hook=lambda kind, value: kind(value))  # paths
    folder = Path(config.release)
    try:
        manifest = read_cached(folder)
    except FledgeError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return snapshot_of(folder, manifest)


def _on_event(event: Event) -> None:
    if isinstance(event, SupervisorGone | StopRequested):
        os.killpg(0, signal.SIGKILL)  # including a running export; this process leads its group


if __name__ == "__main__":
    main()
