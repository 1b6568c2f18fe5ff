"""What clients may send: the bodies of the protocols, with a bound on every number and list."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(max_length=200_000)]
Stop = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=100)]], Field(max_length=4)]


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Generation(BaseModel):
    """Generation settings that a request may choose; what is missing is the release's own."""

    max_tokens: int | None = Field(None, ge=1, le=4096)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=1e-6, le=1)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stop: Stop | Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None

    def settings(self) -> dict[str, Any]:
        """Only what was sent, in the engine's terms."""
        chosen = {name: getattr(self, name) for name in Generation.model_fields if getattr(self, name) is not None}
        if isinstance(self.stop, str):
            chosen["stop"] = [self.stop]
        return chosen


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    model: str = Field("", max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=4096)
    stream: bool = False

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self


class Split(BaseModel):
    """A table in pandas' `split` form."""

    columns: list[Annotated[str, StringConstraints(max_length=200)]] = Field(max_length=100)
    data: list[list[Any]] = Field(max_length=1000)


class InvocationsRequest(BaseModel):
    """`POST /invocations`, MLflow's scoring protocol: exactly one form of table, and `params`."""

    model_config = ConfigDict(extra="forbid")

    dataframe_split: Split | None = None
    dataframe_records: list[dict[str, Any]] | None = Field(None, max_length=1000)
    instances: list[Any] | None = Field(None, max_length=1000)
    inputs: list[Any] | dict[str, list[Any]] | str | None = None
    params: Generation = Field(default_factory=lambda: Generation.model_validate({}))

    def rows(self, names: tuple[str, ...]) -> list[dict[str, str]]:
        """One dict of texts for each row, with the columns `names`. Raises `ValueError` that names the row."""
        given = [
            form
            for form in (self.dataframe_split, self.dataframe_records, self.instances, self.inputs)
            if form is not None
        ]
        if len(given) != 1:
            raise ValueError("send exactly one of dataframe_split, dataframe_records, instances, inputs")
        table = given[0]
        rows: list[Any]
        if isinstance(table, Split):
            if any(len(row) != len(table.columns) for row in table.data):
                raise ValueError(f"every row of data needs {len(table.columns)} values, one for each column")
            rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
        elif isinstance(table, dict):
            if len({len(values) for values in table.values()}) > 1:
                raise ValueError("the lists in inputs must have one length")
            rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        else:
            rows = [table] if isinstance(table, str) else table
        if len(rows) > 1000:
            raise ValueError("at most 1000 rows")
        return [_row(number, row, names) for number, row in enumerate(rows)]


def _row(number: int, row: Any, names: tuple[str, ...]) -> dict[str, str]:
    if isinstance(row, str) and len(names) == 1:
        row = {names[0]: row}
    for name in names:
        value = row.get(name) if isinstance(row, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"row {number}: column {name!r} must be a text that is not empty")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError(f"row {number}: column {name!r} is not valid Unicode")
        if len(value) > 200_000:
            raise ValueError(f"row {number}: column {name!r} has more than 200000 characters")
    return {name: row[name] for name in names}
