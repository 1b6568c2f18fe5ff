import json
from pathlib import Path

from tests.conftest import Run


def test_doctor_reports_machine_and_engines(fledge: Run, tmp_path: Path) -> None:
    done = fledge("doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"machine", "engines", "auto", "memory", "problems"}
    assert found["memory"] == ""
    assert found["machine"]["threads"] >= 1
    assert found["machine"]["memory_bytes"] > 1e9
    assert {item["name"]: item["ready"] for item in found["engines"]}["scripted"] is True
    assert found["auto"].startswith(("openvino on cpu", "transformers on "))
    assert found["problems"] == []


def test_doctor_reports_problems(fledge: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fledge("doctor", "--json", "--state", "file/x", cwd=tmp_path)
    assert any("cannot create" in problem for problem in json.loads(done.stdout)["problems"])


def test_doctor_estimates_the_memory_of_a_model(fledge: Run, tmp_path: Path) -> None:
    found = json.loads(fledge("doctor", "--json", "--model", "embedded", cwd=tmp_path).stdout)
    assert found["memory"].startswith("the engine of embedded will take about")
    missing = json.loads(fledge("doctor", "--json", "--model", "nosuch", cwd=tmp_path).stdout)
    assert "no model 'nosuch'" in missing["problems"][0]


def test_doctor_prints_tables(fledge: Run, tmp_path: Path) -> None:
    done = fledge("doctor", cwd=tmp_path)
    assert "engines" in done.stdout
    assert "auto: " in done.stdout
