"""The OpenAI protocol: requests and routes of chat and text completions."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

from fledge.core.errors import InputError, StructureError
from fledge.core.generation import BOUNDS
from fledge.core.keys import OWN_NAME
from fledge.core.messages import Piece
from fledge.prompts.prompt import Prompt
from fledge.serving.chat_messages import RENDERED_TOOLS, ChatMessages, ignored_in
from fledge.serving.completions import ChatBuilder, CompletionBuilder
from fledge.serving.conversations import as_dicts, as_text, fill_prompt, make_asks
from fledge.serving.docs import NO_PROMPT, responses
from fledge.serving.endpoint import Endpoint, Job, Served, release_headers, warning_headers
from fledge.serving.errors import NO_MODEL
from fledge.serving.events import EventStream, start_generation
from fledge.serving.json_response import StructResponse
from fledge.serving.request_models import (
    MAX_PROMPTS,
    Count,
    Generation,
    NewTokens,
    Text,
    as_integer,
    check_size,
    replace_off,
    unknown_names,
)
from fledge.serving.response_models import Model, Models
from fledge.serving.structured_outputs import named_errors
from fledge.serving.tools import Function, ToolChoice, Tools, callable_functions, tools_grammar, with_tools
from fledge.serving.trace import RequestTrace
from fledge.serving.unsupported import UnsupportedError

SESSION_HEADER = "x-session-id"
COMPLETION_TOKENS = 16
OWNER = "fledge"


def _check_prompt(prompt: Any) -> Any:
    """Refuse a prompt with one message, instead of one for each of its forms."""
    items = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], list) else [prompt]
    for place, item in enumerate(items):
        where = f"prompt {place}" if len(items) > 1 or items is prompt else "the prompt"
        if item in ("", []):
            raise PydanticCustomError("empty", "{where} is empty", {"where": where})
        ids = [id_ for id_ in item if not isinstance(id_, str)] if isinstance(item, list) else []
        bad = next((at for at, id_ in enumerate(ids) if not _is_token_id(id_)), None)
        if bad is not None:
            problem = f"{where} has {json.dumps(ids[bad])[:50]} at position {item.index(ids[bad])}"
            raise PydanticCustomError("tokens", "{problem}; token ids are whole numbers from 0", {"problem": problem})
    return prompt


def _is_token_id(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and float(value).is_integer()


PromptText = Annotated[Text, StringConstraints(min_length=1)]
TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]],
    Field(fail_fast=True, min_length=1, max_length=200_000),
    BeforeValidator(as_integer),
]


CompletionTokens = Annotated[int, Field(ge=0, le=BOUNDS["max_tokens"][1]), BeforeValidator(as_integer)]


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool = False


class PromptChoice(BaseModel):
    """The release's prompt by name, and values for its variables."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: Annotated[str, StringConstraints(max_length=200)] = Field(description="`name` or `name/version`")
    variables: dict[str, Text] = Field(default_factory=dict, max_length=100)


class CommonRequest(Generation):
    """Parameters of both kinds of completion."""

    model: Annotated[str, StringConstraints(max_length=300)] = Field(
        "", description="`NAME`, `NAME@alias` or `NAME/version`; the first served model if missing"
    )
    n: Count | None = Field(None, description="answers to each prompt")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="user of the request; a user stays with one arm of an experiment"
    )

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def ignored(self) -> list[str]:
        inside = unknown_names(self.stream_options, "stream_options.") if self.stream_options else []
        return [*super().ignored(), *inside]


