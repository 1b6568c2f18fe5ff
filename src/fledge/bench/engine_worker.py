"""Run one of fledge's engines in a benchmark: `python -m fledge.bench.engine_worker JSON`.

Writes a line of JSON for each round to stdout.
"""

import json
import sys
from typing import Any

from fledge.bench.rounds import RoundPlan
from fledge.core.generation import GenerationParams
from fledge.engines import selection
from fledge.engines.engine import Engine
from fledge.engines.settings import EngineSettings
from fledge.engines.stream import Stream


def main() -> None:
    config: dict[str, Any] = json.loads(sys.argv[1])
    plan = RoundPlan(**config["plan"])
    settings = EngineSettings(**config["settings"])
    engine = selection.start(settings, selection.find(config["model"], settings))
    params = GenerationParams(max_tokens=plan.tokens, ignore_eos=True)
    _token_times(engine.submit([1, 2, 3], GenerationParams(max_tokens=4, ignore_eos=True)))  # to warm up
    for load, prompts in plan.rounds():
        times = _run_round(engine, prompts, params)
        sys.stdout.write(json.dumps({"load": load, "times": times}) + "\n")
        sys.stdout.flush()
    engine.close()


def _run_round(engine: Engine, prompts: list[list[int]], params: GenerationParams) -> list[list[float]]:
    streams = [engine.submit(prompt, params) for prompt in prompts]
    return [_token_times(stream) for stream in streams]


def _token_times(stream: Stream) -> list[float]:
    return [moment for moment, chunk in stream.timed_chunks() for _ in chunk.token_ids]


if __name__ == "__main__":
    main()
