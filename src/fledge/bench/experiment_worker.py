"""Run an experiment of fledge in a benchmark: `python -m fledge.bench.experiment_worker VERB JSON`, where VERB is
`recorded` or `unrecorded`.

Both ask the same cells; the difference is the cost of recording. Writes one line of JSON to stdout.
"""

import json
import sys
import time
from typing import Any

from fledge.core.errors import FledgeError
from fledge.core.generation import GenerationParams
from fledge.core.types import Format
from fledge.engines import selection
from fledge.engines.engine import Engine, generate
from fledge.experiments.arms import Arm
from fledge.experiments.askers import PromptAsker
from fledge.experiments.cell_runner import ask
from fledge.experiments.cells import order_cells
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.questions import select_questions
from fledge.experiments.run import run_experiment
from fledge.prompts.prompt import Prompt
from fledge.prompts.store import open_prompts
from fledge.tracking.connection import connect


def main(verb: str, content: dict[str, Any]) -> None:
    generation = GenerationParams(max_tokens=content["tokens"], ignore_eos=True)
    config = ExperimentConfig(**content["config"], generation=generation)
    engine = selection.start(config, selection.find(config.model, config))
    generate(engine, ["warm up"], GenerationParams(max_tokens=4))
    work = _run_recorded if verb == "recorded" else _run_unrecorded
    found = work(config, engine, content)
    sys.stdout.write(json.dumps(found) + "\n")
    engine.close()


def _run_recorded(config: ExperimentConfig, engine: Engine, content: dict[str, Any]) -> dict[str, Any]:
    # One-time loading and registering is not part of the cost of recording.
    from fledge.experiments import _mlflow_capture, _mlflow_record  # noqa: F401
    from fledge.experiments._mlflow_experiments import load_table

    client, prompts = connect(config.tracking), open_prompts(workspace=config)
    for name in content["templates"]:
        prompts.load(name)
    started = time.perf_counter()
    result = run_experiment(config, engine=engine)
    seconds = time.perf_counter() - started
    if result.failed:
        raise FledgeError(f"{result.failed} answers failed")
    table = load_table(client, result.run_id)
    return {"seconds": seconds, "latencies": list(table["latency_s"]), "ttfts": list(table["ttft_s"])}


def _run_unrecorded(config: ExperimentConfig, engine: Engine, content: dict[str, Any]) -> dict[str, Any]:
    form: Format = "chat" if content["chat"] else "completion"
    arms = [
        Arm(name, Prompt(name, 1, text), config.model, config.generation, format=form)
        for name, text in content["templates"].items()
    ]
    questions = select_questions(config).questions
    started = time.perf_counter()
    cells = order_cells(arms, questions, config.samples, config.order_seed)
    askers = {(arm.name, 0): PromptAsker(arm.sent_prompt, engine, arm.generation) for arm in arms if arm.sent_prompt}
    answers = list(ask(cells, askers, lambda _: None, max_concurrency=config.max_concurrency))
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "latencies": [answer.latency_s for answer in answers],
        "ttfts": [answer.ttft_s for answer in answers],
    }


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
