"""Evidence for a promotion (a comparison won, gates or a canary passed), and the arm of a run to release."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlflow import MlflowClient

from fledge.core.errors import InputError, RefusedError
from fledge.core.generation import REQUEST_ONLY
from fledge.experiments._mlflow_experiments import ArmSettings, load_arm, load_comparison, load_evaluation
from fledge.experiments._mlflow_runs import find_run
from fledge.registry._mlflow_canary_runs import load_canary
from fledge.registry.registered import Standing
from fledge.releases.manifest import Manifest, implied_format


def check_arm(client: MlflowClient, run_id: str, arm: str) -> Standing:
    """Return whether the result of a run is evidence for one of its arms."""
    if load_evaluation(client, run_id) is None:
        try:
            load_comparison(client, run_id)
        except InputError:
            return Standing(arm, proven=False, reason="the run was never compared or evaluated")
    try:
        reason, proven = _read_verdict(client, run_id)
    except InputError as error:
        return Standing(arm, proven=False, reason=error.message)
    if proven.name != arm:
        return Standing(arm, proven=False, reason=f"the winner is {proven.name}")
    return Standing(arm, proven=True, reason=reason)


class Proof(NamedTuple):
    """The run that is evidence for a release, and why; None and empty for a forced promotion without evidence."""

    run_id: str | None
    reason: str


def check_evidence(client: MlflowClient, release: Manifest, evidence: str | None, *, force: bool = False) -> Proof:
    """Return why the run `evidence` supports a release. Raises `RefusedError` if it does not, unless forced."""
    if force:
        return Proof(find_run(client, evidence) if evidence else None, "")
    where = f"{release.name}/{release.version}"
    hint = '--evidence RUN (a comparison it won or an evaluation it passed), or --force --reason "..."'
    if not evidence:
        raise RefusedError(f"{where} was not promoted: no evidence was given", hint=hint)
    try:
        run_id = find_run(client, evidence)
        canary = load_canary(client, run_id)
        if canary is not None:
            return Proof(run_id, _check_canary(canary, release))
        reason, arm = _read_verdict(client, run_id)
    except InputError as error:
        raise RefusedError(f"{where} was not promoted: {error.message}", hint=hint) from None
    problem = _find_difference(release, arm)
    if problem:
        raise RefusedError(f"{where} was not promoted: in run {run_id} {problem}", hint=hint)
    return Proof(run_id, reason)


def choose_arm(client: MlflowClient, run_id: str, arm: str | None) -> tuple[ArmSettings, dict[str, Any]]:
    """Return the arm of a run to release, and the run's results for its manifest.

    Without a name it is the evaluated arm, else the comparison's winner, else its leader.
    """
    found: dict[str, Any] = {"run_id": run_id}
    evaluation = load_evaluation(client, run_id)
    if evaluation is not None:
        found |= {"gates": evaluation["gates"], "passed": evaluation["passed"]}
    else:
        try:
            comparison = load_comparison(client, run_id)
        except InputError as error:
            if arm is None:
                raise InputError(error.message, hint=f"{error.hint}, or --arm NAME") from None
        else:
            found |= {name: comparison[name] for name in ("metric", "winner", "leader", "baseline")}
            arm = arm or comparison["winner"] or comparison["leader"]
    chosen = load_arm(client, run_id, arm)
    return chosen, {
        **found,
        "arm": chosen.name,
        "question_set_digest": chosen.questions_digest,
        "metrics": dict(chosen.metrics),
    }


def _read_verdict(client: MlflowClient, run_id: str) -> tuple[str, ArmSettings]:
    """Return the reason for, and the arm that, a run is evidence for. Raises `InputError` if it is for none."""
    evaluation = load_evaluation(client, run_id)
    if evaluation is not None:
        if not evaluation["gates"]:
            raise InputError("the evaluation had no gates")
        failed = [gate["gate"] for gate in evaluation["gates"] if not gate["passed"]]
        if failed:
            raise InputError(f"the evaluation failed its gates: {', '.join(failed)}")
        return f"passed {', '.join(gate['gate'] for gate in evaluation['gates'])}", load_arm(client, run_id)
    comparison = load_comparison(client, run_id)
    if comparison["winner"] is None:
        verdicts = [f"{pair['a']} against {pair['b']}: {pair['verdict']}" for pair in comparison.get("pairs", ())]
        raise InputError("; ".join(["the comparison has no winner", *verdicts]))
    if comparison["exploratory"]:
        raise InputError(f"the comparison is exploratory: {'; '.join(comparison['departures'])}")
    reason = f"better than {comparison['baseline']} on {comparison['metric']}"
    return reason, load_arm(client, run_id, comparison["winner"])


def _check_canary(canary: Mapping[str, Any], release: Manifest) -> str:
    if not canary["passed"]:
        raise InputError(f"its canary was rolled back {canary['reason']}")
    if canary["digest"] != release.digest:
        raise InputError("the run is the canary of another release")
    return f"passed its canary {canary['reason']}"


def _find_difference(release: Manifest, arm: ArmSettings) -> str:
    """Return the first difference between arm and release as text, empty if they are the same."""
    if arm.model_digest != release.model_digest:
        return f"the model was another one ({arm.model})"
    if arm.prompt != release.prompt_label:
        return f"the prompt was {arm.prompt or 'a custom chain'}, but the release uses {release.prompt_label}"
    form = arm.format or implied_format(release.template)
    if form != release.format:
        return f"the format was {form}, but the release uses {release.format}"
    used: dict[str, Any] = {**vars(arm.generation), "stop": list(arm.generation.stop)}
    other = [name for name, value in release.generation.items() if name not in REQUEST_ONLY and used.get(name) != value]
    if other:
        return f"{other[0]} was {used.get(other[0])}, but the release has {release.generation[other[0]]}"
    return ""
