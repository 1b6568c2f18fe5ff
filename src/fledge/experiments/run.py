"""`run_experiment`: asks all questions with all prompts and records everything."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from fledge.core.errors import InputError
from fledge.core.interrupts import uninterrupted
from fledge.experiments.config import ExperimentConfig
from fledge.models import selection
from fledge.models.engine import Engine
from fledge.models.snapshot import Snapshot
from fledge.prompts.template import variables
from fledge.questions.question_set import QuestionSet, read_questions

Progress = Callable[[int, int, int, int], None]


@dataclass(frozen=True)
class Arm:
    """One arm's outcome; `metrics` are means over its answers, times in seconds."""

    name: str
    prompt: str
    model: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class ExperimentResult:
    """Where the experiment is recorded and what came of it."""

    run_id: str
    cells: int
    failed: int
    arms: tuple[Arm, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Abortable(Protocol):
    def abort(self, status: str) -> None: ...


def run_experiment(
    config: ExperimentConfig,
    *,
    progress: Progress | None = None,
    engine: Engine | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> ExperimentResult:
    """Ask every question with every prompt and record runs, traces, tables and a plot in MLflow.

    `progress(done, total, failed, tokens)` is called after each group of answers, `say` before what else takes long.
    An `engine` already started is used and left open. Raises `InputError` before anything is recorded if questions or
    prompts do not fit.
    """
    questions = select_questions(config)
    model = selection.find(config.model)
    if isinstance(model, Snapshot) and config.generation.max_tokens >= model.context:
        raise InputError(
            f"max-tokens is {config.generation.max_tokens}, but {config.model} takes {model.context} tokens in all",
            hint=f"--max-tokens {model.context // 4}",
        )

    from fledge.chains.engine_llm import build_chain
    from fledge.experiments._mlflow import ExperimentRecord
    from fledge.experiments.cells import ask, order_cells
    from fledge.prompts._mlflow import load_prompts
    from fledge.tracking._mlflow import connect

    client = connect(config.tracking)
    prompts = load_prompts(client, config.prompts)
    for prompt in prompts:
        _check_variables(prompt.label, prompt.template, questions)
    with contextlib.ExitStack() as stack:
        if engine is None:
            engine = selection.start(config, model, say)
            stack.callback(engine.close)
        record = ExperimentRecord(client, config, prompts)
        stack.enter_context(_ended(record))
        record.start(model, engine.info, questions)
        cells = order_cells([item.name for item in prompts], questions.questions, config.samples, config.order_seed)
        chains = {
            (item.name, sample): build_chain(item.template, engine, config.params(sample))
            for item in prompts
            for sample in range(config.samples)
        }
        templates = {item.name: item.template for item in prompts}
        done = failed = tokens = 0
        for answers in ask(cells, chains, templates, concurrency=config.concurrency):
            record.add(answers)
            done += len(answers)
            failed += sum(bool(answer.error) for answer in answers)
            tokens += sum(answer.completion.completion_tokens for answer in answers if answer.completion)
            if progress:
                progress(done, len(cells), failed, tokens)
        metrics = record.finish()
    arms = tuple(Arm(item.name, item.label, config.model, metrics[item.name]) for item in prompts)
    return ExperimentResult(record.run_id, len(cells), failed, arms)


def select_questions(config: ExperimentConfig) -> QuestionSet:
    """The questions that a configuration means: of fledge's own set the held-out ones, and at most `limit`."""
    questions = read_questions(config.questions)
    if config.questions == "default":
        questions = questions.only("test")
    return questions.sample(config.limit, config.order_seed) if config.limit else questions


def _check_variables(label: str, template: str, questions: QuestionSet) -> None:
    for name in variables(template):
        for item in questions.questions:
            if name not in item.variables:
                raise InputError(
                    f"prompt {label} needs {name!r}, which question {item.id!r} of {questions.source} does not have",
                    hint=f"add a column {name!r} to the question set, or leave the prompt out with --prompts",
                )


@contextlib.contextmanager
def _ended(record: _Abortable) -> Iterator[None]:
    """No run stays RUNNING: an interruption ends it as KILLED, an error as FAILED."""
    try:
        yield
    except BaseException as error:
        with uninterrupted():
            record.abort("KILLED" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "FAILED")
        raise
