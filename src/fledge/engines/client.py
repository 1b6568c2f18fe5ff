"""The endpoint's side of the line to an engine process."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import msgspec

from fledge.core.errors import FledgeError, InputError
from fledge.core.frames import ASK, CANCEL, Frames, frame
from fledge.core.messages import Ask, Cancel, Piece
from fledge.engines.engine import EngineGoneError

_encode = msgspec.msgpack.Encoder().encode
_pieces = msgspec.msgpack.Decoder(list[Piece]).decode

Place = tuple[int, Piece]
RECONNECT_S = 1.0


class DeadlineError(FledgeError):
    """The request took longer than it may."""


class EngineClient(asyncio.Protocol):
    """Asks one engine process; `ready` says whether it takes requests. At most
    `max_concurrency` prompts are with it."""

    def __init__(self, max_concurrency: int) -> None:
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._closed = ""
        self._connecting = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None
        self._frames = Frames()
        self.asked: dict[str, tuple[int, _Asking]] = {}
        self.slots = asyncio.Semaphore(max_concurrency)
        self._max_concurrency = max_concurrency
        self._taken: set[asyncio.Task[bool]] = set()

    @property
    def ready(self) -> bool:
        return self._transport is not None

    def resize(self, max_concurrency: int) -> None:
        """Change the limit; prompts above it finish first."""
        for _ in range(max_concurrency - self._max_concurrency):
            self.slots.release()
        for _ in range(self._max_concurrency - max_concurrency):
            task = asyncio.ensure_future(self.slots.acquire())
            self._taken.add(task)
            task.add_done_callback(self._taken.discard)
        self._max_concurrency = max_concurrency

    @property
    def running(self) -> int:
        """How many prompts are with the engine."""
        return len(self.asked)

    async def connect(self, address: str) -> None:
        """Connect unless already connected. Raises `OSError` if no engine listens."""
        async with self._connecting:
            self._address = address
            if not self.ready:
                await asyncio.get_running_loop().create_unix_connection(lambda: self, address)

    async def _reconnect(self) -> None:
        """A line can break while both its ends live on, as where one of them stood still for too long."""
        while self._address and not self.ready:
            await asyncio.sleep(RECONNECT_S)
            with contextlib.suppress(OSError):
                await self.connect(self._address)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        for _, body in self._frames.feed(data):
            for piece in _pieces(body):
                if piece.id in self.asked:
                    place, asking = self.asked[piece.id]
                    asking.came(place, piece)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport, self._frames = None, Frames()
        self._fail("the engine stopped while generating")
        if self._address:
            self._again = asyncio.ensure_future(self._reconnect())

    def close(self, error: str) -> None:
        """Hang up, for good: what was asked, and what waits for a place, ends with `error`."""
        self._address, self._closed = "", error
        self._fail(error)
        if self._transport:
            self._transport.close()
            self._transport = None

    def _fail(self, error: str) -> None:
        """End every request that waits for this engine."""
        for identity, (place, asking) in list(self.asked.items()):
            asking.came(place, Piece(identity, error=error, error_kind="gone"))

    def send(self, kind: int, message: Ask | Cancel) -> None:
        """Raises `EngineGoneError` where there is no engine."""
        if self._transport is None:
            raise EngineGoneError(self._closed or "the engine is not ready", hint="retry in a few seconds")
        self._transport.write(frame(kind, _encode(message)))

    async def answers(self, asks: Sequence[Ask], n: int, seconds: float) -> AsyncGenerator[Place]:
        """Pieces of `n` answers to each prompt, with the prompt's place among `asks`. Leaving early cancels them.

        Raises `InputError` for a prompt that does not fit, `DeadlineError` where it takes more than `seconds`,
        `EngineGoneError` when there is no engine, any other failure as `FledgeError`.
        """
        asking = _Asking(self, asks, n)
        late = Piece("", error=f"the answer took more than {seconds:.3g} s", error_kind="deadline")
        timer = asyncio.get_running_loop().call_later(seconds, asking.expire, late)
        left = n * len(asks)
        try:
            while left:
                place, piece = await asking.queue.get()
                if piece.error:
                    raise _failure(piece, place if len(asks) > 1 else None)
                left -= piece.finish_reason is not None
                yield place, piece
        finally:
            timer.cancel()
            asking.leave()


class _Asking:
    """The prompts of one request, as the engine sees them: whoever reads `queue` may be slower than what comes."""

    def __init__(self, client: EngineClient, asks: Sequence[Ask], n: int) -> None:
        self.queue: asyncio.Queue[Place] = asyncio.Queue()
        self._client = client
        self._asks = asks
        self._n = n
        self._coming: dict[str, int] = {}  # for each prompt with the engine, the answers that have not ended
        self._begin = asyncio.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        """Each prompt when there is room for it."""
        for place, ask in enumerate(self._asks):
            await self._client.slots.acquire()
            identity = secrets.token_hex(8)
            self._coming[identity] = self._n
            self._client.asked[identity] = (place, self)
            try:
                self._client.send(ASK, replace(ask, id=identity))
            except EngineGoneError as error:
                self.came(place, Piece(identity, error=error.message, error_kind="gone"))
                return

    def came(self, place: int, piece: Piece) -> None:
        """A piece has arrived."""
        self.queue.put_nowait((place, piece))
        self._coming[piece.id] -= piece.finish_reason is not None
        if piece.error or not self._coming[piece.id]:
            self._end(piece.id)

    def expire(self, late: Piece) -> None:
        """Compute no more; where all is there already, only its reader is late."""
        if self._coming or not self._begin.done():
            self.leave()
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait((0, late))

    def leave(self) -> None:
        """Cancel what is under way."""
        self._begin.cancel()
        for identity in list(self._coming):
            self._end(identity)
            with contextlib.suppress(EngineGoneError):
                self._client.send(CANCEL, Cancel(identity))

    def _end(self, identity: str) -> None:
        del self._coming[identity]
        del self._client.asked[identity]
        self._client.slots.release()


def _failure(piece: Piece, row: int | None) -> FledgeError:
    if piece.error_kind == "input":
        return InputError(piece.error if row is None else f"row {row}: {piece.error}", piece.hint)
    if piece.error_kind == "deadline":
        return DeadlineError(piece.error)
    if piece.error_kind == "gone":
        return EngineGoneError(piece.error)
    return FledgeError(piece.error)
