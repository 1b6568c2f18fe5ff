"""`fledge runs` and `fledge answers`; runs by prefix and as `last`."""

import json
from pathlib import Path

import pytest

from fledge.core.settings import Workspace
from tests.conftest import Run

QUESTION = "Why does it take so very long until a sentence such as this one has an end? " * 3


def _experiment(fledge: Run, folder: Path, *flags: str) -> str:
    (folder / "qa.csv").write_text(f"question,reference\n{QUESTION},because\nWho?,me\n")
    command = ("experiment", "--engine", "scripted", "--questions", "qa.csv", *flags)
    done = fledge(*command, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["run_id"])


def test_runs_are_listed_with_their_answers(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    empty = fledge("runs", cwd=tmp_path)
    assert (empty.returncode, "no experiments yet" in empty.stderr) == (0, True)
    run_id = _experiment(fledge, tmp_path, "--prompts", "simple,expert")
    (run,) = json.loads(fledge("runs", "--json", cwd=tmp_path).stdout)["runs"]
    assert set(run) == {"run_id", "kind", "status", "arms", "cells", "failed", "started"}
    assert (run["run_id"], run["arms"], run["cells"]) == (run_id, ["simple", "expert"], 4)
    shown = fledge("runs", cwd=tmp_path).stdout
    assert run_id[:8] in shown
    assert run_id not in shown

    done = fledge("answers", run_id[:4], "--wrong", "--arm", "expert", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert set(found) == {"run_id", "total", "metric", "unscored", "answers"}
    assert (found["run_id"], found["total"], found["metric"]) == (run_id, 2, "token_f1")
    assert set(found["answers"][0]) == {
        *("id", "arm", "sample", "question", "reference", "answer", "finish_reason", "scores", "topic", "error"),
        "trace_id",
    }
    done = fledge("answers", "last", "--sort", "chrf", "--limit", "3", cwd=tmp_path)
    assert f"last is run {run_id}" in done.stderr
    assert "4 answers, the worst by chrf first, 3 shown (--limit)" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for text in ("question", "reference", "answer", "scores     chrf 0", "simple, sample 0"):
        assert text in done.stdout
    words = " ".join(done.stdout.split())
    assert "Why does it take so very long until a sentence such as this one has an end?" in words  # wrapped, not cut

    identical = fledge("plan", "--run", run_id[:6], "--metric", "chrf", "--effect", "0.1", cwd=tmp_path)
    assert (identical.returncode, "by the same chrf on every question" in identical.stderr) == (2, True)
    planned = fledge("plan", "--run", "last", "--metric", "latency_s", "--effect", "1", "--json", cwd=tmp_path)
    assert "spread between the arms" in planned.stderr
    assert json.loads(planned.stdout)["sd"] > 0
    assert fledge("plan", "--run", "last", "--sd", "1", "--effect", "1", cwd=tmp_path).returncode == 2

    compared = fledge("compare", "last", "--json", cwd=tmp_path)
    assert json.loads(compared.stdout)["metric"] == "token_f1"
    like = fledge("experiment", "--like", run_id[:6], "--limit", "1", "--json", cwd=tmp_path)
    assert json.loads(like.stdout)["cells"] == 2


def test_compare_last_is_an_experiment(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    run_id = _experiment(fledge, tmp_path, "--prompts", "simple,expert")
    evaluated = fledge("evaluate", "embedded", "--engine", "scripted", "--questions", "qa.csv", "--json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    done = fledge("compare", "last", "--report", "page.html", cwd=tmp_path)
    assert f"last is run {run_id}" in done.stderr
    assert "wrote page.html" in done.stderr
    assert (tmp_path / "page.html").is_file()
    assert f"last is run {run_id}" not in fledge("answers", "last", cwd=tmp_path).stderr


def test_answers_are_limited_on_a_terminal_but_not_in_json(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    rows = "".join(f"Question number {number}?,yes\n" for number in range(15))
    (tmp_path / "many.csv").write_text(f"question,reference\n{rows}")
    flags = ("--engine", "scripted", "--questions", "many.csv", "--prompts", "simple,expert")
    assert fledge("experiment", *flags, cwd=tmp_path).returncode == 0
    assert "30 answers, 20 shown (--limit)" in fledge("answers", "last", cwd=tmp_path).stderr
    assert len(json.loads(fledge("answers", "last", "--json", cwd=tmp_path).stdout)["answers"]) == 30


@pytest.mark.parametrize("command", [("compare",), ("answers",), ("register", "--run"), ("experiment", "--like")])
def test_missing_run_is_refused(fledge: Run, workspace: Workspace, tmp_path: Path, command: tuple[str, ...]) -> None:
    done = fledge(*command, "abcd", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: there is no run 'abcd'" in done.stderr
    assert "fledge runs" in done.stderr


def test_decisive_metric_comes_first(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def brief(answer):\n    return float(len(answer) < 9)\n")
    (tmp_path / "qa.csv").write_text("question,reference\nWhy?,because\nWho?,me\n")
    flags = ("--engine", "scripted", "--questions", "qa.csv", "--prompts", "simple,expert")
    own = ("--scorers", "token_f1,own.py:brief", "--metric", "brief")
    done = fledge("experiment", *flags, *own, cwd=tmp_path)
    columns = next(line for line in done.stdout.splitlines() if "prompt" in line).split("┃")
    assert [name.strip() for name in columns[1:-1]] == ["arm", "prompt", "brief", "token_f1", "latency_mean_s"]
    run_id = done.stdout.split()[1]
    assert f"next: fledge compare {run_id[:8]}\n" in done.stderr
    assert fledge("compare", run_id[:8], cwd=tmp_path).returncode == 0
