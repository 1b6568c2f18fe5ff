"""`evaluate`: an experiment of one arm, with an interval for every metric and gates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from fledge.comparison.gates import Gate, GateOn, GateResult, judge, read_gates
from fledge.core.errors import InputError
from fledge.core.generation import REQUEST_SETTINGS
from fledge.core.jsonable import jsonable
from fledge.core.settings import Workspace, load
from fledge.core.types import Say, silent
from fledge.engines.engine import Engine
from fledge.engines.selection import is_release, release_folder
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.experiments.progress import AnswerProgress
from fledge.experiments.questions import select_questions
from fledge.experiments.run import run_experiment
from fledge.releases.manifest import load_manifest
from fledge.scoring.catalogue import BUILT_IN, RECORDED, direction_of, range_of
from fledge.scoring.judge import JUDGE, JudgeCounts
from fledge.scoring.scorer import Response
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    from fledge.comparison.findings import ArmWarning

# What every answer has, without a scorer.
ALWAYS = (*RECORDED, "latency_p95_s")
# What a scorer may need that does not come from the question set.
_RESPONSE_FIELDS = {item.name for item in fields(Response)}


@dataclass(frozen=True)
class Evaluation:
    """What came of it. `metrics` are means over questions, `intervals` their 95 % intervals; `passed` if all gates
    did. `warnings` say what is doubtful of the answers. It is recorded in the run `run_id`."""

    run_id: str
    target: str
    prompt: str
    questions: int
    cells: int
    failed: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    gates: tuple[GateResult, ...]
    gate_on: GateOn
    passed: bool
    judge: JudgeCounts | None = None
    warnings: "tuple[ArmWarning, ...]" = ()

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "judge": self.judge._asdict() if self.judge else None}

    def summary(self) -> list[str]:
        """A line for each gate, those that failed first."""
        return [gate.summary() for gate in sorted(self.gates, key=lambda gate: gate.passed)]


def evaluate(
    target: str,
    gates: str | Sequence[str] = (),
    *,
    prompt: str | None = None,
    gate_on: GateOn = "bound",
    settings: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    progress: AnswerProgress | None = None,
    say: Say = silent,
    reuse: bool = True,
) -> Evaluation:
    """Ask `target` all questions and score the answers.

    `target` is `embedded`, a folder, a Hub id, a release or a URL. A release is asked with its own prompt, format and
    generation settings, a URL and a model with a chat template with the question as it is, any other model with the
    prompt `simple`, unless `prompt` names one.

    `gates` are as `token_f1>=0.6`, judged on the far end of the interval or the mean. `settings` are those
    of an experiment. With `reuse` answers of earlier experiments with the same prompt, model, settings and seed are not
    generated again, unless a gate is on latency. Raises `InputError` before anything is asked if gates, questions and
    target do not fit.
    """
    wanted = [gate for text in ([gates] if isinstance(gates, str) else gates) for gate in read_gates(text)]
    config = build_config(target, prompt, settings or {})
    _check_gates(wanted, config)
    timed = config.latency or any(gate.metric.startswith(("latency", "ttft")) for gate in wanted)
    result = run_experiment(config, engine=engine, progress=progress, say=say, reuse=reuse and not timed)

    from fledge.comparison.estimates import estimate  # with pandas and scipy, which take seconds to load
    from fledge.experiments._mlflow_experiments import load_table, log_evaluation
    from fledge.experiments.tables import scores_of

    client = connect(config.tracking)
    table = scores_of(load_table(client, result.run_id))
    estimates = estimate(table, range_of=range_of)
    judged = tuple(judge(gate, estimates, gate_on) for gate in wanted)
    evaluation = Evaluation(
        run_id=result.run_id,
        target=target,
        prompt=result.arms[0].prompt,
        questions=table["question"].nunique(),
        cells=result.cells,
        failed=result.failed,
        metrics={name: found.value for name, found in estimates.items()},
        intervals={name: found.ci for name, found in estimates.items()},
        gates=judged,
        gate_on=gate_on,
        passed=all(gate.passed for gate in judged),
        judge=result.judge,
        warnings=result.warnings,
    )
    log_evaluation(client, result.run_id, json.dumps(jsonable(evaluation.as_dict()), indent=2), evaluation.passed)
    return evaluation


def build_config(target: str, prompt: str | None, settings: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment that asks a target: one arm, with what a release brings along."""
    given = {name: value for name, value in settings.items() if value is not None}
    chosen = prompt or ""
    if is_release(target):
        manifest = load_manifest(release_folder(target, load(Workspace, given).value))
        chosen = prompt or manifest.prompt_label
        own = {name: value for name, value in manifest.generation.items() if name in REQUEST_SETTINGS}
        given = {**own, **given}
    config = ExperimentConfig.load(
        {**given, "model": target, "prompts": (chosen,), "more_models": (), "shots": (0,), "shots_from": ""}
    )
    if is_release(target) and prompt is None:  # what it was registered with, whatever the prompt would bring along
        generation = {name: getattr(config.generation, name) for name in own}
        form = config.format if config.format != "auto" else manifest.format or "auto"
        return replace(config, arms=(ArmConfig(chosen, generation=generation, format=form),))
    return config


def write_junit(evaluation: Evaluation, path: Path) -> None:
    """A JUnit file with a test case for each gate, as CI systems read it."""
    failures = sum(not gate.passed for gate in evaluation.gates)
    name = f"fledge evaluate {evaluation.target}"
    suite = ET.Element("testsuite", name=name, tests=str(len(evaluation.gates)), failures=str(failures))
    properties = ET.SubElement(suite, "properties")
    for metric, value in {"run_id": evaluation.run_id, **evaluation.metrics}.items():
        ET.SubElement(properties, "property", name=metric, value=str(value))
    for gate in evaluation.gates:
        case = ET.SubElement(suite, "testcase", classname=name, name=gate.gate)
        if not gate.passed:
            ET.SubElement(case, "failure", message=gate.summary(), type="gate")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    try:
        ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="name a file to write to") from None


def _check_gates(gates: Sequence[Gate], config: ExperimentConfig) -> None:
    """Raise `InputError` for a gate that no answer can pass, before any is paid for."""
    scorers = {item.name: item for item in config.chosen_scorers}
    graded = (JUDGE,) if config.judging.judge else ()
    questions = select_questions(config).questions if gates else ()
    for gate in gates:
        way = direction_of(gate.metric)
        if way is not None and way != gate.least:
            raise InputError(
                f"gate {gate.text!r}: {gate.metric} is better when {'higher' if way else 'lower'}",
                hint=f"{gate.metric}{'>=' if way else '<='}{gate.limit:g}",
            )
        if gate.metric in (*ALWAYS, *graded):
            continue
        if gate.metric not in scorers:
            hints = {JUDGE: "--judge URL#NAME", **{name: f"--scorers {name}" for name in BUILT_IN}}
            raise InputError(
                f"gate {gate.text!r}: {gate.metric} is not scored",
                hint=hints.get(gate.metric, f"one of: {', '.join((*scorers, *ALWAYS))}"),
            )
        wants = [name for name in scorers[gate.metric].needs if name == "reference" or name not in _RESPONSE_FIELDS]
        for name in wants:
            if not any((item.reference if name == "reference" else item.columns.get(name)) for item in questions):
                hint = f"add a column {name!r} to {config.questions}, or say which it is: --columns {name}=COLUMN"
                raise InputError(f"gate {gate.text!r}: no question has a {name}", hint=hint)
