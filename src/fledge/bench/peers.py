"""What fledge's endpoint is measured against: how each peer is installed, prepared and started."""

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
    """Where a server is prepared: the model's folder, a folder of its own, a free port, `cpu` or `cuda`; how many
    tokens are asked of it, how long a client waits for them, in seconds, and whether prompts go through the model's
    chat template."""

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
    """The packages of a peer's environment beside torch, about how long pip takes, and what prepares its start.

    `command` gets the folder of the environment's programs.
    """

    packages: tuple[str, ...]
    minutes: float
    command: Callable[[Path, Place], ServerCommand]


def find_command(name: str, place: Place, state_dir: Path, say: Say) -> ServerCommand:
    """Install a peer where it is not yet, and return what starts it. Raises `FledgeError` that says why it cannot."""
    peer = PEERS[name]
    programs = environment(name, peer.packages, peer.minutes, state_dir, say)
    state.ensure(place.folder)
    return peer.command(programs, place)


def _mlflow(programs: Path, place: Place) -> ServerCommand:
    """`mlflow models serve` of the proof of concept's model, which is registered first."""
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{place.folder}/mlflow.db"}
    content = {
        "tracking_uri": store["MLFLOW_TRACKING_URI"],
        "name": "poc",
        "folder": str(place.model),
        "tokens": place.tokens,
        "device": place.device,
        "chat": place.chat,
    }
    own = {**_first_on_path(programs), **store}
    _prepare(_program(programs, "_mlflow_poc.py", content), place.folder, own)
    served = ["models", "serve", "-m", "models:/poc/1", "-p", str(place.port), "--env-manager", "local"]
    return ServerCommand([str(programs / "mlflow"), *served], own, place.folder, place.target("invocations"))


def _transformers(programs: Path, place: Place) -> ServerCommand:
    """`transformers serve`, which knows conversations only, and ends an answer where the model's files say so: a copy
    of them without an end, and with a template that is the text itself where the model has none."""
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
        _first_on_path(programs),
        place.folder,
        place.target("plain-chat", str(model)),
    )


def _litserve(programs: Path, place: Place) -> ServerCommand:
    names = ("tokens", "port", "device", "chat")
    content = {"folder": str(place.model), **{name: getattr(place, name) for name in names}}
    return ServerCommand(
        _program(programs, "_hf_litserve.py", content), _first_on_path(programs), place.folder, place.target("predict")
    )


def _program(programs: Path, name: str, content: Any) -> list[str]:
    """The command that runs a file of this folder, without the folder's other modules in its way."""
    return [str(programs / "python"), "-P", str(Path(__file__).with_name(name)), json.dumps(content)]


def _prepare(words: list[str], folder: Path, own: Mapping[str, str]) -> None:
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
        raise FledgeError(f"it could not be prepared within {PREPARE_S:g} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise FledgeError(f"it could not be prepared: {last[0]}")


def _first_on_path(programs: Path) -> dict[str, str]:
    """Where servers find the programs that they start by name."""
    return {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}


PEERS = {
    MLFLOW: Peer(("mlflow", "transformers", "langchain-core", "langchain-huggingface"), 3, _mlflow),
    # Its extra leaves out requests, which its command line imports.
    TRANSFORMERS: Peer(("transformers[serving]", "tokenizers", "requests"), 2, _transformers),
    LITSERVE: Peer(("litserve==0.2.19", "transformers", "tokenizers"), 2, _litserve),
}
