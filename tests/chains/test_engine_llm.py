import asyncio

import pytest
from langchain_core.messages import AIMessage, ToolMessage

from fledge.chains.engine_llm import EngineChatModel, EngineLLM, build_chain
from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines import engine as engines
from fledge.engines.scripted import ScriptedEngine
from fledge.engines.stream import Stream
from fledge.prompts.prompt import Prompt


class RecordingEngine(ScriptedEngine):
    """A scripted engine that records the submitted prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: list[engines.PromptInput] = []

    def submit(self, prompt: engines.PromptInput, params: GenerationParams) -> Stream:
        self.submitted.append(prompt)
        return super().submit(prompt, params)


def test_batch_is_submitted_in_order() -> None:
    engine = RecordingEngine()
    chain = build_chain(Prompt("mine", 1, "Q: {{question}}"), engine, GenerationParams())
    assert chain.batch([{"question": "one"}, {"question": "two"}]) == ["Q: ONE", "Q: TWO"]
    assert engine.submitted == ["Q: one", "Q: two"]


def test_invoke_stream_and_stop() -> None:
    llm = EngineLLM(engine=ScriptedEngine(lambda prompt: f"{prompt} b c"), params=GenerationParams())
    assert llm.invoke("a") == "a b c"
    assert list(llm.stream("a")) == ["a ", "b ", "c"]
    assert llm.invoke("a", stop=["b"]) == "a "


async def _ask(llm: EngineLLM) -> tuple[str, list[str], list[str]]:
    return await llm.ainvoke("a"), await llm.abatch(["b", "c"]), [piece async for piece in llm.astream("d e")]


def test_async_methods() -> None:
    assert asyncio.run(_ask(EngineLLM(engine=ScriptedEngine()))) == ("A", ["B", "C"], ["D ", "E"])


def test_a_conversation_reaches_the_engine_as_turns() -> None:
    engine = RecordingEngine()
    turns = (Message("system", "Be brief."), Message("user", "{{question}}"))
    chain = build_chain(Prompt("chat", 1, turns), engine, GenerationParams())
    assert chain.invoke({"question": "why?"}) == "WHY?"
    assert engine.submitted == [[Message("system", "Be brief."), Message("user", "why?")]]


def test_a_chat_model_counts_tokens_and_streams() -> None:
    model = EngineChatModel(engine=ScriptedEngine())
    answer = model.invoke([("system", "Be brief."), ("human", "one two")])
    assert isinstance(answer, AIMessage)
    assert answer.text == "ONE TWO"
    assert answer.usage_metadata == {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6}
    assert answer.response_metadata["finish_reason"] == "stop"
    assert [piece.text for piece in model.stream("one two") if piece.text] == ["ONE ", "TWO"]


def test_unsupported_message_type_is_rejected() -> None:
    with pytest.raises(InputError, match="a message of type 'tool'"):
        EngineChatModel(engine=ScriptedEngine()).invoke([ToolMessage("result", tool_call_id="1")])
