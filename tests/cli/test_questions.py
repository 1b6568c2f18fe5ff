import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fledge.cli.questions import questions
from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.questions.question_set import default_questions
from fledge.questions.sources import read_questions
from tests.conftest import Run

Shown = Callable[..., str]
DOCUMENTED = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")

GOOD = "id,question,reference,topic,split\n1,Why?,So.,t,train\n2,Who is it?,Me.,u,test\n"
TWICE = GOOD + "1,Why?,So.,t,train\n3,Who is it?,Me.,u,test\n"
BAD = GOOD + "1,What?,So.,t,train\n5,,,,\n"


@pytest.fixture
def show(workspace: Workspace) -> Shown:
    """Run a command in this process and return its output."""
    Path("good.csv").write_text(GOOD)
    Path("twice.csv").write_text(TWICE)
    Path("bad.csv").write_text(BAD)

    def run(command: str, *arguments: str) -> str:
        options = ["--tracking-uri", workspace.tracking]
        done = CliRunner().invoke(questions, [command, *options, *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout_bytes.decode()

    return run


@pytest.fixture
def ask(show: Shown) -> Callable[..., Any]:
    """Run a command in this process and return its JSON."""
    return lambda *arguments: json.loads(show(*arguments, "--json"))


def _fields(command: str) -> set[str]:
    """Return all names in the row of a command in docs/json.md."""
    row = next(line for line in DOCUMENTED.splitlines() if line.startswith(f"| `{command}` |"))
    return set(re.findall(r"`([a-z_]+)(?:\[\])?`", row.split("|", 2)[2]))


def test_show_prints_the_documented_json(ask: Callable[..., Any]) -> None:
    found = ask("show", "good.csv", "--limit", "1")
    first = {"id": "1", "question": "Why?", "reference": "So.", "topic": "t", "split": "train", "columns": {}}
    assert found == {
        "source": "good.csv",
        "digest": read_questions("good.csv").digest,
        "questions": 2,
        "references": 2,
        "columns": [],
        "splits": {"test": 1, "train": 1},
        "topics": [
            {"topic": "t", "questions": 1, "splits": {"train": 1}},
            {"topic": "u", "questions": 1, "splits": {"test": 1}},
        ],
        "question_words": {"median": 2.0, "max": 3},
        "question_characters": {"median": 7.0, "max": 10},
        "reference_words": {"median": 1.0, "max": 1},
        "reference_characters": {"median": 3.0, "max": 3},
        "first": [first],
        "notes": [],
    }
    assert _fields("questions show") >= {*found, *first, *found["topics"][0], "median", "max"}


def test_show_prints_tables(show: Shown) -> None:
    shown = show("show", "default", "--limit", "1")
    words = re.sub(r"[│┃\s]+", " ", shown)
    assert "in all 2688 672 2016" in words
    assert "references 2,688 (100%) 24, 28" in words
    assert "ml-basics-01-train-1 What is machine learning?" in words
    Path("plain.jsonl").write_text('{"question": "Why?"}\n')
    assert "no topic 1" in re.sub(r"[│┃\s]+", " ", show("show", "plain.jsonl"))


def test_validate_prints_the_documented_json(ask: Callable[..., Any]) -> None:
    assert ask("validate", "good.csv") == {
        "source": "good.csv",
        "questions": 2,
        "errors": [],
        "warnings": [],
        "notes": [],
        "fixed": None,
    }
    found = ask("validate", "twice.csv", "--fix", "clean.jsonl")
    (error,), (warning,) = found["errors"], found["warnings"]
    assert (error["kind"], error["line"], warning["kind"], warning["line"]) == ("duplicate", 4, "duplicate", 5)
    assert found["fixed"] == {"output": "clean.jsonl", "questions": 2, "left_out": 2}
    assert _fields("questions validate") >= {*found, *error, *found["fixed"]}
    assert read_questions("clean.jsonl").questions == read_questions("good.csv").questions


def test_missing_column_and_empty_field_have_the_same_digest(ask: Callable[..., Any]) -> None:
    rows = [
        {"question": "a?", "reference": "x", "kind": "k"},
        {"question": "b?", "reference": None},
        {"question": "c?", "kind": "", " level ": 1},
    ]
    Path("ragged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for copy in ("copy.csv", "copy.yaml", "copy.jsonl"):
        ask("validate", "ragged.jsonl", "--fix", copy)
        assert ask("show", copy)["digest"] == ask("show", "ragged.jsonl")["digest"]


def test_layout_options_apply_to_every_command(ask: Callable[..., Any], show: Shown, fledge: Run) -> None:
    Path("sums.csv").write_bytes(
        "Notice\n\nQuestion;Full Answer\nCombien co\xfbte-t-il?;So: #### 18\n".encode("latin-1")
    )
    pattern = ("--reference-pattern", "#### (.+)", "--header-row", "3")
    layout = ("--columns", 'question=Question,reference="Full Answer"', *pattern)
    found = ask("show", "sums.csv", *layout)
    assert [(item["question"], item["reference"]) for item in found["first"]] == [("Combien coûte-t-il?", "18")]
    assert [note["kind"] for note in found["notes"]] == ["encoding", "separator"]
    assert ask("validate", "sums.csv", *layout)["notes"] == found["notes"]
    assert ask("register", "sums.csv", "--name", "sums", *layout)["digest"] == found["digest"]
    assert json.loads(show("sample", "sums.csv", "--size", "1", *layout))["reference"] == "18"
    note = "sums.csv: not UTF-8, read as Windows-1252 (Latin-1), as 'coûte' on line 4"
    assert f"{note}; columns separated by semicolons\n" in fledge("questions", "show", "sums.csv", *layout).stderr
    assert f"{note}\n" in fledge("questions", "sample", "--size", "1", "sums.csv", *layout).stderr


def test_validate_lists_all_errors_and_exits_2(fledge: Run, show: Shown) -> None:
    done = fledge("questions", "validate", "bad.csv")
    assert done.returncode == 2
    assert "bad.csv, line 4: id '1' is also on line 2" in done.stdout
    assert "bad.csv, line 5: the question is empty" in done.stdout
    assert "error: bad.csv has 2 errors" in done.stderr
    found = fledge("questions", "validate", "bad.csv", "--json", "--fix", "clean.csv")
    assert found.returncode == 2
    assert [error["line"] for error in json.loads(found.stdout)["errors"]] == [4, 5]
    assert "so clean.csv was not written" in found.stderr
    assert not Path("clean.csv").exists()


def test_validate_shows_the_first_few_of_each_kind(show: Shown) -> None:
    rows = "".join(f'{{"id": "{n}", "question": "Why?", "level": "{n}"}}\n' for n in range(20))
    Path("many.jsonl").write_text(rows)
    shown = show("validate", "many.jsonl")
    assert shown.startswith("many.jsonl: 20 questions, no errors, 19 warnings\n")
    assert shown.count("the same question as on line 1") == 5
    assert "and 14 more of this kind (repeated)" in shown


def test_existing_files_are_not_overwritten(show: Shown) -> None:
    for command in (["validate", "twice.csv", "--fix", "good.csv"], ["sample", "default", "--size", "2"]):
        extra = ["--output", "good.csv"] if command[0] == "sample" else []
        with pytest.raises(InputError, match=r"good\.csv already exists"):
            show(*command, *extra)
        assert Path("good.csv").read_text() == GOOD
    show("validate", "twice.csv", "--fix", "twice.csv", "--overwrite")
    assert len(read_questions("twice.csv").questions) == 2


def test_sample_is_a_question_set_with_the_same_ids(show: Shown, ask: Callable[..., Any]) -> None:
    expected = default_questions().only("test").sample(24, 3)
    arguments = ["sample", "default", "--size", "24", "--seed", "3", "--split", "test"]
    Path("out.jsonl").write_text(show(*arguments), encoding="utf-8")
    for suffix in (".csv", ".yaml"):
        assert show(*arguments, "--output", f"out{suffix}") == ""
    for suffix in (".jsonl", ".csv", ".yaml"):
        assert read_questions(f"out{suffix}").questions == expected.questions
    found = ask(*arguments)
    assert [item["id"] for item in found["questions"]] == [item.id for item in expected.questions]
    assert (found["output"], found["digest"]) == (None, expected.digest)
    assert _fields("questions sample") >= {*found, *found["questions"][0]}
    one_topic = ask("sample", "default", "--size", "5", "--topic", "mlops", "--split", "test")
    assert {(item["topic"], item["split"]) for item in one_topic["questions"]} == {("mlops", "test")}


def test_sample_names_missing_splits_and_topics(show: Shown) -> None:
    assert len(show("sample", "good.csv", "--size", "5").splitlines()) == 2
    with pytest.raises(InputError, match=r"good\.csv has no split 'dev'") as caught:
        show("sample", "good.csv", "--size", "1", "--split", "dev")
    assert caught.value.hint == "splits there: test, train"
    with pytest.raises(InputError, match="no question of both 'train' and 'u'"):
        show("sample", "good.csv", "--size", "1", "--split", "train", "--topic", "u")


def test_registered_versions_are_listed(ask: Callable[..., Any], show: Shown) -> None:
    first = ask("register", "good.csv", "--name", "qa")
    assert (first["name"], first["version"], first["new"], first["source"]) == ("qa", 1, True, "dataset:qa/1")
    assert first["digest"] == read_questions("good.csv").digest
    assert ask("register", "good.csv", "--name", "qa")["new"] is False
    assert show("register", "default", "--name", "qa") == "qa/2\n"
    assert show("register", "default", "--name", "qa") == "qa/2 (unchanged)\n"
    listed = ask("list")
    assert [row["source"] for row in listed] == ["dataset:qa/2", "dataset:qa/1"]
    assert listed[1] == {name: value for name, value in first.items() if name != "new"}
    assert ask("list", "other") == []
    assert _fields("questions register") >= {*first}
    assert "dataset:qa/1" in show("list", "qa")
    assert ask("show", "dataset:qa/1")["source"] == "dataset:qa/1"
    assert show("sample", "dataset:qa/1", "--size", "2").count("\n") == 2


def test_name_is_checked_before_reading(show: Shown) -> None:
    with pytest.raises(InputError, match="cannot be the name"):
        show("register", "nowhere.csv", "--name", "a/b")
