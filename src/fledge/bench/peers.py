"""Peers of fledge's endpoint: how each is installed, prepared and started."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fledge.bench.environments import environment
from fledge.bench.load_client import LoadTarget
from fledge.bench.servers import ServerCommand, clean_environment
from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.types import Say

PREPARE_S = 600.0

MLFLOW, TRANSFORMERS, LITSERVE = "mlflow", "transformers", "litserve"


class Place(NamedTuple):
    """Parameters of a server: the model's folder, its own folder, a free port, `cpu` or `cuda`, tokens per answer, the
    client's timeout in seconds, and whether prompts use the chat template."""

    model: Path
    folder: Path
    port: int
    device: str
    tokens: int
    timeout_s: float
    chat: bool

    def target(self, protocol: str, model: str = "") -> LoadTarget:
        return LoadTarget(f"http://127.0.0.1:{self.port}", protocol, model, self.tokens, self.timeout_s)


class Peer(NamedTuple):
    """The packages of a peer's environment, besides torch, the minutes that pip needs, and the function that prepares
    it.

    `command` gets the `bin` folder of the environment.
    """

    packages: tuple[str, ...]
    minutes: float
    command: Callable[[Path, Place], ServerCommand]


def find_command(name: str, place: Place, state_dir: Path, say: Say) -> ServerCommand:
    """Install a peer if needed and return its command. Raises `FledgeError` if that fails."""
    peer = PEERS[name]
    programs = environment(name, peer.packages, peer.minutes, state_dir, say)
    state.ensure(place.folder)
    return peer.command(programs, place)


def _prepare_mlflow(programs: Path, place: Place) -> ServerCommand:
    """Register the proof-of-concept model and return the command `mlflow models serve`."""
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{place.folder}/mlflow.db"}
    content = {
        "tracking_uri": store["MLFLOW_TRACKING_URI"],
        "name": "poc",
        "folder": str(place.model),
        "tokens": place.tokens,
        "device": place.device,
        "chat": place.chat,
    }
    own = {**_path_with(programs), **store}
    _run_preparation(_program_command(programs, "_mlflow_poc.py", content), place.folder, own)
    served = ["models", "serve", "-m", "models:/poc/1", "-p", str(place.port), "--env-manager", "local"]
    return ServerCommand([str(programs / "mlflow"), *served], own, place.folder, place.target("invocations"))


def _prepare_transformers(programs: Path, place: Place) -> ServerCommand:
    """Return the command `transformers serve`.

    It serves conversations only and takes the end tokens from the model's files. So it gets a copy without end tokens,
    and with a template that returns the text if prompts are text.
    """
    model = state.ensure(place.folder / "model")
    own = ["config.json", "generation_config.json", *([] if place.chat else ["chat_template.jinja"])]
    for path in place.model.iterdir():
        if path.name not in own:
            (model / path.name).symlink_to(path.resolve())
    for name in ("config.json", "generation_config.json"):
        if (place.model / name).is_file():
            content: dict[str, Any] = json.loads((place.model / name).read_text(encoding="utf-8"))
            (model / name).write_text(json.dumps({**content, "eos_token_id": None}), encoding="utf-8")
    if not place.chat:
        (model / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}", encoding="utf-8")
    served = ["serve", "--continuous-batching", "--device", place.device]
    served += ["--host", "127.0.0.1", "--port", str(place.port)]
    return ServerCommand(
        [str(programs / "transformers"), *served, str(model)],
        _path_with(programs),
        place.folder,
        place.target("plain-chat", str(model)),
    )


def _prepare_litserve(programs: Path, place: Place) -> ServerCommand:
    names = ("tokens", "port", "device", "chat")
    content = {"folder": str(place.model), **{name: getattr(place, name) for name in names}}
    return ServerCommand(
        _program_command(programs, "_hf_litserve.py", content),
        _path_with(programs),
        place.folder,
        place.target("predict"),
    )


def _program_command(programs: Path, name: str, content: Any) -> list[str]:
    """Return the command that runs a file of this folder, without the folder's modules on the path."""
    return [str(programs / "python"), "-P", str(Path(__file__).with_name(name)), json.dumps(content)]


def _run_preparation(words: list[str], folder: Path, own: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=clean_environment(own),
            capture_output=True,
            text=True,
            check=False,
            timeout=PREPARE_S,
        )
    except subprocess.TimeoutExpired:
        raise FledgeError(f"its preparation took longer than {PREPARE_S:g} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise FledgeError(f"its preparation failed: {last[0]}")


def _path_with(programs: Path) -> dict[str, str]:
    """Return an environment with `programs` first on the path, for programs that servers start by name."""
    return {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}


PEERS = {
    MLFLOW: Peer(("mlflow", "transformers", "langchain-core", "langchain-huggingface"), 3, _prepare_mlflow),
    # The extra lacks requests, which its command line imports.
    TRANSFORMERS: Peer(("transformers[serving]", "tokenizers", "requests"), 2, _prepare_transformers),
    LITSERVE: Peer(("litserve==0.2.19", "transformers", "tokenizers"), 2, _prepare_litserve),
}
