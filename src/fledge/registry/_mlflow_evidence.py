"""What speaks for a release: a comparison that its arm won, or an evaluation whose gates it passed; and which arm of a
run a release is made of."""

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


def standing(client: MlflowClient, run_id: str, arm: str) -> Standing:
    """Whether what a run found out speaks for one of its arms."""
    if load_evaluation(client, run_id) is None:
        try:
            load_comparison(client, run_id)
        except InputError:
            return Standing(arm, proven=False, reason="no verdict speaks for it")
    try:
        reason, proven = _verdict(client, run_id)
    except InputError as error:
        return Standing(arm, proven=False, reason=error.message)
    if proven.name != arm:
        return Standing(arm, proven=False, reason=f"the winner is {proven.name}")
    return Standing(arm, proven=True, reason=reason)


class Proof(NamedTuple):
    """The run that speaks for a release, and the reason that it gives; None and empty where force is enough."""

    run_id: str | None
    reason: str


def proof(client: MlflowClient, release: Manifest, evidence: str | None, *, force: bool = False) -> Proof:
    """What the run `evidence` says for a release. Raises `RefusedError` where it says nothing for it, unless forced."""
    if force:
        return Proof(find_run(client, evidence) if evidence else None, "")
    where = f"{release.name}/{release.version}"
    hint = 'give --evidence RUN of a comparison that it won or an evaluation that it passed, or --force --reason "..."'
    if not evidence:
        raise RefusedError(f"{where} is not promoted: no evidence was given", hint=hint)
    try:
        run_id = find_run(client, evidence)
        canary = load_canary(client, run_id)
        if canary is not None:
            return Proof(run_id, _of_canary(canary, release))
        reason, arm = _verdict(client, run_id)
    except InputError as error:
        raise RefusedError(f"{where} is not promoted: {error.message}", hint=hint) from None
    problem = _differs(release, arm)
    if problem:
        raise RefusedError(f"{where} is not promoted: in run {run_id} {problem}", hint=hint)
    return Proof(run_id, reason)


def chosen_arm(client: MlflowClient, run_id: str, arm: str | None) -> tuple[ArmSettings, dict[str, Any]]:
    """The arm of a run that is to be released, and what the run found out about it, as a manifest keeps it.

    Without a name it is what was evaluated, else the comparison's winner, or its leader where nothing won.
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


def _verdict(client: MlflowClient, run_id: str) -> tuple[str, ArmSettings]:
    """Why the run speaks for an arm, and that arm. Raises `InputError` where it speaks for none."""
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


def _of_canary(canary: Mapping[str, Any], release: Manifest) -> str:
    if not canary["passed"]:
        raise InputError(f"its canary was rolled back {canary['reason']}")
    if canary["digest"] != release.digest:
        raise InputError("that is the canary of another release")
    return f"passed its canary {canary['reason']}"


def _differs(release: Manifest, arm: ArmSettings) -> str:
    """In what the arm is not the release; empty where it is."""
    if arm.model_digest != release.model_digest:
        return f"it is another model that did so ({arm.model})"
    uses = release.prompt_label
    if arm.prompt != uses:
        return f"it is the prompt {arm.prompt or 'of a chain of your own'} that did so, and the release uses {uses}"
    put = arm.format or implied_format(release.template)
    if put != release.format:
        return f"the prompt was asked as {put}, and the release asks it as {release.format}"
    asked: dict[str, Any] = {**vars(arm.generation), "stop": list(arm.generation.stop)}
    other = [
        name for name, value in release.generation.items() if name not in REQUEST_ONLY and asked.get(name) != value
    ]
    if other:
        return f"{other[0]} was {asked.get(other[0])}, and the release has {release.generation[other[0]]}"
    return ""
