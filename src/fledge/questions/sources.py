"""`read_questions`: a question set from wherever it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Union

from fledge.core.settings import Workspace, load
from fledge.questions.files import read_file
from fledge.questions.question_set import QuestionSet, default_questions
from fledge.questions.rows import Reading

if TYPE_CHECKING:
    import pandas as pd

DATASET = "dataset:"
Source = Union[str, Path, "pd.DataFrame"]


def read_questions(source: Source, workspace: Workspace | None = None) -> QuestionSet:
    """The question set in a file (`.jsonl`, `.csv`, `.yaml`), a pandas DataFrame, or `default` for fledge's own.

    `dataset:NAME` is an evaluation dataset in MLflow, by its id or its name: of a set that was registered the newest
    version, or `NAME/2`. It is looked for in the workspace's tracking store, which the settings name unless given.
    Raises `InputError` that names the file, the line and the fix.
    """
    return read(source, workspace).question_set()


def read(source: Source, workspace: Workspace | None = None) -> Reading:
    """The same with all that is wrong with it."""
    if isinstance(source, str) and source.startswith(DATASET):
        from fledge.questions._mlflow import read_dataset
        from fledge.tracking._mlflow import connect

        workspace = workspace or load(Workspace).value
        return read_dataset(connect(workspace.tracking), source.removeprefix(DATASET))
    if not isinstance(source, (str, Path)):
        from fledge.questions.frames import read_frame

        return read_frame(source)
    if source == "default":
        questions = default_questions().questions
        return Reading("default", "question", questions, tuple(range(1, len(questions) + 1)), ())
    return read_file(Path(source))
