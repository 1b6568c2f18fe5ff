"""A version of a question set registered in MLflow."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class QuestionSetVersion:
    """One version of a question set; `time` is when it was registered, in seconds since the epoch.

    `new` is False if the newest version already had these questions.
    """

    name: str
    version: int
    dataset_id: str
    digest: str
    questions: int
    time: float
    new: bool = False

    @property
    def source(self) -> str:
        """Source of this version for `read_questions`."""
        return f"dataset:{self.name}/{self.version}"

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "source": self.source}
