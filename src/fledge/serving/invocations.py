"""MLflow's scoring protocol: tables of a prompt's variables in JSON, CSV or Parquet, or bare texts."""

import asyncio
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from fledge.core.errors import InputError
from fledge.core.limits import Limits
from fledge.core.texts import cell_text
from fledge.prompts.prompt import Prompt
from fledge.serving.chat_messages import ChatMessages, ignored_in
from fledge.serving.conversations import Turns, as_dicts, as_text, fill_prompt, make_asks
from fledge.serving.docs import responses
from fledge.serving.endpoint import Endpoint, Job, Respondent, Served, release_headers, warning_headers
from fledge.serving.json_response import StructResponse
from fledge.serving.openai import PromptText, assignment_unit
from fledge.serving.parquet import read_parquet
from fledge.serving.request_models import (
    MAX_CHARACTERS,
    MAX_PROMPTS,
    Generation,
    Text,
    check_size,
    first_problem,
    read_json,
    unknown_names,
)
from fledge.serving.response_models import PredictionsResponse
from fledge.serving.trace import RequestTrace
from fledge.serving.unsupported import UnsupportedError, ignored_parameters

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MAX_COLUMNS = 100
MESSAGES = "messages"
FORMS = {"dataframe_split", "dataframe_records", "instances", "inputs"}
ModelName = Annotated[str, StringConstraints(max_length=300)]
MODEL = Field("", description="`NAME`, `NAME@alias` or `NAME/version`; default: the first served")
NoStream = Annotated[bool, Field(description="answers are not streamed", json_schema_extra={"const": False})]
ColumnName = Annotated[str, StringConstraints(max_length=200)]
Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
M = TypeVar("M", bound=BaseModel)

_messages = TypeAdapter(ChatMessages)


class Split(BaseModel):
    """A table in pandas' `split` form."""

    model_config = ConfigDict(strict=True, extra="allow")

    columns: list[ColumnName] = Field(max_length=MAX_COLUMNS)
    index: Any = None  # written by pandas and ignored: the rows are in order
    data: Annotated[list[list[Any]], Field(fail_fast=True)]


class TableRequest(BaseModel):
    """Exactly one form of table, and `params`."""

    model_config = ConfigDict(strict=True, extra="allow")

    # Defaults are never used; None as a default would allow null.
    dataframe_split: Split = Split(columns=[], data=[])
    dataframe_records: Annotated[list[dict[str, Any]], Field(fail_fast=True)] = []
    instances: list[Any] | dict[str, Any] = []
    inputs: list[Any] | dict[str, Any] | str | bool | int | float = []
    params: Generation | None = None
    model: ModelName = MODEL
    stream: NoStream | None = None

    def rows(self, names: Sequence[str]) -> list[Any]:
        """Return the rows as mappings or bare values. Raises `InputError` if one of the columns `names` is missing."""
        forms = self.model_fields_set & FORMS
        if len(forms) != 1:
            raise InputError("send exactly one of dataframe_split, dataframe_records, instances, inputs")
        table = getattr(self, next(iter(forms)))
        if isinstance(table, Split):
            _check_columns(table.columns, names)
            for number, row in enumerate(table.data):
                if len(row) != len(table.columns):
                    raise InputError(f"row {number}: {len(row)} values for {len(table.columns)} columns")
            return [dict(zip(table.columns, row, strict=True)) for row in table.data]
        if isinstance(table, dict):
            _check_columns(list(table), names)
            lists = [name for name, values in table.items() if isinstance(values, list) and name != MESSAGES]
            if not lists:
                return [table]  # one row
            if len(lists) < len(table) or len({len(table[name]) for name in lists}) > 1:
                raise InputError("the lists in inputs must have the same length")
            return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        return list(table) if isinstance(table, list) else [table]

    def ignored(self) -> list[str]:
        """Return the parameters that are ignored. Raises `UnsupportedError` for one that would change the answer."""
        inside = self.params.ignored() if self.params else []
        extra = ignored_parameters(self.model_extra or {})
        return [*extra, *unknown_names(self.dataframe_split, "dataframe_split."), *inside]


class BareRequest(Generation):
    """A conversation, a complete prompt, or a text for the release's prompt. The response is a bare list."""

    messages: ChatMessages | None = None
    prompt: (
        PromptText | Annotated[list[PromptText], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)] | None
    ) = None
    input: Text | Texts | None = None
    model: ModelName = MODEL
    stream: NoStream | None = None

    def ignored(self) -> list[str]:
        return [*super().ignored(), *ignored_in(self.messages or ())]


