"""Bodies of requests: parsed strictly, nested only so deep, with the settings that every protocol shares."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException
from starlette.responses import Response

Text = Annotated[str, StringConstraints(max_length=200_000)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Stop = StopText | Annotated[list[StopText], Field(max_length=4)]

MAX_N = 8
MAX_NEW_TOKENS = 4096
_SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "ignore_eos", "max_tokens")


class Generation(BaseModel):
    """Generation settings that a request may choose; what is missing is the release's own."""

    model_config = ConfigDict(strict=True, extra="allow")

    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="most new tokens")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_p: float | None = Field(None, ge=1e-6, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="0 for all")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stop: Stop | None = Field(None, description="up to four texts that end an answer; they are not returned")
    ignore_eos: bool | None = Field(None, description="go on to max_tokens")

    def settings(self) -> dict[str, Any]:
        """Only what was sent, in the engine's terms."""
        chosen = {name: getattr(self, name) for name in _SETTINGS if getattr(self, name) is not None}
        if self.stop is not None:
            chosen["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        return chosen

    @property
    def unknown(self) -> list[str]:
        """Parameters that nothing here knows; a null means nothing."""
        return [name for name, value in (self.model_extra or {}).items() if value is not None]


class StrictRoute(APIRoute):
    """A route that reads JSON strictly: UTF-8, no NaN, numbers that are finite, nested at most `max_depth` deep."""

    max_depth = 32

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle, depth = super().get_route_handler(), self.max_depth

        async def strict(request: Request) -> Response:
            response: Response = await handle(_StrictRequest(request.scope, request.receive, depth))
            return response

        return strict


class _StrictRequest(Request):
    def __init__(self, scope: Any, receive: Any, max_depth: int) -> None:
        super().__init__(scope, receive)
        self._max_depth = max_depth

    async def json(self) -> Any:
        return read_json(await self.body(), self._max_depth)


def strict_route(max_depth: int) -> type[StrictRoute]:
    """`StrictRoute` with this depth."""
    return type("StrictRoute", (StrictRoute,), {"max_depth": max_depth})


def read_json(body: bytes, max_depth: int) -> Any:
    """The value. Raises 400 for what is no JSON, or nested too deep."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from None
    except RecursionError:
        raise HTTPException(400, f"the body is nested more than {max_depth} deep") from None
    _check(value, max_depth)
    return value


def _check(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth + 1):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
            elif isinstance(item, float) and not math.isfinite(item):
                raise HTTPException(400, "the body holds a number that is too large")
        if not deeper:
            return
        level = deeper
    raise HTTPException(400, f"the body is nested more than {max_depth} deep")
