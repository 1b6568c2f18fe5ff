from fledge.chains.engine_llm import EngineLLM, build_chain
from fledge.models.engine import GenerationParams, Prompt, Stream
from fledge.models.scripted import ScriptedEngine


class CountingEngine(ScriptedEngine):
    """A scripted engine that remembers how many answers were open at once."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: list[Prompt] = []

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        self.submitted.append(prompt)
        return super().submit(prompt, params)


def test_a_batch_reaches_the_engine_whole_and_in_order() -> None:
    engine = CountingEngine()
    chain = build_chain("Q: {{question}}", engine, GenerationParams())
    assert chain.batch([{"question": "one"}, {"question": "two"}]) == ["Q: ONE", "Q: TWO"]
    assert engine.submitted == ["Q: one", "Q: two"]


def test_invoke_stream_and_stop() -> None:
    llm = EngineLLM(engine=ScriptedEngine(lambda prompt: f"{prompt} b c"), params=GenerationParams())
    assert llm.invoke("a") == "a b c"
    assert list(llm.stream("a")) == ["a ", "b ", "c"]
    assert llm._params(["x"]).stop == ("x",)


async def _ask(llm: EngineLLM) -> str:
    return await llm.ainvoke("a")


def test_async() -> None:
    import asyncio

    assert asyncio.run(_ask(EngineLLM(engine=ScriptedEngine(), params=GenerationParams()))) == "A"
