"""MLflow's scoring protocol: tables of a prompt's variables in JSON, CSV or Parquet, or bare texts."""

import asyncio
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.exceptions import HTTPException

from fledge.core.errors import InputError
from fledge.core.messages import Ask
from fledge.serving.bodies import Generation, Text, read_json
from fledge.serving.docs import invocations_body, responses
from fledge.serving.endpoint import Endpoint, Job, Served, head, warn
from fledge.serving.openai import ChatMessage, unit
from fledge.serving.trace import RequestTrace

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MAX_CHARACTERS = 200_000
Name = Annotated[str, StringConstraints(max_length=200)]
M = TypeVar("M", bound=BaseModel)


class Split(BaseModel):
    """A table in pandas' `split` form."""

    model_config = ConfigDict(strict=True, extra="allow")

    columns: list[Name] = Field(max_length=100)
    data: list[list[Any]]


class TableRequest(BaseModel):
    """Exactly one form of table, and `params`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    # A null is no table: what is missing has a default that is never looked at.
    dataframe_split: Split = Split(columns=[], data=[])
    dataframe_records: list[dict[str, Any]] = []
    instances: list[Any] = []
    inputs: list[Any] | dict[str, list[Any]] | str = []
    params: Generation = Generation.model_validate({})

    def rows(self) -> list[Any]:
        """The rows, as mappings or bare values. Raises `InputError` where the table is none."""
        forms = self.model_fields_set - {"params"}
        if len(forms) != 1:
            raise InputError("send exactly one of dataframe_split, dataframe_records, instances, inputs")
        table = getattr(self, next(iter(forms)))
        if isinstance(table, Split):
            if any(len(row) != len(table.columns) for row in table.data):
                raise InputError(f"every row of data needs {len(table.columns)} values, one for each column")
            return [dict(zip(table.columns, row, strict=True)) for row in table.data]
        if isinstance(table, dict):
            if len({len(values) for values in table.values()}) > 1:
                raise InputError("the lists in inputs must have one length")
            return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        return [table] if isinstance(table, str) else list(table)


class BareRequest(Generation):
    """A conversation, a prompt as it is, or a text for the release's prompt; the answer comes unwrapped."""

    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=1000)
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None


@dataclass(frozen=True)
class Parsed:
    """What was asked, in the engine's terms; `bare` answers come unwrapped."""

    inputs: Any
    prompts: Sequence[str | list[tuple[str, str]]]
    settings: Mapping[str, Any]
    unknown: Sequence[str]
    with_prompt: bool
    bare: bool


def invocations_routes(endpoint: Endpoint, router: APIRouter) -> None:
    """Add the route of the protocol."""

    @router.post(
        "/invocations",
        summary="Answer rows of a table by the release's prompt, as MLflow's own server does",
        responses=responses(415, predictions=True),
        openapi_extra={"requestBody": invocations_body(TableRequest, BareRequest)},
        tags=["MLflow"],
    )
    async def invocations(request: Request) -> Response:
        trace: RequestTrace = request.state.trace
        chosen = endpoint.choose(trace, "", unit(request, None))
        limits = endpoint.limits
        body, kind = await request.body(), _content_type(request)
        parsed = await _parsed(body, kind, chosen.served, limits.max_json_depth, limits.max_rows)
        trace.inputs = parsed.inputs
        if parsed.with_prompt:
            trace.prompt = chosen.served.manifest.prompt_label
        params = chosen.served.params(parsed.settings)
        asks = [
            Ask("", params, text=item, stream=False)
            if isinstance(item, str)
            else Ask("", params, messages=item, stream=False)
            for item in parsed.prompts
        ]
        texts = [item if isinstance(item, str) else _as_text(item) for item in parsed.prompts]
        async for _ in endpoint.answers(trace, chosen, Job(asks, texts)):
            pass
        found = [result.text.strip() for result in trace.results]
        return JSONResponse(
            found if parsed.bare else {"predictions": found}, headers={**head(trace), **warn(parsed.unknown)}
        )


def _content_type(request: Request) -> str:
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    charset = rest.strip().lower().removeprefix("charset=").strip('"')
    kind = kind.strip().lower()
    if kind not in (JSON, CSV, PARQUET) or charset not in ("", "utf-8"):
        raise HTTPException(415, f"send {JSON}, {CSV} or {PARQUET}, in UTF-8")
    return kind


