"""Results of a comparison: verdict and figures of each pair of arms, and their text summaries."""

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from fledge.comparison.guards import GuardResult
from fledge.comparison.statistics import Omnibus
from fledge.core.notebook import as_html

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]
WarningKind = Literal["empty", "truncated", "same", "echo", "language"]


@dataclass(frozen=True)
class ArmSummary:
    """Mean of the metric over questions and its 95 % interval."""

    name: str
    mean: float
    ci: tuple[float, float]
    questions: int


@dataclass(frozen=True)
class Pair:
    """Arm `a` compared with arm `b`. `ci` is the 95 % interval of the difference, not adjusted for the number of pairs;
    the verdict follows `p_adjusted`.

    `equivalence_p` and `non_inferiority_p` are adjusted p-values of one-sided tests against the margin, None without a
    margin. `wins`, `ties` and `losses` count questions. `needed_questions` is how many more questions give 80 % power
    at the observed difference and spread. `reason` says why no verdict is possible, if that is so.
    """

    a: str
    b: str
    metric: str
    questions: int
    difference: float
    ci: tuple[float, float]
    p: float
    p_adjusted: float
    test: str
    statistic: float
    verdict: Verdict
    needed_questions: int | None
    reason: str | None
    equivalence_p: float | None
    non_inferiority_p: float | None
    wins: int
    ties: int
    losses: int
    guards: tuple[GuardResult, ...]

    @property
    def guarded(self) -> bool:
        """Whether all guards pass."""
        return all(guard.passed for guard in self.guards)

    def describe_difference(self) -> str:
        """Return the difference and its interval without the closing bracket; pass/fail in percentage points."""
        low, high = self.ci
        scale, unit = (100.0, "points of ") if self.test.startswith("mcnemar") else (1.0, "")
        if not math.isfinite(low):
            return f"{self.difference * scale:+.3g} {unit}{self.metric} (no interval"
        width = (high - low) * scale
        digits = max(0, 2 - math.floor(math.log10(width))) if width else 3
        numbers = [f"{number * scale:+.{digits}f}" for number in (self.difference, low, high)]
        return f"{numbers[0]} {unit}{self.metric} (95 % interval {numbers[1]} to {numbers[2]}"

    def summary(self) -> str:
        """Return the verdict in one sentence."""
        plural = "" if self.questions == 1 else "s"
        observed = f"{self.describe_difference()}, {self.questions:,} question{plural})"
        if self.verdict == "inconclusive":
            more = f"ask about {self.needed_questions:,} more" if self.needed_questions else ""
            advice = "; ".join(filter(None, (self.reason, more))) or "ask more questions"
            return f"{self.a} against {self.b}: inconclusive, {observed}; {advice}"
        return f"{self.a} is {self.verdict} {'to' if self.verdict == 'equivalent' else 'than'} {self.b}: {observed}"


@dataclass(frozen=True)
class ArmWarning:
    """A problem with an arm's answers: the `share` of successful answers that have it, and a text that says so."""

    arm: str
    kind: WarningKind
    share: float
    text: str


@dataclass(frozen=True)
class Comparison:
    """All pairs on one metric. `winner` is better than the baseline after correction and passes the guards, or is
    None; `leader` has the best mean, which alone proves nothing. `notes` help to interpret the result.

    `planned` is the pre-registration, None without one; `departures` list deviations from it, which make the comparison
    `exploratory`. `warnings` are about the arms' answers. `caveat` gives the winner's lead without the questions to
    which the baseline's answers are empty or truncated.
    """

    metric: str
    higher_is_better: bool | None
    baseline: str
    alpha: float
    margin: float | None
    correction: str
    arms: tuple[ArmSummary, ...]
    pairs: tuple[Pair, ...]
    omnibus: Omnibus | None
    winner: str | None
    leader: str
    planned: dict[str, Any] | None
    departures: tuple[str, ...]
    exploratory: bool
    notes: tuple[str, ...]
    warnings: tuple[ArmWarning, ...] = ()
    caveat: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "omnibus": self.omnibus._asdict() if self.omnibus else None}

    def to_pandas(self) -> "pd.DataFrame":
        """Return a row for each pair of arms: the fields of `Pair`, with `guarded` instead of its guards."""
        import pandas as pd

        rows = []
        for pair in self.pairs:
            row = {item.name: getattr(pair, item.name) for item in fields(pair) if item.name not in ("ci", "guards")}
            low, high = pair.ci
            rows.append({**row, "ci_low": low, "ci_high": high, "guarded": pair.guarded})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<Comparison by {self.metric}: {self.conclusion()}>"

    def _repr_html_(self) -> str:
        columns = ["a", "b", "verdict", "difference", "ci_low", "ci_high", "p_adjusted", "questions"]
        return as_html(f"{self.metric}; {self.conclusion()}", self.to_pandas().reindex(columns=columns))

    def conclusion(self) -> str:
        """Name the winner, or say why there is none."""
        if self.winner:
            return f"{self.caveat}. Winner: {self.winner}" if self.caveat else f"winner: {self.winner}"
        if self.higher_is_better is None:
            return f"winner: none. {self.metric} has no better direction."
        pairs = [pair for pair in self.pairs if pair.b == self.baseline]
        unguarded = [pair for pair in pairs if pair.verdict == "better" and not pair.guarded]
        if unguarded:
            guard = next(guard for guard in unguarded[0].guards if not guard.passed)
            return f"winner: none. {unguarded[0].a} is better, but does not pass the guard {guard.guard}"
        verdicts = {pair.verdict for pair in pairs}
        if verdicts == {"equivalent"}:
            return f"winner: none. No arm differs from {self.baseline} by {self.margin:g} or more."
        if verdicts == {"worse"}:
            return f"winner: none. All other arms are worse than {self.baseline}."
        if all(pair.ties == pair.questions for pair in self.pairs):
            return "winner: none. All arms have the same score on every question."
        return f"winner: none. {self.leader} has the best mean, which alone proves nothing."
