"""Server-sent events: an answer streamed as it is generated."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TypeVar

from msgspec import Struct
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fledge.core.errors import FledgeError
from fledge.serving.errors import http_error, openai_error
from fledge.serving.response_models import encode
from fledge.serving.trace import RequestTrace

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


def encode_event(value: Struct) -> bytes:
    """Encode one event on one line: encoded JSON has no line breaks."""
    return b"data: " + encode(value) + b"\n\n"


async def start_generation(pieces: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Wait for the first piece, and return all pieces. An error before it can still set the response's status."""
    first = await anext(pieces)

    async def resume() -> AsyncGenerator[T]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return resume()


class EventStream(Response):
    """Sends events as they arrive. An error becomes the last event, and the trace gets its status."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Struct], trace: RequestTrace, headers: Mapping[str, str]) -> None:
        super().__init__(headers={**headers, "cache-control": "no-cache"})
        del self.headers["content-length"]
        self._events = events
        self._trace = trace

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        end = DONE
        try:
            async with aclosing(self._events) as events:
                async for value in events:
                    await send({"type": "http.response.body", "body": encode_event(value), "more_body": True})
        except FledgeError as error:
            known = http_error(error, self._trace.request_id)
            self._trace.status, self._trace.error = known.status, error.message
            end = encode_event(openai_error(known.status, known.message, known.param, known.code))
        except Exception as error:
            self._trace.status, self._trace.error = 500, type(error).__name__
            raise
        await send({"type": "http.response.body", "body": end, "more_body": False})
