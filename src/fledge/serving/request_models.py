"""Bodies of requests: strict parsing with a limit on nesting, and the generation settings of every protocol."""

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fledge.core.errors import InputError
from fledge.core.generation import (
    BOUNDS,
    ENGINE_SETTINGS,
    MAX_STOP_CHARACTERS,
    MAX_STOP_TOKENS,
    MAX_STOPS,
    REQUEST_SETTINGS,
)
from fledge.core.limits import Limits
from fledge.serving.structured_outputs import Structured
from fledge.serving.unsupported import ignored_parameters


def as_integer(value: Any) -> Any:
    """Convert 16.0 to 16, alone or in a list: in JSON they are the same number."""
    if isinstance(value, list):
        return [int(item) if isinstance(item, float) and item.is_integer() else item for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


MAX_CHARACTERS = 200_000
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
StopText = Annotated[str, StringConstraints(max_length=MAX_STOP_CHARACTERS)]
Stop = StopText | Annotated[list[StopText], Field(fail_fast=True, max_length=MAX_STOPS)]

StopTokens = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=MAX_STOP_TOKENS), BeforeValidator(as_integer)
]

MAX_PROMPTS = 100_000
MAX_KEYS = 1000  # of one object: none needs more, and reporting each unknown key takes time


def _within(name: str) -> Any:
    """Return fixed bounds of a field; `check_size` applies the endpoint's own limits."""
    low, high = BOUNDS[name]
    return Field(ge=low, le=high)


def _stop_list(stop: str | list[str] | None) -> list[str] | None:
    """Return the stop sequences; front ends send an empty one for none."""
    return None if stop is None else [text for text in ([stop] if isinstance(stop, str) else stop) if text]


def replace_off(kind: Any, off: int, by: Any = None) -> BeforeValidator:
    """Replace `off`, the value with which front ends switch a setting of type `kind` off."""
    return BeforeValidator(
        lambda value: by if value == off and not isinstance(value, bool) else value,
        json_schema_input_type=kind | Literal[off] | None,
    )


NewTokens = Annotated[int, _within("max_tokens"), BeforeValidator(as_integer)]
Count = Annotated[int, _within("n"), BeforeValidator(as_integer)]
Seed = Annotated[int, _within("seed"), BeforeValidator(as_integer)]
TopP = Annotated[float, _within("top_p")]
TopK = Annotated[int, _within("top_k"), BeforeValidator(as_integer)]


class Generation(Structured):
    """Generation settings of a request; a missing one defaults to the release's."""

    model_config = ConfigDict(strict=True, extra="allow")

    max_tokens: Annotated[NewTokens | None, replace_off(NewTokens, -1)] = Field(
        None, description="maximum number of new tokens"
    )
    temperature: Annotated[float, _within("temperature")] | None = Field(None, description="0 is greedy")
    top_p: Annotated[TopP | None, replace_off(TopP, 0, by=1.0)] = None
    top_k: Annotated[TopK | None, replace_off(TopK, -1, by=0)] = Field(None, description="0 or -1 for all tokens")
    min_p: Annotated[float, _within("min_p")] | None = None
    repetition_penalty: Annotated[float, _within("repetition_penalty")] | None = None
    seed: Annotated[Seed | None, replace_off(Seed, -1)] = Field(None, description="a new one if missing or -1")
    stop: Annotated[Stop | None, AfterValidator(_stop_list)] = Field(
        None, description="up to four stop sequences; they are not returned, and empty ones are left out"
    )
    ignore_eos: bool | None = Field(None, description="do not stop before max_tokens")

    presence_penalty: Annotated[float, _within("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, _within("frequency_penalty")] | None = None
    min_tokens: Annotated[int, _within("min_tokens"), BeforeValidator(as_integer)] | None = None
    stop_token_ids: StopTokens | None = None

    def settings(self) -> dict[str, Any]:
        """Return the given settings, under the engine's names. Raises `StructureError` as `grammar` does."""
        names = (*REQUEST_SETTINGS, *ENGINE_SETTINGS)
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        grammar = self.grammar()
        return {**chosen, "grammar": grammar} if grammar else chosen

    def ignored(self) -> list[str]:
        """Return the parameters that are ignored. Raises `UnsupportedError` for one that would change the answer."""
        return ignored_parameters(self.model_extra or {})


def unknown_names(model: BaseModel, where: str = "") -> list[str]:
    """Return the fields of `model` that are ignored; a null counts as missing."""
    return [f"{where}{name}" for name, value in (model.model_extra or {}).items() if value is not None]


def check_size(limits: Limits, *, prompts: int = 1, n: int = 1, settings: Mapping[str, Any]) -> None:
    """Raise `InputError` for a request beyond the endpoint's limits."""
    sizes = [
        ("rows or prompts", prompts, limits.max_rows),
        ("n", n, limits.max_n),
        ("max_tokens", settings.get("max_tokens", 0), limits.max_new_tokens),
    ]
    for name, size, most in sizes:
        if size > most:
            raise InputError(f"{name}: {size}; this endpoint takes at most {most}")


class BodyProblem(NamedTuple):
    """An error in a body: the field (empty for the whole body), and a message with the path to the value."""

    field: str
    message: str


def first_problem(errors: Sequence[Mapping[str, Any]], where: Sequence[str] = ()) -> BodyProblem:
    """Return pydantic's first error. The errors of all members of a union are joined into one."""
    places = [(*where, *(part for part in error["loc"] if part != "body")) for error in errors]
    alike = [index for index, place in enumerate(places) if place[:1] == places[0][:1]]
    common = places[0]
    while any(places[index][: len(common)] != common for index in alike):
        common = common[:-1]
    said = "; or ".join(dict.fromkeys(errors[index]["msg"] for index in alike))
    place = ".".join(map(str, common))
    return BodyProblem(str(places[0][0]) if places[0] else "", f"{place}: {said}" if place else said)


class StrictRoute(APIRoute):
    """A route that reads JSON bodies strictly: UTF-8, finite numbers, at most `max_depth` levels."""

    max_depth: Callable[[], int]

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle, wants_json = super().get_route_handler(), self.body_field is not None

        async def strict(request: Request) -> Response:
            if wants_json and not _is_json(request.headers.get("content-type", "")):
                raise HTTPException(415, "send Content-Type: application/json")
            response: Response = await handle(_StrictRequest(request.scope, request.receive, self.max_depth()))
            return response

        return strict


class _StrictRequest(Request):
    def __init__(self, scope: Any, receive: Any, max_depth: int) -> None:
        super().__init__(scope, receive)
        self._max_depth = max_depth

    async def json(self) -> Any:
        return read_json(await self.body(), self._max_depth)


def strict_route(max_depth: Callable[[], int]) -> type[StrictRoute]:
    """Return `StrictRoute` with this limit, evaluated for each request."""
    return type("StrictRoute", (StrictRoute,), {"max_depth": staticmethod(max_depth)})


def read_json(body: bytes, max_depth: int) -> Any:
    """Return the value; the last of duplicate keys wins. Raises 400 for JSON that is invalid or exceeds the limits."""
    try:
        value = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    except RecursionError:
        raise HTTPException(400, f"the body is nested more than {max_depth} deep") from None
    _check_nesting(value, max_depth)
    return value


def _check_nesting(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if len(item) > MAX_KEYS:
                    raise HTTPException(400, f"an object in the body has more than {MAX_KEYS} keys")
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
        level = [item for item in deeper if isinstance(item, (dict, list))]
        if not level:
            return
    raise HTTPException(400, f"the body is nested more than {max_depth} deep")


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
