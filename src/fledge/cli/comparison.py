"""`fledge compare` and `fledge plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from fledge.cli.options import command, settings
from fledge.cli.output import emit, json_option, message, steps_progress
from fledge.comparison.options import ALPHA, POWER, CompareOptions, TestName
from fledge.core.errors import InputError, RefusedError
from fledge.core.settings import Workspace, load
from fledge.scoring.judge import JudgeConfig

if TYPE_CHECKING:
    from fledge.comparison.findings import Comparison


@command()
@settings(Workspace)
@settings(JudgeConfig)
@click.argument("run", required=False)
@click.option("--scores", help="A CSV file with columns question, arm, and one for each metric.")
@click.option(
    "--metric", help="Metric to compare. [default: the pre-registered one, or token_f1 if there are references]"
)
@click.option("--baseline", help="Arm to compare the others with. [default: the first]")
@click.option(
    "--margin", type=float, help="Largest difference that counts as equivalent; without it, no pair is equivalent."
)
@click.option(
    "--guard", "guards", multiple=True, help='Limit that a winner must keep, such as "latency_s<=+10%"; repeatable.'
)
@click.option("--all-pairs", is_flag=True, help="Compare all pairs of arms.")
@click.option(
    "--test", type=click.Choice(get_args(TestName)), default="auto", show_default=True, help="Statistical test."
)
@click.option("--alpha", type=float, help=f"Family-wise error rate.  [default: {ALPHA:g}]")
@click.option("--independent", is_flag=True, help="Treat all questions as independent, including those of one topic.")
@click.option("--higher-is-better/--lower-is-better", default=None, help="Direction of a metric unknown to fledge.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write an HTML report.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of resampling.")
@click.option("--require", is_flag=True, help="Exit with code 3 unless there is a winner.")
@json_option
def compare(
    run: str | None,
    scores: str | None,
    independent: bool,
    report: Path | None,
    require: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show a verdict for each pair of arms of RUN: better, worse, equivalent or inconclusive.

    RUN is an id, a unique prefix of at least 4 characters, or last.
    """
    from fledge.experiments.comparison import compare as compare_run

    names = CompareOptions.__dataclass_fields__
    chosen = {name: flags.pop(name) for name in names if name in flags}
    options = CompareOptions(**chosen, by_topic=not independent)
    judging = load(JudgeConfig, flags).value
    with steps_progress("judging") as progress:
        result = compare_run(
            run,
            scores=scores,
            options=options,
            judging=judging,
            report=report,
            progress=progress,
            workspace=load(Workspace, flags).value,
        )
    emit(as_json, result.as_dict(), *_format_lines(result))
    for warning in result.warnings:
        message(f"warning: {warning.text}")
    for note in result.notes:
        message(f"note: {note}")
    if report is not None:
        message(f"wrote {report}")
    if require and not result.winner:
        raise RefusedError("no arm has won", hint="ask more questions: fledge experiment --like RUN")


@command()
@click.option("--effect", type=float, required=True, help="Smallest difference worth detecting.")
@click.option(
    "--sd",
    type=float,
    help="Standard deviation of the per-question difference between two arms, in the unit of --effect.  [default: 1, "
    "which makes --effect a number of standard deviations]",
)
@click.option(
    "--disagreement", type=float, help="For pass/fail metrics: share of questions that only one of two arms passes."
)
@click.option("--run", help="Estimate --sd from an experiment (or last).")
@click.option("--metric", help="Metric of --run. [default: the pre-registered one]")
@click.option("--equivalence", is_flag=True, help="Plan an equivalence test with margin --effect.")
@click.option("--power", type=float, default=POWER, show_default=True, help="Probability of detecting the effect.")
@click.option("--alpha", type=float, default=ALPHA, show_default=True, help="Family-wise error rate.")
@click.option("--arms", type=int, default=2, show_default=True, help="Number of arms, all compared with the first.")
@settings(Workspace)
@json_option
def plan(
    as_json: bool, sd: float | None, disagreement: float | None, run: str | None, metric: str | None, **flags: Any
) -> None:
    """Compute how many questions a comparison needs."""
    from fledge.comparison.power import plan as plan_questions

    numbers = {name: flags.pop(name) for name in ("effect", "equivalence", "power", "alpha", "arms")}
    if run is not None:
        if sd is not None or disagreement is not None:
            raise InputError("--run cannot be combined with --sd or --disagreement", hint="leave out one of them")
        from fledge.experiments.comparison import observed_spread

        spread = observed_spread(run, metric, workspace=load(Workspace, flags).value)
        sd = spread.sd
        if spread.disagreement is None:
            seen = f"standard deviation of the difference in {spread.metric}: {sd:.3g}"
        else:  # an effect of this size implies at least as many disagreements
            disagreement = max(spread.disagreement, abs(numbers["effect"]))
            seen = f"questions that only one of two arms passes by {spread.metric}: {spread.disagreement:.0%}"
        message(f"spread between the arms of {run}: {seen}")
    elif metric is not None:
        raise InputError("--metric needs --run", hint="--run last")
    elif sd is None and disagreement is None:
        message("--effect is in standard deviations of the per-question difference; --run last estimates them")
    found = plan_questions(**numbers, sd=1.0 if sd is None else sd, disagreement=disagreement)
    what = "that arms are the same within" if numbers["equivalence"] else "a difference of"
    text = (
        f"{found.questions:,} questions to each arm: {found.power:.0%} chance of finding {what} {found.effect:g} "
        f"(standard deviation {found.sd:.3g}, {found.test}, alpha {found.alpha:.3g} for each pair)"
    )
    emit(as_json, found._asdict(), text)


def _format_lines(result: "Comparison") -> list[str]:
    lines = [f"  {pair.summary()}" for pair in result.pairs]
    for pair in result.pairs:
        lines += [
            f"  {pair.a} {'keeps' if guard.passed else 'is not shown to keep'} {guard.guard} against {pair.b} "
            f"({guard.difference:+.3g}, p = {guard.p:.3g})"
            for guard in pair.guards
        ]
    if result.omnibus:
        lines.append(f"  all arms at once: p = {result.omnibus.p:.3g} ({result.omnibus.test})")
    if result.exploratory:
        lines.append(f"  exploratory, not as pre-registered: {'; '.join(result.departures)}")
    return [*lines, result.conclusion()]
