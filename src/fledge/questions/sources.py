"""`read_questions`: a question set from wherever it is."""

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
    """The question set in a file (`.jsonl`, `.csv`, `.yaml`, `.parquet`), a folder of Hugging Face datasets, a pandas
    DataFrame, or `default` for fledge's own; `layout` says where in it the questions are.

    `dataset:NAME` is an evaluation dataset in MLflow, by its id or its name: of a set that was registered the newest
    version, or `NAME/2`. It is looked for in the workspace's tracking store, which the settings name unless given.
    `say` is told what had to be guessed and may be wrong. Raises `InputError` that names the file, line and fix.
    """
    reading = read(source, layout, workspace=workspace)
    questions = reading.question_set()
    if reading.surprising:
        say(describe_notes(reading.source, reading.surprising))
    return questions


def read(source: Source, layout: QuestionLayout = PLAIN, *, workspace: Workspace | None = None) -> Reading:
    """The same with all that is wrong with it."""
    if isinstance(source, str) and source.startswith(DATASET):
        from fledge.questions._mlflow_datasets import read_dataset

        return read_dataset(connect((workspace or Workspace()).tracking), source.removeprefix(DATASET), layout)
    if not isinstance(source, (str, Path)):
        from fledge.questions.frames import read_frame

        return read_frame(source, layout)
    if source == "default":
        if layout != PLAIN:
            unset = "--columns '' --reference-pattern '' --header-row 1"
            hint = f"leave out{layout.flags}; where a file of settings has it: {unset}"
            raise InputError("the default questions are laid out already", hint=hint)
        questions = default_questions().questions
        return Reading("default", "question", questions, tuple(range(1, len(questions) + 1)), ())
    return read_file(Path(source), layout)
