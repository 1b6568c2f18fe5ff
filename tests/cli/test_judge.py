"""`fledge judge calibrate`, with a scripted judge server."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.scoring.judge_server import JudgeServer, serve


def _by_length(text: str) -> dict[str, Any]:
    """Grade an answer by half its number of words, at most 5; prefer the longer of two answers."""
    answers = re.findall(r'"(?:answer|first|second)": "(.*?)"', text)
    lengths = [len(answer.split()) for answer in answers]
    if len(lengths) == 1:
        return {"result": max(1, min(5, lengths[0] // 2)), "rationale": "by its words"}
    better = "tie" if lengths[0] == lengths[1] else "first" if lengths[0] > lengths[1] else "second"
    return {"result": better, "rationale": "by its words"}


def _write(path: Path, columns: list[str], rows: list[list[object]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


def _words(count: int) -> str:
    return " ".join(["word"] * count)


def test_grades_are_compared_with_labels(fledge: Run, tmp_path: Path) -> None:
    rows: list[list[object]] = [[f"q{n}", _words(2 * (n % 5 + 1)), n % 5 + 1] for n in range(40)]
    rows[39][2] = 1  # the judge grades it 5
    labels = _write(tmp_path / "labels.csv", ["question", "answer", "label"], rows)
    with serve(JudgeServer(_by_length)) as server:
        done = fledge("judge", "calibrate", "--judge", server.url, "--labels", labels, "--json", cwd=tmp_path)
        shown = fledge("judge", "calibrate", "--judge", server.url, "--labels", labels, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["kind"], found["labels"], found["judged"], found["passed"]) == ("grades", 40, 40, None)
    assert found["agreed"] == pytest.approx(39 / 40)
    assert found["classes"] == [1, 2, 3, 4, 5]
    assert found["table"][0] == [8, 0, 0, 0, 1]
    (wrong,) = found["disagreements"]
    assert (wrong["line"], wrong["people"], wrong["judge"]) == (40, 1, 5)
    assert found["ci"][0] < found["kappa"] < found["ci"][1] <= 1
    assert f"kappa {found['kappa']:.2f} (95 % interval" in shown.stdout
    assert "row 40: people 1, judge 5: q39" in shown.stdout


def test_min_kappa_applies_to_the_lower_bound_of_the_interval(fledge: Run, tmp_path: Path) -> None:
    def calibrate(count: int) -> int:
        rows: list[list[object]] = [[f"q{n}", _words(10 if n % 2 else 2), n % 2] for n in range(count)]
        labels = _write(tmp_path / f"{count}.csv", ["question", "answer", "label"], rows)
        command = ("judge", "calibrate", "--judge", server.url, "--labels", labels, "--min-kappa", "0.6", "--json")
        done = fledge(*command, cwd=tmp_path)
        found = json.loads(done.stdout)
        assert (found["kind"], found["kappa"], found["passed"]) == ("pass or fail", 1, done.returncode == 0)
        return done.returncode

    with serve(JudgeServer(_by_length)) as server:
        assert calibrate(40) == 0
        assert calibrate(6) == 3


def test_invalid_judgements_of_preferences_are_excluded(fledge: Run, tmp_path: Path) -> None:
    rows: list[list[object]] = [[f"q{n}", _words(2 + n % 2), _words(3 - n % 2), "ba"[n % 2]] for n in range(30)]
    labels = _write(tmp_path / "pairs.csv", ["question", "a", "b", "label"], rows)
    flags = ("--labels", labels, "--judge-retries", "0", "--json")
    with serve(JudgeServer(_by_length, broken=0.3, seed=5)) as server:
        done = fledge("judge", "calibrate", "--judge", server.url, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    broken = sum(count for kind, count in server.broke.items() if kind)
    assert found["kind"] == "preferences"
    assert found["counts"]["asked"] == len(server.bodies)
    assert found["counts"]["failed"] == broken == 30 - found["judged"]
    assert 0 < found["judged"] < 30
    assert (found["kappa"], found["agreed"]) == (1, 1)


@pytest.mark.parametrize(
    ("columns", "row", "said"),
    [
        (["question", "label"], ["q", 1], "no column answer"),
        (["question", "answer", "label"], ["q", "a", "good"], "row 1: 'good' is not a label"),
        (["question", "answer", "label"], [" ", "a", 1], "row 1: no question"),
        (["question", "answer", "label"], ["q", "a", "6"], "row 1: '6' is not a label"),
        (["question", "answer", "label"], ["q", "no", "never", 1], "more columns than the first line"),
        (["question", "a", "b", "label"], ["q", "x", "y", "c"], "row 1: 'c' is not a label (a, b, tie)"),
    ],
)
def test_invalid_labels_are_refused(
    fledge: Run, tmp_path: Path, columns: list[str], row: list[object], said: str
) -> None:
    labels = _write(tmp_path / "labels.csv", columns, [row])
    done = fledge("judge", "calibrate", "--judge", "http://127.0.0.1:9/v1#x", "--labels", labels, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_missing_judge_or_file_is_reported(fledge: Run, tmp_path: Path) -> None:
    labels = _write(tmp_path / "labels.csv", ["question", "answer", "label"], [["q", "a", 1]])
    done = fledge("judge", "calibrate", "--labels", labels, cwd=tmp_path)
    assert (done.returncode, "no judge given" in done.stderr) == (2, True)
    done = fledge("judge", "calibrate", "--judge", "http://127.0.0.1:9/v1#x", "--labels", "no.csv", cwd=tmp_path)
    assert (done.returncode, "there is no such file" in done.stderr) == (2, True)
