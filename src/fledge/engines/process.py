"""The engine process: `python -m fledge.engines.process CONTROL_FD`. Answers the endpoint over a local socket."""

import contextlib
import math
import os
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from fledge.core.control import Control
from fledge.core.errors import FledgeError
from fledge.core.frames import ASK, CANCEL, PIECE, Frames, frame
from fledge.core.messages import Ask, Cancel, Piece
from fledge.core.types import Message
from fledge.engines import selection
from fledge.engines.engine import Chunk, Engine, GenerationParams, Stream, generate
from fledge.engines.selection import EngineSettings
from fledge.models.snapshot import Snapshot
from fledge.releases.manifest import read_kept, snapshot_of

SEND_TIMEOUT_S = 10  # an endpoint that reads nothing for so long is given up, that the others' answers go on

_encode = msgspec.msgpack.Encoder().encode
_ask = msgspec.msgpack.Decoder(Ask).decode
_cancel = msgspec.msgpack.Decoder(Cancel).decode


@dataclass
class _Whole:
    """An answer on its way that is sent only when it is whole."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    first_token_ns: int = 0
    logprobs: list[tuple[str, float]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.tokens += piece.tokens
        self.logprobs += piece.logprobs or []
        self.first_token_ns = self.first_token_ns or piece.first_token_ns


class EngineLine:
    """One endpoint's line to the engine. Its end cancels what was asked on it."""

    def __init__(self, engine: Engine, line: socket.socket) -> None:
        self._engine = engine
        self._line = line
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
        self._sending = threading.Lock()
        self._streams: dict[str, Stream] = {}

    def run(self) -> None:
        """Take messages until the line ends."""
        frames = Frames()
        try:
            while data := self._line.recv(1 << 18):
                for kind, body in frames.feed(data):
                    if kind == ASK:
                        self._start(_ask(body))
                    elif kind == CANCEL and (stream := self._streams.get(_cancel(body).id)):
                        stream.cancel()
        except (OSError, ValueError, msgspec.MsgspecError):  # what is no message ends the line, as its end does
            return
        finally:
            self._line.close()
            for stream in list(self._streams.values()):
                stream.cancel()

    def _start(self, ask: Ask) -> None:
        prompt: Any = ask.text if ask.text is not None else ask.token_ids
        if ask.messages is not None:
            prompt = [Message(*pair) for pair in ask.messages]  # type: ignore[arg-type]
        try:
            params = GenerationParams(**{**ask.params, "stop": tuple(ask.params.get("stop", ()))})
            stream = self._engine.submit(prompt, params)
        except Exception as error:  # noqa: BLE001 (tokenizers raises just that; the line is also that of others)
            kind = "input" if isinstance(error, (ValueError, TypeError)) else "engine"
            self._send(Piece(ask.id, error=str(error), error_kind=kind))
            return
        self._streams[ask.id] = stream
        wholes = None if ask.stream else [_Whole() for _ in range(params.n)]
        stream.listen(partial(self._heard, ask.id, stream, wholes))

    def _heard(self, identity: str, stream: Stream, wholes: list[_Whole] | None, item: Chunk | Exception) -> None:
        if isinstance(item, Exception):
            self._streams.pop(identity, None)
            self._send(Piece(identity, error=str(item), error_kind="engine"))
            return
        piece = _piece(identity, stream, item)
        if wholes is not None:
            whole = wholes[piece.index]
            whole.add(piece)
            if piece.finish_reason is None:
                return
            piece = replace(
                piece,
                text="".join(whole.texts),
                tokens=whole.tokens,
                logprobs=whole.logprobs or None,
                first_token_ns=whole.first_token_ns,
            )
        if piece.finish_reason and stream.is_over:
            self._streams.pop(identity, None)
        self._send(piece)

    def _send(self, piece: Piece) -> None:
        try:
            with self._sending:
                self._line.sendall(frame(PIECE, _encode(piece)))
        except OSError:  # the endpoint has gone, or reads nothing: `run` ends, and cancels
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)


def _piece(identity: str, stream: Stream, chunk: Chunk) -> Piece:
    return Piece(
        identity,
        chunk.index,
        chunk.text,
        len(chunk.token_ids),
        stream.prompt_tokens,
        stream.turns_left_out,
        chunk.finish_reason,
        logprobs=list(zip(chunk.tokens, chunk.logprobs, strict=False)) if chunk.logprobs else None,
        first_token_ns=time.time_ns(),
    )


def serve(engine: Engine, listener: socket.socket) -> None:
    """Take endpoints on `listener`, until the process ends; a second one, as after a restart, has a line of its own."""
    while True:
        line, _ = listener.accept()
        threading.Thread(target=EngineLine(engine, line).run, name="line", daemon=True).start()


def main() -> None:
    control = Control(int(sys.argv[1]))
    config = control.config
    control.listen(_on_event)
    try:
        model = _model(Path(config["release"]))
        engine = selection.start(
            EngineSettings(**config["settings"]), model, lambda text: control.send(event="progress", text=text)
        )
        _smoke_test(engine)
    except FledgeError as error:
        control.send(event="failed", error=error.message)
        sys.exit(error.exit_code)
    listener = socket.socket(socket.AF_UNIX)
    Path(config["address"]).unlink(missing_ok=True)
    listener.bind(config["address"])
    listener.listen()
    control.send(event="ready")
    serve(engine, listener)


def _smoke_test(engine: Engine) -> None:
    """Warm up, and see that what comes is an answer. Raises `FledgeError` where it is none."""
    (done,) = generate(engine, ["warm up"], GenerationParams(max_tokens=2, logprobs=True, ignore_eos=True))
    if not done.token_ids or not all(map(math.isfinite, done.logprobs)):
        raise FledgeError("the model answers nothing that makes sense: its probabilities are no numbers")


def _model(folder: Path) -> Snapshot:
    """The model of a release in our own cache. A damaged one is removed: whoever starts next fetches it anew."""
    try:
        manifest = read_kept(folder)
    except FledgeError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return snapshot_of(folder, manifest)


def _on_event(message: dict[str, Any]) -> None:
    if message["event"] in ("gone", "stop"):
        os.killpg(0, signal.SIGKILL)  # with an export that may be under way; this process leads a group of its own


if __name__ == "__main__":
    main()
