"""`fledge judge`."""

from typing import TYPE_CHECKING, Any

import click

from fledge.cli.options import group, settings
from fledge.cli.output import emit, json_option, message, steps_progress, table
from fledge.core.errors import RefusedError
from fledge.core.settings import load
from fledge.scoring.judge import JudgeConfig, describe_counts

if TYPE_CHECKING:
    from fledge.scoring.calibration import Calibration

SHOWN = 5


@group()
def judge() -> None:
    """Calibrate a judge: a model that grades answers or prefers one of two."""


@judge.command()
@settings(JudgeConfig)
@click.option(
    "--labels",
    required=True,
    help="CSV file with question, answer, label (1 to 5, or 0 and 1) or question, a, b, label (a, b, tie); reference.",
)
@click.option("--min-kappa", type=float, help="Exit with code 3 unless the interval of kappa is above this.")
@json_option
def calibrate(labels: str, min_kappa: float | None, as_json: bool, **flags: Any) -> None:
    """Measure a judge's agreement with human labels."""
    from fledge.scoring.calibration import calibrate_judge

    with steps_progress("judging") as progress:
        found = calibrate_judge(load(JudgeConfig, flags).value, labels, min_kappa=min_kappa, progress=progress)
    classes = found.agreement.labels
    rows = [[f"people {name:g}", *counts] for name, counts in zip(classes, found.agreement.table, strict=True)]
    shown = table(f"{found.judged:,} answers", ["", *(f"judge {name:g}" for name in classes)], rows)
    emit(as_json, found.as_dict(), shown, *_format_lines(found))
    message(describe_counts(found.counts))
    if found.passed is False:
        raise RefusedError(
            f"the interval of kappa is not above {min_kappa:g}",
            hint="label more answers, or try other --judge-criteria",
        )


def _format_lines(found: "Calibration") -> list[str]:
    agreed = found.agreement
    lines = [f"the judge agrees with people on {agreed.agreed:.0%} of them"]
    if agreed.kappa is None or agreed.ci is None:
        lines.append("kappa: undefined, as one rater gave every answer the same label")
    else:
        lines.append(f"kappa {agreed.kappa:.2f} (95 % interval {agreed.ci[0]:.2f} to {agreed.ci[1]:.2f})")
    for item in found.disagreements[:SHOWN]:
        lines.append(f"  row {item.line}: people {item.people:g}, judge {item.judge:g}: {item.question[:100]}")
        if item.rationale:
            lines.append(f"    {item.rationale[:200]}")
    return lines
