import threading

import pytest

from fledge.bench import reporter
from fledge.bench.reporter import Reporter
from tests.conftest import PATIENCE_S


def test_a_benchmark_tells_how_far_it_is_while_a_step_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int, str]] = []
    twice = threading.Event()

    def progress(done: int, total: int, what: str) -> None:
        told.append((done, total, what))
        if len([line for line in told if ": " in line[2]]) >= 2:
            twice.set()

    said: list[str] = []
    monkeypatch.setattr(reporter, "PULSE_S", 0.01)
    with Reporter(progress, said.append) as report:
        report.total = 2
        report.step("first")
        report.say("exporting")
        assert twice.wait(PATIENCE_S)
    assert told[0] == (1, 2, "first")
    assert told[-1][:2] == (1, 2)
    assert told[-1][2].startswith("exporting: ")
    assert said == ["exporting"]
