"""Results of an experiment."""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fledge.core.notebook import as_html
from fledge.core.settings import Workspace
from fledge.core.texts import counted
from fledge.core.types import Format
from fledge.experiments.answers import AnswerList, answers
from fledge.experiments.run_ids import short_id
from fledge.scoring.judge import JudgeCounts

if TYPE_CHECKING:
    import pandas as pd

    from fledge.comparison.findings import ArmWarning


@dataclass(frozen=True)
class ArmResult:
    """The result of one arm. `prompt` is `name/version`, `format` is None for a custom chain, `metrics` are means over
    its answers."""

    name: str
    prompt: str
    model: str
    digest: str
    metrics: dict[str, float]
    format: Format | None = None


@dataclass(frozen=True)
class ExperimentResult:
    """The result of an experiment, recorded in the run `run_id`. `judge` has the judge's counts, if there was one;
    `metric` is the planned primary metric, or empty; `warnings` are about suspicious answers of an arm. `workspace`
    is where it is recorded, None for the default."""

    run_id: str
    cells: int
    failed: int
    arms: tuple[ArmResult, ...]
    judge: JudgeCounts | None = None
    metric: str = ""
    warnings: "tuple[ArmWarning, ...]" = ()
    workspace: Workspace | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        values = asdict(replace(self, workspace=None))
        del values["workspace"]
        return {**values, "judge": self.judge._asdict() if self.judge else None}

    def answers(self, **chosen: Any) -> AnswerList:
        """Return the answers as `fledge.answers` does, with its parameters."""
        return answers(self.run_id, workspace=self.workspace, **chosen)

    def to_pandas(self) -> "pd.DataFrame":
        """Return a row for each arm, with a column for each metric."""
        import pandas as pd

        rows = [
            {"arm": arm.name, "prompt": arm.prompt, "model": arm.model, "format": arm.format, **arm.metrics}
            for arm in self.arms
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<ExperimentResult {self._title()}>"

    def _repr_html_(self) -> str:
        return as_html(self._title(), self.to_pandas())

    def _title(self) -> str:
        arms = ", ".join(arm.name for arm in self.arms)
        return f"{short_id(self.run_id)}: {counted(self.cells, 'answer')}, {self.failed:,} failed; arms: {arms}"