class ChatRequest(CommonRequest):
    """`POST /v1/chat/completions`."""

    messages: ChatMessages
    max_completion_tokens: Annotated[NewTokens | None, replace_off(NewTokens, -1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), BeforeValidator(as_integer)] | None = None
    tools: Tools | None = Field(None, description="functions that the model may call")
    tool_choice: ToolChoice | None = Field(None, description="`required` or a function: the answer is a call")
    prompt: PromptChoice | Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None,
        description="the release's own prompt, filled with the user's last message; `none` omits it",
    )

    @model_validator(mode="after")
    def _merge_limits(self) -> "ChatRequest":
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self

    def ignored(self) -> list[str]:
        inside = ignored_in(self.messages)
        if isinstance(self.prompt, PromptChoice):
            inside += unknown_names(self.prompt, "prompt.")
        return [*super().ignored(), *inside]

    def job(self, served: Served) -> Job:
        """Return the job for a release, with the release's own prompt unless the request omits it.

        Raises `InputError` for another prompt, and for missing variables.
        """
        turns, functions = [message.turn for message in self.messages], self.functions
        plain = self.prompt == NO_PROMPT or self.uses_tools
        found = None if plain else fill_prompt(served.prompt, turns, self._values(served.prompt))
        asked = turns if found is None else found
        if functions and not isinstance(asked, str):
            asked = with_tools(asked, functions)
        n = self.n or 1
        params = {**served.params(self.settings()), "n": n, "logprobs": bool(self.logprobs)}
        params["top_logprobs"] = (self.top_logprobs or 0) if self.logprobs else 0
        label = "" if found is None else served.manifest.prompt_label
        return Job(make_asks([asked], params, stream=bool(self.stream)), [as_text(asked)], n, label)

    @property
    def uses_tools(self) -> bool:
        """Whether the request has tools to call, or its conversation has calls or their results."""
        return bool(self.functions) or any(message.uses_tools for message in self.messages)

    def structure_param(self) -> str:
        return "tools" if self.functions else super().structure_param()

    @property
    def functions(self) -> list[Function]:
        """The functions of which the answer must call one."""
        return callable_functions(self.tools, self.tool_choice)

    def settings(self) -> dict[str, Any]:
        chosen, functions = super().settings(), self.functions
        if not functions:
            return chosen
        if "grammar" in chosen:
            raise StructureError("a structured output cannot be combined with a forced tool", param="tool_choice")
        return {**chosen, "grammar": tools_grammar(functions)}

    def _values(self, prompt: Prompt) -> Mapping[str, str]:
        if self.prompt is None:
            return {}
        choice = PromptChoice(id=self.prompt) if isinstance(self.prompt, str) else self.prompt
        if choice.id not in (prompt.name, prompt.label):
            raise InputError(f"no prompt {choice.id!r} in this release; it has {prompt.label}")
        return choice.variables


class CompletionRequest(CommonRequest):
    """`POST /v1/completions`: complete prompts, as texts or token ids."""

    prompt: Annotated[
        PromptText
        | Annotated[list[PromptText], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)],
        BeforeValidator(_check_prompt),
    ]
    max_tokens: Annotated[CompletionTokens | None, replace_off(CompletionTokens, -1)] = Field(
        None, description="maximum number of new tokens; 0 with `echo` for the prompt alone"
    )
    logprobs: Annotated[int, Field(ge=0, le=5), BeforeValidator(as_integer)] | None = None
    echo: bool | None = None
    parse_special: bool | None = Field(None, description="read special tokens in the prompt as such, not as text")

    def prompts(self) -> Sequence[str | list[int]]:
        """Return each prompt, as text or token ids."""
        given: Any = self.prompt
        return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)

    @property
    def engine_echoes(self) -> bool:
        """Whether the engine has to echo the prompts: for their log probabilities, or for the text of token ids."""
        scored = self.logprobs is not None or self.max_tokens == 0
        return bool(self.echo) and (scored or not isinstance(self.prompts()[0], str))

    def ignored(self) -> list[str]:
        if self.max_tokens == 0 and not self.echo:
            raise UnsupportedError("max_tokens", "0 needs echo: the answer would be empty")
        return super().ignored()

    def job(self, served: Served) -> Job:
        """Return the job for a release."""
        n, settings = self.n or 1, {"max_tokens": COMPLETION_TOKENS, **self.settings()}
        params = {**served.params(settings), "n": n, "logprobs": self.logprobs is not None}
        params["top_logprobs"] = self.logprobs or 0
        params |= {"echo": self.engine_echoes, "parse_special": bool(self.parse_special)}
        return Job(make_asks(self.prompts(), params, stream=bool(self.stream)), self.texts(), n)

    def texts(self) -> list[str]:
        """Return the prompts as readable text."""
        return [item if isinstance(item, str) else f"{len(item)} token ids" for item in self.prompts()]


