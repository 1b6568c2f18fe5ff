"""`read_questions`: read a question set from any source."""

from pathlib import Path
from typing import TYPE_CHECKING, Union

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.core.types import Say, silent
from fledge.questions.files import read_file
from fledge.questions.layout import PLAIN, QuestionLayout
from fledge.questions.question_set import QuestionSet, default_questions
from fledge.questions.rows import Reading, describe_notes
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    import pandas as pd

DATASET = "dataset:"
Source = Union[str, Path, "pd.DataFrame"]


def read_questions(
    source: Source, *, layout: QuestionLayout = PLAIN, workspace: Workspace | None = None, say: Say = silent
) -> QuestionSet:
    """Read a question set from a file (`.jsonl`, `.csv`, `.yaml`, `.parquet`), a folder of Hugging Face datasets, a
    pandas DataFrame, or `default` for fledge's own set; `layout` maps its columns.

    `dataset:NAME` is an evaluation dataset in MLflow, by id or name; for a registered set the newest version, or
    `NAME/2`. It is read from the tracking store of `workspace`, by default that of the settings. `say` receives notes
    on guesses that may be wrong. Raises `InputError` that names the file, line and fix.
    """
    reading = read(source, layout, workspace=workspace)
    questions = reading.question_set()
    if reading.uncertain_notes:
        say(describe_notes(reading.source, reading.uncertain_notes))
    return questions


def read(source: Source, layout: QuestionLayout = PLAIN, *, workspace: Workspace | None = None) -> Reading:
    """Read a question set with all its errors and notes."""
    if isinstance(source, str) and source.startswith(DATASET):
        from fledge.questions._mlflow_datasets import read_dataset

        return read_dataset(connect((workspace or Workspace()).tracking), source.removeprefix(DATASET), layout)
    if not isinstance(source, (str, Path)):
        from fledge.questions.frames import read_frame

        return read_frame(source, layout)
    if source == "default":
        if layout != PLAIN:
            unset = "--columns '' --reference-pattern '' --header-row 1"
            hint = f"omit{layout.flags}; to override a settings file: {unset}"
            raise InputError("the default questions cannot be mapped", hint=hint)
        questions = default_questions().questions
        return Reading("default", "question", questions, tuple(range(1, len(questions) + 1)), ())
    return read_file(Path(source), layout)
