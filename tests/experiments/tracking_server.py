"""A real tracking server for tests, and the traces in it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from mlflow import MlflowClient


class TrackingServer:
    """A real `mlflow server` that can be stopped and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "server.txt").open("ab")
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        clean = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        self._process = subprocess.Popen(
            self._command, env=clean | quiet, stdout=self._log, stderr=self._log, start_new_session=True
        )
        for _ in range(1800):
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server does not start")

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # including its workers
            self._process.wait()

    def close(self) -> None:
        self.stop()
        self._log.close()


def all_traces(client: MlflowClient, run_id: str) -> list[str]:
    """Return the ids of all traces of a run's experiment, and check that each has the spans of a cell."""
    found: list[str] = []
    token, experiment = None, client.get_run(run_id).info.experiment_id
    while token != "":
        page = client.search_traces(locations=[experiment], max_results=500, page_token=token)
        for trace in page:
            assert [span.name for span in trace.data.spans] == ["cell", "prompt", "tokenize", "generate", "score"]
        found += [trace.info.trace_id for trace in page]
        token = page.token or ""
    return found
