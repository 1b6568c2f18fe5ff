"""LangChain models over an engine: an LLM that submits a batch together, and a chat model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    GenerationChunk,
    LLMResult,
)
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda
from pydantic import ConfigDict

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.core.texts import strip_stream
from fledge.core.types import Message
from fledge.engines.engine import Engine, generate
from fledge.engines.stream import Completion
from fledge.prompts.format import fill_conversation
from fledge.prompts.prompt import Prompt

_ROLES: dict[str, Any] = {"human": "user", "ai": "assistant", "system": "system"}


class EngineLLM(BaseLLM):
    """`invoke`, `batch`, `stream` and their async forms over an engine; a batch is computed together.

    Each generation's `generation_info` holds its `Completion`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: Any
    params: GenerationParams = GenerationParams()
    cache: BaseCache | bool | None = False  # LangChain's would mix answers of several engines

    @property
    def _llm_type(self) -> str:
        return "fledge"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        completions = generate(self.engine, prompts, _with_stop(self.params, stop))
        return LLMResult(generations=[[_to_generation(completion)] for completion in completions])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for chunk in self.engine.submit(prompt, _with_stop(self.params, stop)):
            piece = GenerationChunk(text=chunk.text)
            if run_manager:
                run_manager.on_llm_new_token(piece.text, chunk=piece)
            yield piece


class EngineChatModel(BaseChatModel):
    """Chat model over an engine for system, human and AI messages, rendered by the model's chat template."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: Any
    params: GenerationParams = GenerationParams()
    cache: BaseCache | bool | None = False  # LangChain's would mix answers of several engines

    @property
    def _llm_type(self) -> str:
        return "fledge-chat"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        (completion,) = generate(self.engine, [_from_langchain(messages)], _with_stop(self.params, stop))
        counts = UsageMetadata(
            input_tokens=completion.prompt_tokens,
            output_tokens=completion.completion_tokens,
            total_tokens=completion.prompt_tokens + completion.completion_tokens,
        )
        answer = AIMessage(
            completion.text,
            usage_metadata=counts,
            response_metadata={"finish_reason": completion.finish_reason, "model_name": self.engine.info.name},
        )
        return ChatResult(generations=[ChatGeneration(message=answer, generation_info={"completion": completion})])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self.engine.submit(_from_langchain(messages), _with_stop(self.params, stop)):
            piece = ChatGenerationChunk(message=AIMessageChunk(content=chunk.text))
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=piece)
            yield piece


def build_chain(prompt: Prompt, engine: Engine, params: GenerationParams) -> Runnable[Mapping[str, str], str]:
    """Build `prompt | llm | parser`, from the variables of a question to the stripped answer text.

    A text prompt is completed, a conversation is sent as chat; `fledge.prompts.format.apply_format` converts a text.
    """
    fill: Runnable[Mapping[str, str], Any] = RunnableLambda(_build_filler(prompt), name="prompt")
    if isinstance(prompt.template, str):
        return fill | EngineLLM(engine=engine, params=params) | _build_parser()
    return fill | EngineChatModel(engine=engine, params=params) | _build_parser()


def build_chat_chain(prompt: Prompt, engine: Engine, params: GenerationParams) -> Runnable[Sequence[Message], str]:
    """Build `prompt | llm | parser`, from a conversation and a release's prompt to the stripped answer text."""

    def fill(turns: Sequence[Message]) -> str | list[BaseMessage]:
        filled = fill_conversation(prompt, turns, {}) or tuple(turns)
        return filled if isinstance(filled, str) else _to_langchain(filled)

    def choose(asked: str | list[BaseMessage]) -> Runnable[Any, Any]:
        kind = EngineLLM if isinstance(asked, str) else EngineChatModel
        return kind(engine=engine, params=params)

    return RunnableLambda(fill, name="prompt") | RunnableLambda(choose, name="model") | _build_parser()


def _build_parser() -> Runnable[Any, str]:
    return StrOutputParser() | RunnableGenerator(strip_stream, name="strip")


def _build_filler(prompt: Prompt) -> Callable[[Mapping[str, str]], str | list[BaseMessage]]:
    def fill(values: Mapping[str, str]) -> str | list[BaseMessage]:
        filled = prompt.fill(values)
        return filled if isinstance(filled, str) else _to_langchain(filled)

    return fill


def _to_langchain(turns: Sequence[Message]) -> list[BaseMessage]:
    return convert_to_messages([(turn.role, turn.content) for turn in turns])


def _to_generation(completion: Completion) -> Generation:
    return Generation(text=completion.text, generation_info={"completion": completion})


def _from_langchain(messages: Sequence[BaseMessage]) -> list[Message]:
    strange = [message.type for message in messages if message.type not in _ROLES]
    if strange:
        raise InputError(f"a message of type {strange[0]!r} is not supported", hint="use human, ai or system")
    return [Message(_ROLES[message.type], message.text) for message in messages]


def _with_stop(params: GenerationParams, stop: list[str] | None) -> GenerationParams:
    return replace(params, stop=tuple(stop)) if stop else params
