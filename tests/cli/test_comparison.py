"""`fledge compare` and `fledge plan` on the command line."""

import json
from pathlib import Path

import pytest

from tests.comparison.test_statistics import APPROVAL, DEPRESSION, SLEEP
from tests.conftest import Run


def _write(folder: Path, a: list[float], b: list[float]) -> None:
    rows = [
        f"{n},{arm},{value}"
        for n, pair in enumerate(zip(a, b, strict=True))
        for arm, value in zip("ab", pair, strict=True)
    ]
    (folder / "scores.csv").write_text("question,arm,score\n" + "\n".join(rows) + "\n")


def _pair(fledge: Run, folder: Path, *flags: str) -> dict[str, object]:
    command = ("compare", "--scores", "scores.csv", "--metric", "score", "--baseline", "b", "--json", *flags)
    done = fledge(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    (pair,) = json.loads(done.stdout)["pairs"]
    assert isinstance(pair, dict)
    return pair


def test_compare_reads_scores_from_a_file(fledge: Run, tmp_path: Path) -> None:
    _write(tmp_path, list(SLEEP.a), list(SLEEP.b))
    pair = _pair(fledge, tmp_path, "--test", "t")
    assert (pair["test"], pair["statistic"], pair["p"]) == (
        "t",
        pytest.approx(-4.0621, abs=5e-5),
        pytest.approx(0.002833, abs=5e-7),
    )
    assert pair["ci"] == pytest.approx([-2.4599, -0.7001], abs=5e-5)
    _write(tmp_path, list(DEPRESSION.a), list(DEPRESSION.b))
    assert _pair(fledge, tmp_path, "--test", "wilcoxon")["statistic"] == 40
    _write(tmp_path, list(APPROVAL.a), list(APPROVAL.b))
    assert _pair(fledge, tmp_path, "--test", "mcnemar-chi2")["statistic"] == pytest.approx(17.356, abs=5e-4)
    assert _pair(fledge, tmp_path)["test"] == "mcnemar"


def test_require_fails_without_a_winner(fledge: Run, tmp_path: Path) -> None:
    _write(tmp_path, [0.1, 0.5, 0.3, 0.7], [0.2, 0.4, 0.4, 0.6])
    command = ("compare", "--scores", "scores.csv", "--metric", "score")
    done = fledge(*command, "--report", "report.html", cwd=tmp_path)
    assert done.returncode == 0
    assert "winner: none" in done.stdout
    assert "<svg" in (tmp_path / "report.html").read_text()
    done = fledge(*command, "--require", "--json", cwd=tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["winner"] is None
    assert "no arm has won" in done.stderr


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--metric", "nothing"), "no metric 'nothing'"),
        (("--metric", "score", "--margin", "-1"), "margin must be above 0"),
        (("--metric", "score", "--guard", "score<=5"), "not a change against the baseline"),
        (("--metric", "score", "--baseline", "z"), "no arm 'z'"),
        (("--metric", "score", "--test", "mcnemar"), "all 0 or 1"),
        (("--metric", "latency_s", "--higher-is-better"), "latency_s is better when lower"),
        (("--metric", "note"), "column note, row 1: 'good' is not a number"),
        (("--metric", "score", "--report", "nowhere/report.html"), "No such file"),
    ],
)
def test_bad_input_prints_one_error(fledge: Run, tmp_path: Path, flags: tuple[str, ...], problem: str) -> None:
    (tmp_path / "scores.csv").write_text(
        "question,arm,score,latency_s,note\n"
        + "".join(f"{n},{arm},0.{n}5,1.{n},good\n" for n in range(5) for arm in "ab")
    )
    done = fledge("compare", "--scores", "scores.csv", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "try: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_plan_reports_the_number_of_questions(fledge: Run, tmp_path: Path) -> None:
    done = fledge("plan", "--effect", "0.5", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["questions"] == 34
    assert "34 questions to each arm: 80% chance" in fledge("plan", "--effect", "0.5", cwd=tmp_path).stdout
    assert "in standard deviations" in fledge("plan", "--effect", "0.5", cwd=tmp_path).stderr
    assert fledge("plan", cwd=tmp_path).returncode == 2
    assert fledge("plan", "--effect", "0.5", "--metric", "x", cwd=tmp_path).returncode == 2
    assert fledge("plan", "--effect", "0", cwd=tmp_path).returncode == 2
