"""Bodies of responses: one definition for the bytes on the wire and for the schemas in `/openapi.json`.

An UNSET field is omitted; None is sent as null. A tag is a field with a constant value.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

HEX = "[0-9a-f]{32}"
REQUEST_ID = f"(chatcmpl-|cmpl-)?{HEX}"

NonNegative = Annotated[int, Meta(ge=0)]
HexId = Annotated[str, Meta(pattern=f"^{HEX}$")]
ChatId = Annotated[str, Meta(pattern=f"^chatcmpl-{HEX}$")]
CompletionId = Annotated[str, Meta(pattern=f"^cmpl-{HEX}$")]
Finish = Annotated[str, Meta(extra_json_schema={"enum": ["stop", "length"]})]
ChatFinish = Annotated[str, Meta(extra_json_schema={"enum": ["stop", "length", "tool_calls"]})]

encode = msgspec.json.Encoder().encode


class ErrorDetail(Struct):
    """Details of an error; `param` is the invalid field of the request."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Struct):
    """An error of the OpenAI protocol."""

    error: ErrorDetail


class ScoringError(Struct):
    """An error of MLflow's scoring protocol."""

    error_code: str
    message: str


class CompletionUsage(Struct):
    """Token counts of a request. Each prompt counts once, however many answers it has."""

    prompt_tokens: NonNegative
    completion_tokens: NonNegative
    total_tokens: NonNegative


class TopLogprob(Struct):
    """A token and its log probability. `bytes` is null for a token that is part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """The chosen token of a chat completion, and the most probable tokens at its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """Log probabilities of a chat completion."""

    content: list[TokenLogprob]
    refusal: None


class Logprobs(Struct):
    """Log probabilities of a text completion by token, null for the first of an echoed prompt; `text_offset` is the
    start of each token in the text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[NonNegative]


class FunctionCall(Struct):
    """A function to call; `arguments` is JSON as text."""

    name: str
    arguments: str


class MessageToolCall(Struct, tag_field="type", tag="function"):
    """A call that the model asks for."""

    id: str
    function: FunctionCall


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """The answer to a conversation: a text, or calls of tools."""

    content: str | None
    refusal: None
    tool_calls: list[MessageToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    """One of the `n` answers to a conversation."""

    index: NonNegative
    message: AssistantMessage
    finish_reason: ChatFinish
    logprobs: ChatLogprobs | None


class ChatCompletion(Struct, tag_field="object", tag="chat.completion"):
    """A chat completion."""

    id: ChatId
    created: NonNegative
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class FunctionDelta(Struct):
    """The name of a function in the first chunk of its call, and the next part of its arguments."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(Struct):
    """The part of a call that a chunk adds; the first has `id` and `type`."""

    index: NonNegative
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(Struct):
    """The part of a message that a chunk adds."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(Struct):
    """The next part of one of the answers; the last has a `finish_reason`."""

    index: NonNegative
    delta: Delta
    finish_reason: ChatFinish | None
    logprobs: ChatLogprobs | None


class ChatCompletionChunk(Struct, tag_field="object", tag="chat.completion.chunk"):
    """An event of a streamed chat completion. `usage` is present only if requested, and null until the last event."""

    id: ChatId
    created: NonNegative
    model: str
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | UnsetType | None = UNSET


class CompletionChoice(Struct):
    """One of the `n` answers to one of the prompts."""

    index: NonNegative
    text: str
    finish_reason: Finish
    logprobs: Logprobs | None


class TextCompletion(Struct, tag_field="object", tag="text_completion"):
    """A text completion."""

    id: CompletionId
    created: NonNegative
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class CompletionChunkChoice(Struct):
    """The next part of one of the answers; the last has a `finish_reason`."""

    index: NonNegative
    text: str
    finish_reason: Finish | None
    logprobs: Logprobs | None


class TextCompletionChunk(Struct, tag_field="object", tag="text_completion"):
    """An event of a streamed text completion. `usage` is present only if requested, and null until the last event."""

    id: CompletionId
    created: NonNegative
    model: str
    choices: list[CompletionChunkChoice]
    usage: CompletionUsage | UnsetType | None = UNSET


class Model(Struct, tag_field="object", tag="model"):
    """A name under which a release is served, since `created`; `max_model_len` is the model's context window."""

    id: str
    created: NonNegative
    owned_by: str
    max_model_len: NonNegative | UnsetType = UNSET


class Models(Struct, tag_field="object", tag="list"):
    """All served names."""

    data: list[Model]


class PredictionsResponse(Struct):
    """The answers to the rows of a table, in order."""

    predictions: list[str]


class ReleaseReadiness(Struct):
    """A release, and whether its engine takes requests."""

    name: str
    version: NonNegative
    ready: bool


class Ready(Struct):
    """Whether the endpoint takes requests."""

    ready: bool
    draining: bool
    releases: list[ReleaseReadiness]


class FeedbackTaken(Struct):
    """Ids of the feedback and of its request."""

    feedback_id: HexId
    request_id: HexId