async def _parsed(body: bytes, kind: str, served: Served, max_depth: int, max_rows: int) -> Parsed:
    if kind == JSON:
        value = read_json(body, max_depth)
        if isinstance(value, dict) and not value.keys().isdisjoint(("messages", "prompt", "input")):
            return _bare(value, served)
        request = _validated(TableRequest, value)
        rows, settings, unknown = request.rows(), request.params.settings(), request.params.unknown
    else:
        read = _csv_rows if kind == CSV else _parquet_rows
        rows, settings, unknown = await asyncio.to_thread(read, body, max_rows), {}, []
    if len(rows) > max_rows:
        raise InputError(f"{len(rows)} rows; at most {max_rows}")
    tidy = read_rows(rows, served.prompt.variables)
    return Parsed(tidy, [_fill(served, row) for row in tidy], settings, unknown, with_prompt=True, bare=False)


def _bare(value: dict[str, Any], served: Served) -> Parsed:
    request = _validated(BareRequest, value)
    given = [name for name in ("messages", "prompt", "input") if getattr(request, name) is not None]
    if len(given) != 1:
        raise InputError("send exactly one of messages, prompt, input")
    settings, unknown = request.settings(), request.unknown
    if request.messages is not None:
        turns = [message.turn for message in request.messages]
        inputs = {"messages": [{"role": role, "content": text} for role, text in turns]}
        return Parsed(inputs, [turns], settings, unknown, with_prompt=False, bare=True)
    texts = request.prompt if request.prompt is not None else request.input
    texts = [texts] if isinstance(texts, str) else texts or []
    if request.prompt is not None:
        return Parsed({"prompt": texts}, texts, settings, unknown, with_prompt=False, bare=True)
    tidy = read_rows(texts, served.prompt.variables)
    return Parsed(tidy, [_fill(served, row) for row in tidy], settings, unknown, with_prompt=True, bare=True)


def _validated(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def read_rows(rows: Sequence[Any], names: Sequence[str]) -> list[dict[str, str]]:
    """One mapping of texts for each row, with the columns `names`; a bare text is the one variable of a prompt that has
    just one. Raises `InputError` that names the row."""
    return [_row(number, row, names) for number, row in enumerate(rows)]


def _row(number: int, row: Any, names: Sequence[str]) -> dict[str, str]:
    if isinstance(row, str) and len(names) == 1:
        row = {names[0]: row}
    for name in names:
        value = row.get(name) if isinstance(row, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"row {number}: column {name!r} must be a text that is not empty")
        if len(value) > MAX_CHARACTERS:
            raise InputError(f"row {number}: column {name!r} has more than {MAX_CHARACTERS} characters")
    return {name: row[name] for name in names}


def _fill(served: Served, row: Mapping[str, str]) -> str | list[tuple[str, str]]:
    filled = served.prompt.fill(row)
    return filled if isinstance(filled, str) else [(turn.role, turn.content) for turn in filled]


def _csv_rows(body: bytes, max_rows: int) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        rows = [row for row, _ in zip(reader, range(max_rows + 1), strict=False)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the body is no CSV: {error}") from None
    if any(None in row for row in rows):
        raise InputError("a row of the CSV has more values than the first line has columns")
    return cast("list[dict[str, str]]", rows)


def _parquet_rows(body: bytes, max_rows: int) -> list[dict[str, Any]]:
    """Rows of a Parquet file. Texts stay in their dictionaries until it is known how much they are."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(body))
        about = file.metadata
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        if about.num_rows > max_rows or about.num_columns > 100:
            raise InputError(f"at most {max_rows} rows and 100 columns")
        if sum(group.total_byte_size for group in groups) > 64 * MAX_CHARACTERS:
            raise InputError("the table is too large")
        names = list(file.schema_arrow.names)
        table = parquet.read_table(io.BytesIO(body), read_dictionary=names, use_threads=False)
        if table.nbytes > 64 * MAX_CHARACTERS or table.num_rows > max_rows:
            raise InputError("the table is too large")
        return cast("list[dict[str, Any]]", table.to_pylist())
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the body is no Parquet file: {str(error).splitlines()[0]}") from None


def _as_text(turns: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{role}: {content}" for role, content in turns)
