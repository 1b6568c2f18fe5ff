"""The endpoint process: `python -m fledge.serving.endpoint CONFIG CONTROL_FD`. Never imports torch or mlflow."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from fledge.core.control import Control
from fledge.models.manifest import load_manifest
from fledge.serving.app import Endpoint, build_app
from fledge.serving.engine_client import EngineClient
from fledge.serving.outbox import Outbox
from fledge.serving.security import LOOPBACK


async def serve(config: dict[str, Any], control_fd: int) -> None:
    """Serve until the supervisor says stop or is gone."""
    loop = asyncio.get_running_loop()
    manifest = load_manifest(Path(config["release"]))
    outbox = Outbox(Path(config["outbox"])) if config["record"] else None
    endpoint = Endpoint(manifest, EngineClient(config["address"]), outbox)
    app = build_app(endpoint, hosts=(*LOOPBACK, *config["hosts"]), key=os.environ.get("FLEDGE_API_KEY"))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=int(config["drain_s"]),
            timeout_keep_alive=30,
        )
    )

    def on_event(message: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(handle, message["event"])

    def handle(event: str) -> None:
        if event == "engine_ready":
            endpoint.engine.ready = True
        elif event == "engine_gone":
            endpoint.engine.gone()
        else:  # stop, or the supervisor is gone
            endpoint.draining = True
            server.should_exit = True

    control = Control(control_fd, on_event)
    listener = socket.socket(fileno=config["listener"])
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():
        await asyncio.sleep(0.02)
    control.send(event="ready")
    await task


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1]), int(sys.argv[2])))
