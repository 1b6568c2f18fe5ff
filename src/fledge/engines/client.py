"""The endpoint's client of an engine process."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import msgspec

from fledge.core.errors import FledgeError, InputError, rebuild
from fledge.core.frames import ASK, CANCEL, Frames, frame
from fledge.core.messages import Ask, Cancel, Piece
from fledge.engines.engine import EngineGoneError

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Piece]).decode

IndexedPiece = tuple[int, Piece]
RECONNECT_S = 1.0
CANCEL_S = 10.0  # in which an engine must end a cancelled answer


class DeadlineError(FledgeError):
    """The request exceeded its deadline."""


class EngineClient(asyncio.Protocol):
    """Sends at most `max_concurrency` prompts at a time to one engine process; `ready` says whether it is connected."""

    def __init__(self, max_concurrency: int) -> None:
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._closed = ""
        self._connecting = asyncio.Lock()
        self._reconnecting: asyncio.Task[None] | None = None
        self._frames = Frames()
        self.pending: dict[str, tuple[int, _Call]] = {}
        self.slots = asyncio.Semaphore(max_concurrency)
        self._max_concurrency = max_concurrency
        self._shrinking: set[asyncio.Task[bool]] = set()

    @property
    def ready(self) -> bool:
        return self._transport is not None

    def resize(self, max_concurrency: int) -> None:
        """Change the limit; prompts above it finish first."""
        for _ in range(max_concurrency - self._max_concurrency):
            self.slots.release()
        for _ in range(self._max_concurrency - max_concurrency):
            task = asyncio.ensure_future(self.slots.acquire())
            self._shrinking.add(task)
            task.add_done_callback(self._shrinking.discard)
        self._max_concurrency = max_concurrency

    @property
    def running(self) -> int:
        """The number of prompts in the engine."""
        return len(self.pending)

    async def connect(self, address: str) -> None:
        """Connect unless already connected. Raises `OSError` if no engine listens."""
        async with self._connecting:
            self._address = address
            if not self.ready:
                await asyncio.get_running_loop().create_unix_connection(lambda: self, address)

    async def _reconnect(self) -> None:
        """Reconnect after the connection broke while both processes live, for instance after a long stall."""
        while self._address and not self.ready:
            await asyncio.sleep(RECONNECT_S)
            with contextlib.suppress(OSError):
                await self.connect(self._address)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        for _, body in self._frames.feed(data):
            for piece in _decode(body):
                if piece.id in self.pending:
                    index, call = self.pending[piece.id]
                    call.receive(index, piece)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport, self._frames = None, Frames()
        self._fail("the engine stopped while generating")
        if self._address:
            self._reconnecting = asyncio.ensure_future(self._reconnect())

    def close(self, error: str) -> None:
        """Disconnect for good; running and waiting prompts end with `error`."""
        self._address, self._closed = "", error
        self._fail(error)
        if self._transport:
            self._transport.close()
            self._transport = None

    def _fail(self, error: str) -> None:
        """Fail every pending prompt."""
        for identity, (index, call) in list(self.pending.items()):
            call.receive(index, Piece(identity, error=error, error_kind="gone"))

    def send(self, kind: int, message: Ask | Cancel) -> None:
        """Send a message. Raises `EngineGoneError` if not connected."""
        if self._transport is None:
            raise EngineGoneError(self._closed or "the engine is not ready", hint="retry in a few seconds")
        self._transport.write(frame(kind, _encode(message)))

    async def answers(self, asks: Sequence[Ask], n: int, seconds: float) -> AsyncGenerator[IndexedPiece]:
        """Yield pieces of `n` answers to each prompt, with the prompt's index in `asks`. Leaving early cancels them.

        After `seconds`, the answers end as they are, with the finish reason `length`. Raises `DeadlineError` if there
        is nothing by then, `InputError` for a prompt that does not fit, `EngineGoneError` without an engine,
        `FledgeError` for other failures.
        """
        late = Piece("", error=f"the answer took more than {seconds:.3g} s", error_kind="deadline")
        call = _Call(self, asks, n, late)
        timer = asyncio.get_running_loop().call_later(seconds, call.expire)
        left, tokens = n * len(asks), 0
        try:
            while left:
                index, piece = await call.queue.get()
                if piece.error:
                    raise _to_error(piece, index if len(asks) > 1 else None)
                left -= piece.finish_reason is not None
                tokens += len(piece.token_ids)
                if call.expired and not (left or tokens):
                    raise _to_error(late, None)
                yield index, piece
        finally:
            timer.cancel()
            call.cancel()


class _Call:
    """The prompts of one request. Pieces wait in `queue`, so a slow reader does not block the engine."""

    def __init__(self, client: EngineClient, asks: Sequence[Ask], n: int, late: Piece) -> None:
        self.queue: asyncio.Queue[IndexedPiece] = asyncio.Queue()
        self._client = client
        self._asks = asks
        self._n = n
        self._late = late
        self.expired = False
        self._unfinished: dict[str, int] = {}  # unfinished answers of each prompt in the engine
        self._sending = asyncio.create_task(self._send_prompts())

    async def _send_prompts(self) -> None:
        """Send each prompt as soon as a slot is free."""
        for index, ask in enumerate(self._asks):
            await self._client.slots.acquire()
            identity = secrets.token_hex(8)
            self._unfinished[identity] = self._n
            self._client.pending[identity] = (index, self)
            try:
                self._client.send(ASK, replace(ask, id=identity))
            except EngineGoneError as error:
                self.receive(index, Piece(identity, error=error.message, error_kind="gone"))
                return

    def receive(self, index: int, piece: Piece) -> None:
        """Queue a piece and free the slot of a finished prompt."""
        if self.expired and piece.finish_reason == "cancelled":
            piece = replace(piece, finish_reason="length", error_kind="deadline")
        self.queue.put_nowait((index, piece))
        self._unfinished[piece.id] -= piece.finish_reason is not None
        if piece.error or not self._unfinished[piece.id]:
            self._finish(piece.id)

    def expire(self) -> None:
        """End unfinished answers with what there is; if all have finished, only the reader is slow."""
        if not self._sending.done():  # some prompts would have no answer
            self._fail()
        elif self._unfinished:
            self.expired = True
            self._send_cancels(list(self._unfinished))
            asyncio.get_running_loop().call_later(CANCEL_S, self._fail)

    def _fail(self) -> None:
        """Fail the request if it is still unfinished."""
        if self._unfinished or not self._sending.done():
            self.cancel()
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait((0, self._late))

    def cancel(self) -> None:
        """Cancel unfinished prompts."""
        self._sending.cancel()
        unfinished = list(self._unfinished)
        for identity in unfinished:
            self._finish(identity)
        self._send_cancels(unfinished)

    def _send_cancels(self, identities: Sequence[str]) -> None:
        for identity in identities:
            with contextlib.suppress(EngineGoneError):
                self._client.send(CANCEL, Cancel(identity))

    def _finish(self, identity: str) -> None:
        del self._unfinished[identity]
        del self._client.pending[identity]
        self._client.slots.release()


def _to_error(piece: Piece, row: int | None) -> FledgeError:
    if piece.error_kind == "deadline":
        return DeadlineError(piece.error)
    if piece.error_kind == "gone":
        return EngineGoneError(piece.error)
    found = rebuild(piece.error_kind, piece.error, piece.hint)
    if row is not None and isinstance(found, InputError):
        found.message = f"row {row}: {piece.error}"
    return found