@dataclass(frozen=True)
class ParsedRequest:
    """A request in any form. Each item holds values for the release's prompt, a conversation, or a complete prompt.

    With `bare` the response is a plain list, without `predictions` around it.
    """

    inputs: Any
    items: Sequence[Mapping[str, str] | str | Turns]
    settings: Mapping[str, Any]
    ignored: Sequence[str]
    bare: bool

    def job(self, served: Served) -> Job:
        prompts = [_fill(served.prompt, item) for item in self.items]
        params = served.params(self.settings)
        changed = any(filled is not item for item, filled in zip(self.items, prompts, strict=True))
        return Job(
            make_asks(prompts, params, stream=False),
            list(map(as_text, prompts)),
            prompt=served.manifest.prompt_label if changed else "",
        )


def add_invocations_routes(endpoint: Endpoint, router: APIRouter) -> None:
    """Add `/invocations`."""

    @router.post(
        "/invocations",
        summary="Answer the rows of a table with the release's prompt, as MLflow's own server does",
        responses=responses(answers=True),
        tags=["MLflow"],
    )
    async def invocations(request: Request) -> Response:
        trace: RequestTrace = request.state.trace
        body, kind = await request.body(), _read_content_type(request)
        value = read_json(body, endpoint.limits.max_json_depth) if kind == JSON else None
        model = _read_model(value)
        chosen: Respondent | None = None
        with endpoint.track_request():
            while chosen is None or not endpoint.serves(chosen):  # may be replaced while a large table is read
                chosen = endpoint.choose(trace, model, assignment_unit(request, None))
                parsed = await _parse(body, kind, value, chosen.served.prompt, endpoint.limits)
        trace.inputs = parsed.inputs
        async for _ in endpoint.generate(trace, chosen, parsed.job):
            pass
        answers = [result.text.strip() for result in trace.results]
        headers = {**release_headers(trace), **warning_headers(parsed.ignored, trace.notes)}
        return StructResponse(answers if parsed.bare else PredictionsResponse(answers), headers=headers)


def _read_content_type(request: Request) -> str:
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    charset = rest.strip().lower().removeprefix("charset=").strip('"')
    kind = kind.strip().lower()
    if kind not in (JSON, CSV, PARQUET) or charset not in ("", "utf-8"):
        raise HTTPException(415, f"send {JSON}, {CSV} or {PARQUET}, in UTF-8")
    return kind


def _read_model(value: Any) -> str:
    """Return the model that a JSON body names, empty for none. Raises `InputError` for streaming."""
    if not isinstance(value, dict):
        return ""
    if value.get("stream"):
        raise UnsupportedError("stream", "is not supported by /invocations; use /v1/chat/completions")
    model = value.get("model")
    return model if isinstance(model, str) else ""


async def _parse(body: bytes, kind: str, value: Any, prompt: Prompt, limits: Limits) -> ParsedRequest:
    """Return the request in `body`, or in `value`, the content of a JSON body."""
    names = prompt.variables
    settings: Mapping[str, Any] = {}
    ignored: Sequence[str] = ()
    if kind == JSON:
        if isinstance(value, dict) and not value.keys().isdisjoint(("messages", "prompt", "input")):
            return _parse_bare(value, prompt, limits)
        request = _validate(TableRequest, value)
        rows = request.rows(names)
        ignored = request.ignored()
        if request.params is not None:
            settings = request.params.settings()
    elif kind == CSV:
        rows = await asyncio.to_thread(_read_csv, body, names, limits.max_rows)
    else:
        rows = list(await read_parquet(body, names, limits.max_rows))
    check_size(limits, prompts=len(rows), settings=settings)
    return _parse_table(rows, prompt, settings, ignored, bare=False)


def _parse_table(
    rows: Sequence[Any], prompt: Prompt, settings: Mapping[str, Any], ignored: Sequence[str], *, bare: bool
) -> ParsedRequest:
    items = read_rows(rows, prompt.variables)
    inputs = [row if isinstance(row, dict) else {MESSAGES: as_dicts(row)} for row in items]
    return ParsedRequest(inputs, items, settings, ignored, bare)


