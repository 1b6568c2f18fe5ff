"""The asker for a custom LangChain runnable."""

from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable

from fledge.experiments.askers import Exchange, Traced
from fledge.experiments.cells import Cell


@dataclass(frozen=True)
class ChainAsker:
    """Invokes a chain with the columns of the question, within the trace of the cell."""

    chain: Runnable[Any, Any]
    traced: Traced = lambda _, work: (work(), [])

    def __call__(self, cell: Cell, exchange: Exchange) -> str:
        config: dict[str, Any] = {"callbacks": [_Listener(exchange)]}
        found, exchange.steps = self.traced(cell, lambda: self.chain.invoke(cell.question.variables, config))  # type: ignore[arg-type]
        content = found.text if isinstance(found, BaseMessage) else found
        return content if isinstance(content, str) else str(content)


class _Listener(BaseCallbackHandler):
    """Records the prompts and token counts of the models in a chain."""

    raise_error = False

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **_: Any) -> None:
        self._exchange.fill(prompts[0])

    def on_chat_model_start(self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **_: Any) -> None:
        self._exchange.fill("\n\n".join(f"{message.type}: {message.text}" for message in messages[0]))

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        generation = response.generations[0][0]
        self._exchange.completion = (generation.generation_info or {}).get("completion")
        usage = getattr(getattr(generation, "message", None), "usage_metadata", None) or {}
        self._exchange.prompt_tokens += usage.get("input_tokens", 0)
        self._exchange.completion_tokens += usage.get("output_tokens", 0)
