import threading

import pytest

from fledge.bench import reporter
from fledge.bench.reporter import Reporter
from tests.conftest import PATIENCE_S


def test_progress_is_reported_during_a_long_step(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[int, int, str]] = []
    twice = threading.Event()

    def progress(done: int, total: int, what: str) -> None:
        reports.append((done, total, what))
        if len([line for line in reports if ": " in line[2]]) >= 2:
            twice.set()

    messages: list[str] = []
    monkeypatch.setattr(reporter, "PULSE_S", 0.01)
    with Reporter(progress, messages.append) as report:
        report.total = 2
        report.step("first")
        report.say("exporting")
        assert twice.wait(PATIENCE_S)
    assert reports[0] == (1, 2, "first")
    assert reports[-1][:2] == (1, 2)
    assert reports[-1][2].startswith("exporting: ")
    assert messages == ["exporting"]
