"""The engine process: `python -m fledge.models.host CONFIG CONTROL_FD`. Answers the endpoint over a local socket."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import zmq

from fledge.core.control import Control
from fledge.core.errors import FledgeError
from fledge.core.messages import Ask, Cancel, Piece
from fledge.models import selection
from fledge.models.engine import Engine, GenerationParams, Message, Stream, generate
from fledge.models.manifest import read_release, snapshot_of
from fledge.models.selection import EngineSettings

_encode = msgspec.msgpack.Encoder().encode
_ask = msgspec.msgpack.Decoder(Ask).decode
_cancel = msgspec.msgpack.Decoder(Cancel).decode


class EngineHost:
    """Takes `Ask` and `Cancel` from a ROUTER socket and sends each answer's `Piece`s back to who asked."""

    def __init__(self, engine: Engine, address: str) -> None:
        self._engine = engine
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.bind(address)
        # Answers come from threads; a zmq socket belongs to one thread, so they pass through a pipe of their own.
        self._outgoing = context.socket(zmq.PULL)
        self._outgoing.bind("inproc://pieces")
        self._streams: dict[str, Stream] = {}

    def run(self) -> None:
        """Serve until the process ends."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._outgoing, zmq.POLLIN)
        while True:
            for ready, _ in poller.poll():
                if ready is self._outgoing:
                    self._socket.send_multipart(self._outgoing.recv_multipart())
                else:
                    self._receive(*self._socket.recv_multipart())

    def _receive(self, sender: bytes, kind: bytes, body: bytes) -> None:
        if kind == b"cancel":
            stream = self._streams.get(_cancel(body).id)
            if stream:
                stream.cancel()
            return
        ask = _ask(body)
        try:
            prompt = ask.text if ask.text is not None else [Message(*pair) for pair in ask.messages or []]  # type: ignore[arg-type]
            stream = self._engine.submit(
                prompt, GenerationParams(**{**ask.params, "stop": tuple(ask.params.get("stop", ()))})
            )
        except (FledgeError, ValueError, LookupError) as error:
            kind_of = "input" if isinstance(error, ValueError) else "engine"
            self._socket.send_multipart([sender, _encode(Piece(ask.id, error=str(error), error_kind=kind_of))])
            return
        self._streams[ask.id] = stream
        threading.Thread(target=self._relay, args=(sender, ask.id, stream), daemon=True).start()

    def _relay(self, sender: bytes, identity: str, stream: Stream) -> None:
        out: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        out.connect("inproc://pieces")
        try:
            for chunk in stream:
                piece = Piece(
                    identity,
                    chunk.text,
                    len(chunk.token_ids),
                    stream.prompt_tokens,
                    stream.turns_left_out,
                    chunk.finish_reason,
                )
                out.send_multipart([sender, _encode(piece)])
        except FledgeError as error:
            out.send_multipart([sender, _encode(Piece(identity, error=error.message, error_kind="engine"))])
        finally:
            self._streams.pop(identity, None)
            out.close()


def main() -> None:
    config: dict[str, Any] = json.loads(sys.argv[1])
    control = Control(int(sys.argv[2]), _on_event)
    folder = Path(config["release"])
    model = snapshot_of(folder, read_release(folder))
    engine = selection.start(EngineSettings(**config["settings"]), model)
    generate(engine, ["warm up"], GenerationParams(max_tokens=2))
    host = EngineHost(engine, config["address"])
    control.send(event="ready", engine=engine.info.name)
    host.run()


def _on_event(message: dict[str, Any]) -> None:
    if message["event"] in ("gone", "stop"):
        os.killpg(0, signal.SIGKILL)  # with an export that may be under way; this process leads a group of its own


if __name__ == "__main__":
    main()
