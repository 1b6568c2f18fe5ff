"""The endpoint process: `python -m fledge.serving.server CONTROL_FD`. Never imports torch or mlflow."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from fledge.core.control import Control
from fledge.core.decoding import decode
from fledge.core.endpoint_config import EndpointConfig, EndpointOptions
from fledge.core.errors import FledgeError, InputError
from fledge.core.events import (
    ChildReady,
    EngineReady,
    Event,
    FactsChanged,
    LimitsChanged,
    LookRequested,
    ReleaseRetired,
    ReleasesChanged,
    ReloadRequested,
    StartFailed,
    StopRequested,
    SupervisorGone,
)
from fledge.core.keys import VARIABLE, Keys
from fledge.core.limits import Limits
from fledge.core.logs import start_logging
from fledge.core.settings import load
from fledge.releases.manifest import load_manifest, read_context
from fledge.serving.app import build_app
from fledge.serving.connection import connection_class
from fledge.serving.endpoint import Endpoint, Served
from fledge.serving.metrics import Metrics
from fledge.serving.outbox import Outbox
from fledge.serving.redaction import make_redactor
from fledge.serving.routing import Routes
from fledge.serving.security import build_access

log = logging.getLogger(__name__)


class Server:
    """Runs one endpoint, controlled by the supervisor."""

    def __init__(self, config: EndpointConfig, control: Control[EndpointConfig]) -> None:
        self._loop = asyncio.get_running_loop()
        options = config.options
        self.limits = decode(Limits, options.limits)
        self._fixed_limits = options.fixed_limits
        self.endpoint = Endpoint(self.limits, Routes(config.routes), {}, _open_outbox(options), Metrics())
        for release, folder in config.releases.items():
            self._add_release(release, folder)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._listener = socket.socket(fileno=config.listener)
        keys = Keys(os.environ.get(VARIABLE, ""), Path(options.keys_file) if options.keys_file else None)
        rights = build_access(
            options.hosts, options.cors_origins, open_metrics=options.open_metrics, open_docs=options.open_docs
        )
        self._connections = connection_class(self.limits)
        self._server = uvicorn.Server(
            uvicorn.Config(
                build_app(self.endpoint, rights, keys, lambda: control.send(LookRequested())),
                http=self._connections,
                ws="none",
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=30,
                ssl_certfile=options.tls_cert or None,
                ssl_keyfile=options.tls_key or None,
            )
        )
        self._control = control

    async def run(self) -> None:
        """Serve until the supervisor sends stop or is gone."""
        task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started and not task.done():
            await asyncio.sleep(0.005)
        if not task.done():  # else it could not listen, and raises the reason
            self._control.send(ChildReady())
        await task

    def handle(self, event: Event) -> None:
        match event:
            case EngineReady(release, address):
                self._start(self._connect(release, address))
            case ReleasesChanged():
                self._start(self._change_releases(event))
            case FactsChanged(facts):
                self.endpoint.facts = facts
            case ReloadRequested():
                self._reload()
            case StopRequested() | SupervisorGone():
                self._start(self._drain())

    def _reload(self) -> None:
        """Reload the limits from the settings, except those given on the command line."""
        try:
            limits = load(Limits).value.override(self._fixed_limits)
            if problems := limits.problems():
                raise InputError("; ".join(problems))
        except InputError as error:
            log.warning("limits not reloaded: %s", error.message)
            return
        changed = {name: value for name, value in asdict(limits).items() if value != getattr(self.limits, name)}
        self.limits = self.endpoint.limits = self._connections.limits = limits
        for served in self.endpoint.served.values():
            served.limit(limits)
        self._control.send(LimitsChanged(asdict(limits)))
        summary = ", ".join(f"{name}={value}" for name, value in changed.items()) or "no change"
        log.info("reloaded limits: %s", summary)

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _add_release(self, release: str, folder: str) -> None:
        manifest = load_manifest(Path(folder))
        self.endpoint.served[release] = Served(manifest, self.limits, read_context(Path(folder), manifest))

    async def _change_releases(self, change: ReleasesChanged) -> None:
        """Connect to the engines of new releases, replace the routes, and drain the releases without a route."""
        async with self._changing:
            for release, folder in change.releases.items():
                if release not in self.endpoint.served:
                    self._add_release(release, folder)
                if release in change.addresses:
                    with contextlib.suppress(OSError):  # it has just died; EngineReady follows after its restart
                        await self._connect(release, change.addresses[release])
            self.endpoint.routes = Routes(change.routes)
            for release in [name for name in self.endpoint.served if name not in change.releases]:
                self._start(self._retire(release, self.endpoint.served.pop(release)))

    async def _retire(self, release: str, served: Served) -> None:
        deadline = self._loop.time() + self.limits.drain_s
        while served.admission.requests and self._loop.time() < deadline:
            await asyncio.sleep(0.05)
        served.client.close("the release was replaced while it answered")
        self._control.send(ReleaseRetired(release))

    async def _connect(self, release: str, address: str) -> None:
        served = self.endpoint.served.get(release)
        if served is not None:
            await served.client.connect(address)

    async def _drain(self) -> None:
        """Refuse new requests, wait up to the drain time for those in flight, fail the rest, and exit."""
        endpoint = self.endpoint
        endpoint.draining = True
        deadline = self._loop.time() + self.limits.drain_s
        while endpoint.in_flight and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        for served in endpoint.served.values():
            served.client.close("the endpoint was stopped while it answered")
        await asyncio.sleep(0.1)  # to send the error frames
        self._server.should_exit = True


def _open_outbox(options: EndpointOptions) -> Outbox | None:
    config = options.outbox
    if config is None:
        return None
    redactor = make_redactor(config.redact)
    return Outbox(Path(config.folder), cap_bytes=config.cap_bytes, content=config.content, redact=redactor)


async def _main(control: Control[EndpointConfig]) -> None:
    loop = asyncio.get_running_loop()
    try:
        server = Server(control.config, control)
    except FledgeError as error:
        control.send(StartFailed(error.message, error.hint, type(error).__name__))
        sys.exit(error.exit_code)
    control.listen(lambda event: loop.call_soon_threadsafe(server.handle, event))
    await server.run()


if __name__ == "__main__":
    start_logging()
    uvloop.run(_main(Control(int(sys.argv[1]), EndpointConfig)))
