"""Real endpoints for tests: releases written without MLflow, served by the supervisor on a free port."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from fledge.core import state
from fledge.core.messages import OutboxRecord
from fledge.engines.openvino_files import find_or_export
from fledge.models import snapshot
from fledge.prompts.template import Template
from fledge.releases import release_cache
from fledge.releases.manifest import Manifest, write_release
from fledge.serving.outbox_reader import read_outbox
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus, serve, status, stop
from tests.conftest import PATIENCE_S

NAME = "mine"
TEMPLATE = "{{question}}"
GENERATION = {"max_tokens": 64, "temperature": 0.0}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def create_workspace(
    folder: Path, engine_cache: Path, *templates: Template, versions: int = 1, **about: Any
) -> ServeConfig:
    """Create a workspace with cached releases `mine/1`, `mine/2` ... of the embedded model; return its configuration.

    Version 1 is the champion, 2 the challenger. `templates` are those of the versions in order, `about` are fields of
    all manifests. The tracking store does not exist.
    """
    releases = state.ensure(folder / ".fledge" / "releases")
    model = snapshot.resolve("embedded")
    files = {"exact": find_or_export(model, engine_cache, "exact", lambda _: None)}
    config = ServeConfig(
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        state=str(folder / ".fledge"),
        port=free_port(),
        record=False,
        watch_s=0.0,
    )
    for version in range(1, max(versions, len(templates)) + 1):
        template = dict(enumerate(templates, 1)).get(version, TEMPLATE)
        values = (NAME, "embedded", "", model.digest, "plain", version, template, GENERATION)
        manifest = Manifest(*values, version=version, **about)
        where = releases / f"{NAME}-{version}-test"
        write_release(where, manifest, model, files)
        alias = {1: "champion", 2: "challenger"}.get(version, f"v{version}")
        for reference in (release_cache.ReleaseRef(NAME, alias, ""), release_cache.ReleaseRef(NAME, "", str(version))):
            release_cache.remember(releases, config.tracking, reference, where)
    return config


@contextlib.contextmanager
def served(config: ServeConfig, *targets: str, **changes: Any) -> Iterator[EndpointStatus]:
    """Serve an endpoint until the block ends."""
    config = replace(config, **{"port": free_port(), **changes})
    running = serve(*(targets or (f"{NAME}@champion",)), config=config)
    try:
        yield running
    finally:
        if running.url in [item.url for item in status(workspace=config)]:
            stop(config.port, workspace=config)


def client(endpoint: EndpointStatus, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=endpoint.url, timeout=PATIENCE_S, trust_env=False, **options)


@contextlib.contextmanager
def ask_repeatedly(endpoint: EndpointStatus, ask: Callable[[httpx.Client], None], clients: int = 4) -> Iterator[None]:
    """Run clients that call `ask` repeatedly until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        with client(endpoint) as http:
            while not ended.is_set():
                ask(http)

    with ThreadPoolExecutor(clients) as pool:
        work = [pool.submit(repeat) for _ in range(clients)]
        try:
            yield
        finally:
            ended.set()
    for one in work:
        one.result()


def outbox(endpoint: EndpointStatus) -> list[OutboxRecord]:
    """Return the requests that the endpoint has recorded."""
    return read_outbox(Path(endpoint.folder) / "outbox")


def metrics(endpoint: EndpointStatus, name: str) -> float:
    """Return the sum of a metric over its labels."""
    with client(endpoint) as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


def until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """Wait until the condition is true; return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def pids(endpoint: EndpointStatus) -> dict[str, int]:
    """Return process ids by role."""
    content = json.loads((Path(endpoint.folder) / "state.json").read_text(encoding="utf-8"))
    return {item["role"]: item["pid"] for item in content["processes"]}


def measure_processes(endpoint: EndpointStatus) -> dict[str, tuple[int, int, int]]:
    """Return proportional memory in bytes, descriptors and threads by role."""
    found = {}
    for role, pid in pids(endpoint).items():
        process = psutil.Process(pid)
        found[role] = (process.memory_full_info().pss, process.num_fds(), process.num_threads())
    return found
