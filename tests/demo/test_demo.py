"""`fledge demo`: its output, and what it records in MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import Run

pytestmark = pytest.mark.slow

STAGES = [
    *("model", "store", "experiment", "compare", "register", "promote"),
    *("serve", "test", "traces", "report", "stop"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder for the demo."""
    folder = tmp_path / "home"
    (folder / ".fledge").mkdir(parents=True)
    return folder


def _find_processes(folder: Path) -> list[psutil.Process]:
    """Return fledge's processes that use `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "fledge" in line and str(folder) in line:
            found.append(process)
    return found


@pytest.mark.usefixtures("smollm2")
def test_the_demo_runs_all_stages_and_records_them(fledge: Run, home: Path, port: int, tmp_path: Path) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": "sqlite:////nowhere/mlflow.db"}
    done = fledge("demo", "--home", str(home), "--port", str(port), "--json", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "embedded" not in done.stderr
    result = json.loads(done.stdout)
    assert [stage["name"] for stage in result["stages"]] == STAGES
    assert all(stage["ok"] and stage["seconds"] >= 0 for stage in result["stages"])
    assert len(result["verdicts"]) == 2
    assert {pair["verdict"] for pair in result["verdicts"]} <= {"better", "worse", "equivalent", "inconclusive"}
    assert (result["model_version"], result["url"], result["traces"]) == (1, f"http://127.0.0.1:{port}", 2)
    assert "<svg" in Path(result["report"]).read_text()
    assert "http://" not in Path(result["report"]).read_text().replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    assert _find_processes(home) == []

    store = f"sqlite:///{home / 'mlflow.db'}"
    client = MlflowClient(store, store)
    parent = client.get_run(result["experiment_run_id"])
    nested = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(nested) == 3
    assert {run.info.status for run in (*nested, parent)} == {"FINISHED"}
    assert len(client.search_traces(locations=[parent.info.experiment_id], max_results=500)) == 72
    champion = client.get_model_version_by_alias("smollm2-135m-instruct", "champion")
    assert int(champion.version) == 1
    served = client.get_experiment_by_name("smollm2-135m-instruct-endpoint")
    assert served is not None
    traces = client.search_traces(locations=[served.experiment_id])
    assert sorted(trace.info.tags["fledge.status"] for trace in traces) == ["200", "200", "400"]  # one is invalid


def test_the_embedded_model_replaces_an_unreachable_chat_model(
    fledge: Run, home: Path, port: int, tmp_path: Path
) -> None:
    isolated = {"XDG_CACHE_HOME": str(tmp_path), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    environment = os.environ | isolated | {"PIP_FIND_LINKS": ""}
    done = fledge("demo", "--home", str(home), "--port", str(port), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "SmolLM2 cannot be fetched" in done.stderr
    assert "using the embedded model instead" in done.stderr
    assert "recites" in done.stdout
    assert "serve huggingface-dialogpt-model@champion" in done.stderr


def test_the_demo_takes_questions_without_references(fledge: Run, home: Path, port: int, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("question\nWhat is overfitting?\nWhy do ships float?\n")
    flags = ("--model", "embedded", "--questions", "mine.csv")
    done = fledge("demo", "--home", str(home), "--port", str(port), *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Q: Why do ships float?" in done.stdout
    assert "verdicts" in done.stdout
    assert "next:" in done.stderr
    assert "no references to judge by" in done.stdout


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize(
    ("stage", "model"),
    [("serve", "smollm2"), *((stage, "embedded") for stage in ("model", "experiment", "register", "traces"))],
)
def test_an_interrupt_in_any_stage_leaves_no_process(
    fledge: Run, home: Path, port: int, tmp_path: Path, stage: str, model: str
) -> None:
    before = STAGES[STAGES.index(stage) - 1]
    command = ("demo", "--model", model, "--home", str(home), "--port", str(port))
    process = subprocess.Popen(
        [sys.executable, "-m", "fledge", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    )
    assert process.stderr
    if stage == "model":
        time.sleep(1.0)
    else:
        for line in process.stderr:
            if line.startswith(f"ok {before}"):
                break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(120) == 130, rest
    process.stderr.close()
    assert "Traceback" not in rest
    assert rest.rstrip().endswith("interrupted")
    assert _find_processes(home) == []
    if (home / "mlflow.db").exists():
        client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
        experiments = [item.experiment_id for item in client.search_experiments()]
        assert all(run.info.status in ("FINISHED", "KILLED") for run in client.search_runs(experiments))
    again = fledge(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_a_port_in_use_is_refused_before_anything_is_written(fledge: Run, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        done = fledge("demo", "--home", "home", "--port", number, cwd=tmp_path)
    assert done.returncode == 2
    assert f"port {number}" in done.stderr
    assert "--port" in done.stderr
    assert not (tmp_path / "home" / "mlflow.db").exists()


def test_an_unwritable_home_is_refused(fledge: Run, tmp_path: Path) -> None:
    done = fledge("demo", "--home", "/proc/fledge", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot create /proc/fledge" in done.stderr