def _parse_bare(value: dict[str, Any], prompt: Prompt, limits: Limits) -> ParsedRequest:
    request = _validate(BareRequest, value)
    given = [name for name in ("messages", "prompt", "input") if getattr(request, name) is not None]
    if len(given) != 1:
        raise InputError("send exactly one of messages, prompt, input")
    settings, ignored = request.settings(), request.ignored()
    if request.messages is not None:
        check_size(limits, settings=settings)
        turns = _to_turns(request.messages)
        return ParsedRequest({MESSAGES: as_dicts(turns)}, [turns], settings, ignored, bare=True)
    texts = request.prompt if request.prompt is not None else request.input
    texts = [texts] if isinstance(texts, str) else texts or []
    check_size(limits, prompts=len(texts), settings=settings)
    if request.prompt is not None:
        return ParsedRequest({"prompt": texts}, texts, settings, ignored, bare=True)
    return _parse_table(texts, prompt, settings, ignored, bare=True)


def _validate(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InputError(first_problem(error.errors()).message) from None


def read_rows(rows: Sequence[Any], names: Sequence[str]) -> list[dict[str, str] | Turns]:
    """Return the columns `names` of each row, or the conversation in its column `messages`.

    A bare text is the value of a prompt's only variable. Raises `InputError` that names the row.
    """
    return [_read_row(number, row, names) for number, row in enumerate(rows)]


def _read_row(number: int, row: Any, names: Sequence[str]) -> dict[str, str] | Turns:
    if isinstance(row, list) and len(row) == len(names):
        row = dict(zip(names, row, strict=True))
    elif not isinstance(row, (dict, list)) and len(names) == 1:
        row = {names[0]: row}
    if not isinstance(row, dict):
        raise InputError(f"row {number}: send an object with {', '.join(names)}, or a list of {len(names)} values")
    if MESSAGES not in names and row.get(MESSAGES) is not None:
        return _read_turns(number, row[MESSAGES])
    found = {}
    for name in names:
        try:
            found[name] = cell_text(row.get(name))
        except InputError as error:
            raise InputError(f"row {number}: column {name!r} {error.message}") from None
        if len(found[name]) > MAX_CHARACTERS:
            raise InputError(f"row {number}: column {name!r} has more than {MAX_CHARACTERS} characters")
    return found


def _read_turns(number: int, messages: Any) -> Turns:
    try:
        return _to_turns(_messages.validate_python(messages))
    except ValidationError as error:
        raise InputError(f"row {number}: {first_problem(error.errors(), [MESSAGES]).message}") from None


def _to_turns(messages: ChatMessages) -> Turns:
    if any(message.uses_tools for message in messages):
        raise UnsupportedError("messages", "with tool calls are not supported here; use /v1/chat/completions")
    return [message.turn for message in messages]


def _check_columns(columns: Sequence[str], names: Sequence[str]) -> None:
    """Raise `InputError` unless each variable has exactly one column, or the table has conversations."""
    for name in names:
        count = columns.count(name)
        if count > 1 or not (count or MESSAGES in columns):
            raise InputError(f"the table has {'two columns' if count else 'no column'} {name!r}")


def _fill(prompt: Prompt, item: Mapping[str, str] | str | Turns) -> str | Turns:
    """Fill the release's prompt with a row or a conversation; return a text unchanged."""
    if isinstance(item, Mapping):
        filled = prompt.fill(item)
        return filled if isinstance(filled, str) else [(turn.role, turn.content) for turn in filled]
    return item if isinstance(item, str) else fill_prompt(prompt, item) or item


def _read_csv(body: bytes, names: Sequence[str], max_rows: int) -> list[dict[str, str]]:
    """Return the rows of a CSV file with the columns `names`, without empty lines."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8: {error}") from None
    csv.field_size_limit(MAX_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = (line for line in reader if line)
    try:
        columns = next(lines, [])
        if len(columns) > MAX_COLUMNS:  # before building rows
            raise InputError(f"{len(columns)} columns; at most {MAX_COLUMNS}")
        _check_columns(columns, names)
        rows = []
        for number, line in enumerate(lines):
            if number >= max_rows:
                raise InputError(f"more than {max_rows} rows")
            if len(line) > len(columns):
                raise InputError(f"row {number}: {len(line)} values for {len(columns)} columns")
            rows.append(dict(zip(columns, line, strict=False)))
    except csv.Error as error:
        raise InputError(f"the body is not CSV: line {reader.line_num}: {error}") from None
    return rows
