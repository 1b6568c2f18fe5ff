"""Put an endpoint's loads on fledge's engine alone: `python -m fledge.bench.in_process JSON`.

Writes the same output as `fledge.bench.load_client`.
"""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fledge.bench.loads import LoadAnswer, prompts, report_loads
from fledge.core.errors import FledgeError
from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines import selection
from fledge.engines.engine import Engine, PromptInput
from fledge.engines.settings import EngineSettings

MAX_CONCURRENCY = 512


async def _main(config: dict[str, Any]) -> None:
    settings = EngineSettings(**config["settings"])
    engine = selection.start(settings, selection.find(config["model"], settings))
    params = GenerationParams(max_tokens=config["tokens"], ignore_eos=True)
    texts = prompts(config["characters"], config["seed"])
    loop = asyncio.get_running_loop()

    with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:

        async def ask(prompt: str) -> LoadAnswer:
            turns = [Message("user", prompt)] if config["chat"] else prompt
            return await loop.run_in_executor(pool, _answer, engine, turns, params)

        await report_loads(config["loads"], ask, texts, config["seed"])
    engine.close()


def _answer(engine: Engine, prompt: PromptInput, params: GenerationParams) -> LoadAnswer:
    sent = time.perf_counter()
    try:
        # Wait for the whole answer: without an endpoint nothing needs to wake up for each token.
        whole = engine.submit(prompt, params).result()
    except FledgeError as error:
        return LoadAnswer(error=error.message)
    answer = LoadAnswer([sent + whole.ttft_s], whole.completion_tokens)
    if whole.completion_tokens != params.max_tokens:
        answer.error = f"{whole.completion_tokens} tokens"
    return answer


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
