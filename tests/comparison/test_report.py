"""The report page, also in a real browser."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

from fledge.comparison.arms import ArmDescription
from fledge.comparison.exploration import explore
from fledge.comparison.options import CompareOptions
from fledge.comparison.report import render_report
from fledge.comparison.verdict import compare_scores

EVIL = '<script>alert("x")</script><img src=http://127.0.0.1:9/x>'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _table(count: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "question": f"q{number}",
            "text": f"{EVIL} {number}?",
            "reference": "It is so.",
            "arm": arm,
            "answer": f"It is {'not ' if shift else ''}so. {EVIL}",
            "error": "",
            "token_f1": 0.5 + shift + rng.normal(0, 0.05),
            "chrf": 0.4 + shift + rng.normal(0, 0.05),
            "latency_s": rng.gamma(4, 0.1),
        }
        for number in range(count)
        for arm, shift in (("base", 0.0), ("$a_b$ & <b> \U0001f600", 0.1))
    ]
    return pd.DataFrame(rows)


def _page(table: pd.DataFrame, **options: object) -> str:
    result = compare_scores(table, "token_f1", CompareOptions(**options))  # type: ignore[arg-type]
    return render_report(result, table, run_id="abc")


def test_page_has_all_sections_and_escapes_text() -> None:
    page = _page(_table(), guards=("latency_s<=+50%",), margin=0.01)
    assert "&lt;script&gt;alert" in page
    assert EVIL not in page
    assert "$a_b$ &amp; &lt;b&gt; \U0001f600" in page
    for part in ("Verdicts", "Wins, ties, losses", "Other metrics", "Answers", "Method", "<svg", "latency_s"):
        assert part in page
    assert re.search("<ins> ?not ?</ins>", page)
    assert "Nothing was pre-registered" in page


def test_page_shows_prompts_and_differing_settings() -> None:
    arms = [
        ArmDescription("$a_b$ & <b> \U0001f600", "two/1", f"Shorter: {EVIL}", {"model": "m", "temperature": "0.7"}),
        ArmDescription("base", "one/3", "{{question}}", {"model": "m", "temperature": "0"}),
    ]
    table = _table()
    page = render_report(compare_scores(table, "token_f1"), table, descriptions=arms)
    assert EVIL not in page
    assert page.index("one/3") < page.index("two/1")
    assert "<th>temperature</th>" in page
    assert "Identical in all arms: model m." in page


@pytest.mark.parametrize(
    ("metric", "higher", "kinds"),
    [("passed", True, ["right", "wrong"]), ("passed", False, ["wrong", "right"]), ("token_f1", None, ["", "ahead"])],
)
def test_answers_are_coloured_by_standing(metric: str, higher: bool | None, kinds: list[str]) -> None:
    table = _table(12)
    table["passed"] = (table["arm"] == "base").astype(float)
    table["token_f1"] = np.where(table["arm"] == "base", 0.4, 0.6)
    result = compare_scores(table, metric, CompareOptions(), higher_is_better=higher is not False)
    page = render_report(result, table)
    found = re.findall(r'<td class="(\w*)"><div class="text">It is', page)
    assert found == kinds * 12


def test_page_loads_nothing_from_the_network() -> None:
    page = _page(_table()).replace(escape(EVIL), "")
    assert "default-src 'none'" in page
    assert not re.search(r"""<(?:link|img|iframe)|\bsrc=["']?http|@import|url\((?!#)""", page)


def test_page_is_reproducible() -> None:
    without_time = [re.sub(r"ritten [\d: -]+", "", _page(_table())) for _ in range(2)]
    assert without_time[0] == without_time[1]


def test_page_shows_the_questions_that_differ_most() -> None:
    page = _page(_table(250))
    assert "The 200 questions on which arms differ most" in page
    assert page.count("data-spread=") == 200


def test_page_without_answers_omits_their_section() -> None:
    page = _page(_table()[["question", "arm", "token_f1"]])
    assert "<h2>Answers</h2>" not in page
    assert "<h2>Other metrics</h2>" not in page


def test_metrics_without_differences_are_summarized_in_one_line() -> None:
    page = _page(_table().assign(empty=0.0, refusal=0.0))
    assert "No difference on any question: empty, refusal." in page
    assert "<td>empty</td>" not in page
    page = _page(_table()[["question", "arm", "token_f1"]].assign(empty=0.0))
    assert "No difference on any question: empty." in page
    assert "do not decide by these" not in page


def test_missing_and_failed_answers_are_shown() -> None:
    table = _table(5)
    table.loc[1, ["token_f1", "answer", "error"]] = [np.nan, None, "the server was away"]
    page = _page(table.drop(index=3))
    assert "the server was away" in page
    assert "without token_f1" in page


def test_other_metrics_are_corrected_together() -> None:
    table = _table().assign(noise=np.random.default_rng(1).normal(size=80))
    found = {finding.metric: finding for finding in explore(table, compare_scores(table, "token_f1"))}
    assert set(found) == {"chrf", "latency_s", "noise"}
    assert found["chrf"].q < 0.05 < found["noise"].q
    assert all(finding.q >= finding.p for finding in found.values())


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")
def test_page_script_in_a_browser(tmp_path: Path) -> None:
    """The script sorts, searches and filters, and the content security policy blocks nothing."""
    table = _table()
    table.loc[table["question"] == "q7", "answer"] = "a unicorn"
    table.loc[table["question"] == "q9", "token_f1"] = 0.5
    probe = """<script>
      const enter = (id, value) => { find(id).value = value; find(id).dispatchEvent(new Event("input")); };
      const found = [];
      document.querySelector("[data-by=number]").click();
      found.push("first " + document.querySelector("#answers tr").dataset.number);
      enter("search", "UNICORN"); found.push(find("count").textContent);
      enter("search", ""); enter("filter", "differ"); found.push(find("count").textContent);
      enter("filter", ""); found.push(find("count").textContent);
      document.title = found.join(", ");
    </script></body>"""
    (tmp_path / "page.html").write_text(_page(table).replace("</body>", probe), encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "<title>first 1, 1 of 40, 39 of 40, 40 of 40</title>" in done.stdout
    assert done.stdout.count("<tr data-number") == 40
    assert "<svg" in done.stdout
