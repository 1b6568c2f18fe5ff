"""`json_schema`: all answers of an experiment are JSON that is valid for a schema."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment

SCHEMA = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}


def _config(workspace: Workspace, schema: Path, **changes: object) -> ExperimentConfig:
    found = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, json_schema=str(schema))
    return replace(found, prompts=("simple", "expert"), limit=3, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_all_answers_are_valid_and_the_schema_is_recorded(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text("\ufeff" + json.dumps(SCHEMA), encoding="utf-8")
    result = run_experiment(_config(workspace, path, engine="openvino"))
    answers = result.answers().to_pandas()["answer"]
    assert len(answers) == 6
    assert {json.loads(answer)["answer"] for answer in answers} <= {"yes", "no"}
    assert all(item.kind != "language" for item in result.warnings)


def test_engine_without_grammars_fails_every_answer_by_name(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8")
    result = run_experiment(_config(workspace, path, engine="scripted"))
    assert result.failed == result.cells == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"not": {}}', "not cannot be enforced"),
        ("{", "is not JSON"),
        (None, "cannot be read: No such file"),
    ],
)
def test_schema_that_cannot_be_used_is_refused_before_asking(
    workspace: Workspace, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "answer.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        run_experiment(_config(workspace, path, engine="scripted"))
    assert not (Path(workspace.state) / "experiments").exists()


def test_schema_beside_chains_of_the_users_own_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8")
    config = replace(_config(workspace, path, engine="scripted"), prompts=())
    with pytest.raises(InputError, match="does not apply to chains"):
        run_experiment(config, arms={"mine": lambda question: question})
