"""An engine as a LangChain LLM: a whole batch goes to the engine at once."""

from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict

from fledge.models.engine import Completion, Engine, GenerationParams, generate
from fledge.prompts.template import fill


class EngineLLM(BaseLLM):
    """`invoke`, `batch` and `stream` over an engine; each generation's `generation_info` holds its `Completion`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: Any
    params: GenerationParams = GenerationParams()

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
        completions = generate(self.engine, prompts, self._params(stop))
        return LLMResult(generations=[[_generation(completion)] for completion in completions])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for chunk in self.engine.submit(prompt, self._params(stop)):
            piece = GenerationChunk(text=chunk.text)
            if run_manager:
                run_manager.on_llm_new_token(piece.text, chunk=piece)
            yield piece

    def _params(self, stop: list[str] | None) -> GenerationParams:
        if not stop:
            return self.params
        return GenerationParams(**{**vars(self.params), "stop": tuple(stop)})


def _generation(completion: Completion) -> Generation:
    return Generation(text=completion.text, generation_info={"completion": completion})


def build_chain(template: str, engine: Engine, params: GenerationParams) -> Runnable[dict[str, str], str]:
    """`prompt | llm | parser`: from the variables of a question to the answer's text, stripped."""
    prompt: Runnable[dict[str, str], str] = RunnableLambda(_filler(template), name="prompt")
    strip = RunnableLambda(str.strip, name="strip")
    return prompt | EngineLLM(engine=engine, params=params) | StrOutputParser() | strip


def _filler(template: str) -> Callable[[dict[str, str]], str]:
    return lambda values: fill(template, values)