def add_openai_routes(endpoint: Endpoint, router: APIRouter) -> None:
    """Add the routes of the protocol."""

    @router.get("/v1/models", summary="List the models", responses=responses(401), tags=["OpenAI"])
    async def models() -> StructResponse:
        return StructResponse(Models([_describe_model(endpoint, name) for name in endpoint.routes.names()]))

    @router.get(
        "/v1/models/{model:path}",
        summary="Look up a model",
        responses=responses(401, 404),
        tags=["OpenAI"],
    )
    async def model(model: str) -> StructResponse:
        if model not in endpoint.routes.names(versions=True):
            raise HTTPException(404, f"{NO_MODEL} {model!r} here")
        return StructResponse(_describe_model(endpoint, model))

    @router.post(
        "/v1/chat/completions", summary="Answer a conversation", responses=responses(answers=True), tags=["OpenAI"]
    )
    async def chat(body: ChatRequest, request: Request) -> Response:
        trace: RequestTrace = request.state.trace
        trace.inputs = {"messages": as_dicts([message.turn for message in body.messages])}
        ignored = body.ignored()
        check_size(endpoint.limits, n=body.n or 1, settings=body.settings())
        chosen = endpoint.choose(trace, body.model, assignment_unit(request, body.user))
        builder = ChatBuilder(
            trace,
            body.n or 1,
            with_usage=body.with_usage,
            with_top=bool(body.top_logprobs),
            calls_tools=bool(body.functions),
        )
        notes = [RENDERED_TOOLS] if body.uses_tools else []
        return await _respond(endpoint.generate(trace, chosen, body.job), builder, body, ignored, notes)

    @router.post("/v1/completions", summary="Complete a text", responses=responses(answers=True), tags=["OpenAI"])
    async def completions(body: CompletionRequest, request: Request) -> Response:
        trace: RequestTrace = request.state.trace
        trace.inputs = {"prompt": body.prompt}
        ignored = body.ignored()
        texts, n = body.texts(), body.n or 1
        check_size(endpoint.limits, prompts=len(texts), n=n, settings=body.settings())
        chosen = endpoint.choose(trace, body.model, assignment_unit(request, body.user))
        echoes = [_echo(body, prompt) for prompt in body.prompts() for _ in range(n)]
        builder = CompletionBuilder(
            trace, n, with_usage=body.with_usage, echoes=echoes, scored=body.logprobs is not None
        )
        return await _respond(endpoint.generate(trace, chosen, body.job), builder, body, ignored)


def _describe_model(endpoint: Endpoint, name: str) -> Model:
    route = endpoint.routes.find(name, "")
    served = endpoint.served.get(route.release) if route else None
    if served is None:
        return Model(name, 0, OWNER)
    return Model(name, served.since, OWNER, UNSET if served.context is None else served.context)


def _echo(body: CompletionRequest, prompt: str | list[int]) -> str | None:
    """Return the text before an answer, None for that of the engine."""
    if not body.echo:
        return ""
    return prompt if isinstance(prompt, str) and body.logprobs is None else None


def assignment_unit(request: Request, user: str | None) -> str:
    """Return the unit of a stable assignment: `user`, else the session, else the key's name, else the request's id.

    The key in the environment has no name, since all users share it.
    """
    key = request.state.key_name if request.state.key_name != OWN_NAME else ""
    found = user or request.headers.get(SESSION_HEADER) or key
    return str(found or request.state.trace.request_id)


async def _respond(
    pieces: AsyncGenerator[tuple[int, Piece]],
    builder: ChatBuilder | CompletionBuilder,
    body: CommonRequest,
    ignored: Sequence[str],
    notes: Sequence[str] = (),
) -> Response:
    trace = builder.trace
    if body.stream:
        with named_errors(body.structure_param()):
            started = await start_generation(pieces)
        headers = {**release_headers(trace), **warning_headers(ignored, notes)}
        return EventStream(builder.chunks(started), trace, headers)
    with named_errors(body.structure_param()):
        async for _ in pieces:
            pass
    headers = {**release_headers(trace), **warning_headers(ignored, [*notes, *trace.notes])}
    return StructResponse(builder.build(), headers=headers)
