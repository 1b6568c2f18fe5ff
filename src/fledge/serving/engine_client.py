"""The endpoint's side of the line to an engine process."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from fledge.core.errors import FledgeError, InputError
from fledge.core.messages import Ask, Cancel, Piece

_encode = msgspec.msgpack.Encoder().encode
_piece = msgspec.msgpack.Decoder(Piece).decode


class EngineGoneError(FledgeError):
    """The engine process is not there (any more); asking again later helps."""


@dataclass
class Result:
    """A whole answer as the endpoint needs it; `first_token_ns` in nanoseconds since the epoch."""

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    turns_left_out: int = 0
    finish_reason: str = ""
    first_token_ns: int = 0

    def add(self, piece: Piece) -> None:
        self.first_token_ns = self.first_token_ns or time.time_ns()
        self.text += piece.text
        self.completion_tokens += piece.tokens
        self.prompt_tokens = piece.prompt_tokens
        self.turns_left_out = piece.turns_left_out
        self.finish_reason = piece.finish_reason or ""


class EngineClient:
    """Asks one engine process; `ready` says whether it takes requests."""

    def __init__(self, address: str) -> None:
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)
        self._answers: dict[str, asyncio.Queue[Piece]] = {}
        self.ready = False

    async def run(self) -> None:
        """Hand arriving pieces to their requests; runs as a task for as long as the endpoint."""
        while True:
            piece = _piece(await self._socket.recv())
            queue = self._answers.get(piece.id)
            if queue is not None:
                queue.put_nowait(piece)

    def gone(self) -> None:
        """The engine process died: every request that waits for it fails now."""
        self.ready = False
        for identity, queue in self._answers.items():
            queue.put_nowait(Piece(identity, error="the engine stopped while it answered", error_kind="gone"))

    async def stream(
        self, params: dict[str, Any], *, text: str | None = None, messages: list[tuple[str, str]] | None = None
    ) -> AsyncIterator[Piece]:
        """Pieces of one answer. Leaving the iteration early cancels it.

        Raises `InputError` for a prompt that does not fit, `EngineGoneError` when there is no engine.
        """
        if not self.ready:
            raise EngineGoneError("the engine is not ready", hint="ask again in a few seconds")
        identity = secrets.token_hex(8)
        queue: asyncio.Queue[Piece] = asyncio.Queue()
        self._answers[identity] = queue
        finished = False
        try:
            await self._socket.send_multipart([b"ask", _encode(Ask(identity, params, text, messages))])
            while not finished:
                piece = await queue.get()
                finished = bool(piece.error or piece.finish_reason)
                if piece.error_kind == "input":
                    raise InputError(piece.error)
                if piece.error_kind == "gone":
                    raise EngineGoneError(piece.error)
                if piece.error:
                    raise FledgeError(piece.error)
                yield piece
        finally:
            del self._answers[identity]
            if not finished:
                await self._socket.send_multipart([b"cancel", _encode(Cancel(identity))])
