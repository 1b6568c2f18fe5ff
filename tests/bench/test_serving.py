import json
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from fledge.bench.environments import environment, pin_requirement
from fledge.bench.load_client import LoadTarget
from fledge.bench.loads import Load
from fledge.bench.peers import PEERS
from fledge.bench.ratios import costs, over_engine, ratios
from fledge.bench.servers import ServerCommand, run_server
from fledge.bench.serving import ServeBenchConfig, bench_serve
from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.settings import Workspace
from tests.bench.documented import documented_names
from tests.conftest import Run

ROWS = [
    {"peer": peer, "loop": loop, "load": load, "requests_per_s": rate, "ttft_p50_s": ttft, "latency_p50_s": latency}
    for peer, loop, load, rate, ttft, latency in (
        ("mlflow", "closed", 1, 0.5, None, 2.0),
        ("mlflow", "closed", 16, 0.0, None, None),
        ("mlflow", "open", 1, 0.4, None, 3.0),
        ("transformers", "closed", 1, 1.0, 0.4, 1.0),
        ("engine", "closed", 1, 2.5, 0.1, 0.4),
        ("fledge", "closed", 1, 2.0, 0.2, 0.5),
        ("fledge", "closed", 16, 8.0, 0.4, 2.0),
        ("fledge", "open", 1, 1.0, 0.2, 0.5),
    )
]
SERVERS = [
    {"peer": "mlflow", "ready_seconds": 30.0, "memory_bytes": 1000},
    {"peer": "transformers", "ready_seconds": 10.0, "memory_bytes": 4000},
    {"peer": "fledge", "ready_seconds": 3.0, "memory_bytes": 500},
]


def test_ratios_and_costs_are_computed_from_rows() -> None:
    assert ratios(ROWS, ["fledge", "fledge-exact"], ["mlflow", "transformers", "litserve"]) == {
        "fledge": {"mlflow": {"1": 4.0, "16": None}, "transformers": {"1": 2.0}}
    }
    assert over_engine(ROWS, {"fledge": "engine", "fledge-exact": "engine-exact"}) == {"fledge": {"1": 0.8}}
    assert costs(ROWS, SERVERS, ["fledge"], ["mlflow", "transformers"]) == {
        "fledge": {
            # mlflow does not stream: its first token comes with its whole answer.
            "mlflow": {
                "latency_p50": {"1": 0.25, "16": None},
                "first_token": {"1": 0.1, "16": None},
                "ready": 0.1,
                "memory": 0.5,
            },
            "transformers": {"latency_p50": {"1": 0.5}, "first_token": {"1": 0.5}, "ready": 0.3, "memory": 0.125},
        }
    }


def test_loads_ascend_and_their_warm_up_is_limited() -> None:
    plan = ServeBenchConfig(loads=(64, 1), rates=(5.0, 2.0), seconds=3).plan
    assert plan == [Load("closed", 1, 3), Load("closed", 64, 3), Load("open", 2, 3), Load("open", 5, 3)]
    assert [load.warm_up for load in plan] == [1, 16, 4, 4]


def test_invalid_settings_are_refused_before_anything_starts(fledge: Run, tmp_path: Path) -> None:
    done = fledge("bench", "serve", "--loads", "0", "--rates", "-1", "--peers", "vllm", "--subjects", "", cwd=tmp_path)
    assert done.returncode == 2
    for problem in ("loads must be from 1 to 512", "peers are mlflow", "name at least one"):
        assert problem in done.stderr
    assert not list(tmp_path.iterdir())


def test_packages_are_pinned_to_the_installed_versions() -> None:
    assert pin_requirement("litserve==0.2.19") == "litserve==0.2.19"
    assert pin_requirement("mlflow").startswith("mlflow==3.")
    assert pin_requirement("transformers[serving]") == pin_requirement("transformers").replace("==", "[serving]==")
    assert "+" not in pin_requirement("torch")
    with pytest.raises(FledgeError, match="no-such-package is not installed"):
        pin_requirement("no-such-package")


def _install_fake(state_dir: Path, name: str, programs: dict[str, str]) -> None:
    """Create an environment that looks complete, with fake programs."""
    folder = state.ensure(state_dir / "bench" / "envs" / name)
    state.ensure(folder / "bin")
    for program, content in programs.items():
        (folder / "bin" / program).write_text(content)
        (folder / "bin" / program).chmod(0o700)
    requirements = [pin_requirement(package) for package in ("torch", *PEERS[name].packages)]
    state.write_json(folder / "complete.json", requirements)


def test_a_complete_environment_is_reused(tmp_path: Path) -> None:
    messages: list[str] = []
    _install_fake(tmp_path, "litserve", {"python": ""})
    found = environment("litserve", PEERS["litserve"].packages, 2, tmp_path, messages.append)
    assert found == tmp_path / "bench" / "envs" / "litserve" / "bin"
    assert messages == []


