"""Server-sent events: an answer as it is generated."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fledge.core.errors import FledgeError
from fledge.serving.errors import openai_error, outcome
from fledge.serving.trace import RequestTrace

Event = Mapping[str, Any]
T = TypeVar("T")

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def event(value: Event) -> bytes:
    """One event; JSON has no line breaks of its own, so it is one line."""
    return b"data: " + _encode(value) + b"\n\n"


async def begun(pieces: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The same pieces, of which the first is there: what goes wrong until then can still be told by a status."""
    first = await anext(pieces)

    async def all_of_them() -> AsyncGenerator[T]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return all_of_them()


class EventStream(Response):
    """Events one by one; one that fails is told as an error frame, and noted in the trace with its own status."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Event], trace: RequestTrace, headers: Mapping[str, str]) -> None:
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
                    await send({"type": "http.response.body", "body": event(value), "more_body": True})
        except FledgeError as error:
            told = outcome(error, self._trace.request_id)
            self._trace.status, self._trace.error = told.status, error.message
            end = event(openai_error(told.status, told.message))
        except Exception as error:
            self._trace.status, self._trace.error = 500, type(error).__name__
            raise
        await send({"type": "http.response.body", "body": end, "more_body": False})