# A server with a child that ignores SIGTERM and outlives it.
SERVER = """
    import http.server, json, signal, subprocess, sys
    subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
    class Handler(http.server.BaseHTTPRequestHandler):
        asked = 0
        def do_POST(self):
            Handler.asked += 1
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps({"tokens": 4}).encode()
            self.send_response(503 if Handler.asked < 3 else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _command(program: str, folder: Path, port: int, tokens: int = 4) -> ServerCommand:
    words = [sys.executable, "-c", textwrap.dedent(program), str(port)]
    return ServerCommand(words, {}, folder, LoadTarget(f"http://127.0.0.1:{port}", "predict", "", tokens, 5.0))


def test_a_server_is_polled_until_it_answers_and_leaves_no_process(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.bench.servers.STOP_TIMEOUT_S", 1.0)
    with run_server(_command(SERVER, tmp_path, port), tmp_path / "log.txt") as server:
        assert server.ready_seconds > 0.1
        (first,) = [child for child in psutil.Process().children() if str(port) in child.cmdline()]
        family = [first, *first.children(recursive=True)]
        assert len(family) == 2
        alone = first.memory_full_info().pss
        assert server.memory.take() > alone
    # An orphan may still be a zombie.
    assert all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in family)


def test_a_server_that_does_not_start_is_an_error(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fledge.bench.servers.STOP_TIMEOUT_S", 1.0)
    for program, message in (
        ("raise SystemExit('no model here')", "exit code 1; no model here"),
        (SERVER, "4 tokens"),
    ):
        command = _command(program, tmp_path, port, tokens=5)
        with pytest.raises(FledgeError, match=message), run_server(command, tmp_path / "log.txt"):
            pass
    gone = _command("", tmp_path, port)._replace(words=[str(tmp_path / "nothing")])
    with pytest.raises(FledgeError, match="No such file"), run_server(gone, tmp_path / "log.txt"):
        pass


@pytest.mark.slow
def test_bench_serve_measures_and_records(fledge: Run, workspace: Workspace, chat_model: Path) -> None:
    _install_fake(workspace.state_dir, "litserve", {"python": "#!/bin/sh\necho it is broken >&2\nexit 3\n"})
    done = fledge(
        "bench", "serve", "--model", str(chat_model), "--peers", "litserve", "--subjects", "fledge", "--loads", "2",
        "--rates", "4", "--seconds", "2", "--tokens", "8", "--json", "--tracking-uri", workspace.tracking,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["notes"] == ["litserve is left out for small-chat: it did not start: exit code 3; it is broken"]
    rows = {(row["peer"], row["loop"]): row for row in result["rows"]}
    assert rows.keys() == {(peer, loop) for peer in ("engine", "fledge") for loop in ("closed", "open")}
    for (peer, loop), row in rows.items():
        assert row["load"] == (2 if loop == "closed" else 4)
        assert row["errors"] == 0
        assert row["requests_per_s"] > 0
        assert row["output_tokens_per_s"] == pytest.approx(8 * row["requests_per_s"])
        assert 0 < row["ttft_p50_s"] <= row["latency_p50_s"] <= row["latency_p99_s"]
        assert (row["inter_token_p50_s"] is None) == (peer == "engine")
        assert row["memory_bytes"] > 50_000_000
    servers = {server["peer"]: server for server in result["peers"]}
    assert servers["engine"]["ready_seconds"] is None
    assert servers["fledge"]["ready_seconds"] > 0.5
    assert servers["fledge"]["memory_bytes"] > servers["engine"]["memory_bytes"] / 4
    share = rows["fledge", "closed"]["requests_per_s"] / rows["engine", "closed"]["requests_per_s"]
    assert result["http_over_engine"]["small-chat"] == {"fledge": {"2": pytest.approx(share)}}
    assert result["ratios"] == {"small-chat": {"fledge": {}}}
    shown = {*result, *result["models"][0], *result["rows"][0], *result["peers"][0]}
    assert shown <= documented_names("bench serve")
    client = MlflowClient(workspace.tracking)
    assert {item.path for item in client.list_artifacts(result["run_id"])} == {"bench.json", "bench.png"}
    metrics = client.get_run(result["run_id"]).data.metrics
    assert metrics["small-chat.fledge.requests_per_s.closed.2"] == pytest.approx(
        rows["fledge", "closed"]["requests_per_s"]
    )


def _line_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


@pytest.mark.slow
def test_an_interrupted_bench_leaves_no_process(workspace: Workspace, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fledge", "bench", "serve", "--model", "embedded", "--peers", "", "--rates", ""]
    command += ["--subjects", "fledge", "--loads", "2", "--seconds", "60", "--tokens", "8", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as bench:
        family = psutil.Process(bench.pid)
        known: set[psutil.Process] = set()
        while not any("fledge.bench.in_process" in _line_of(child) for child in known):
            known |= set(family.children(recursive=True))
            assert bench.poll() is None
        bench.terminate()
        assert bench.wait(120) == 130
    _, left = psutil.wait_procs(list(known), timeout=120)
    assert left == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_peer_is_measured_in_its_own_environment(workspace: Workspace) -> None:
    config = ServeBenchConfig(
        tracking_uri=workspace.tracking_uri,
        state=workspace.state,
        subjects=("fledge",),
        loads=(2,),
        rates=(),
        seconds=5,
        tokens=16,
        check="guidellm",
    )
    result = bench_serve(config)
    assert result.notes == []
    rows = {row["peer"]: row for row in result.rows}
    assert rows.keys() == {"mlflow", "transformers", "litserve", "engine", "fledge"}
    assert all(row["errors"] == 0 and row["requests_per_s"] > 0 for row in rows.values())
    assert [name for name, row in rows.items() if row["inter_token_p50_s"]] == ["transformers", "fledge"]
    assert set(result.ratios["embedded"]["fledge"]) == {"mlflow", "transformers", "litserve"}
    assert result.check is not None
    assert result.check["ratio"] == pytest.approx(1, abs=0.25)
