"""The models that benchmarks measure: by default one of random weights, and a real one where it is here."""

import re
from pathlib import Path
from typing import NamedTuple

from fledge.bench.processes import START_S, module, random_model, run
from fledge.core.settings import Workspace
from fledge.core.types import Say
from fledge.engines import selection
from fledge.models import smollm2
from fledge.models.gguf import find_converted
from fledge.models.hub import is_cached
from fledge.models.snapshot import Snapshot

RANDOM = "random-124m"
MODEL_HELP = "model to measure; without it random weights of DialoGPT-small's architecture (124 M), and smollm2"


class Around(NamedTuple):
    """The tokens that a model's chat template puts around what a user says; none for a model without a template."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class MeasuredModel(NamedTuple):
    """A model under its short name, which rows have. One with a chat template is asked in conversations."""

    name: str
    snapshot: Snapshot
    around: Around

    @property
    def chat(self) -> bool:
        return self.around != Around()

    def describe(self) -> dict[str, object]:
        prompts = "chat" if self.chat else "text"
        source = "DialoGPT-small, random weights" if self.name == RANDOM else self.snapshot.source
        return {"name": self.name, "source": source, "parameters": self.snapshot.parameters, "prompts": prompts}


def find_models(model: str, workspace: Workspace, say: Say, notes: list[str]) -> list[MeasuredModel]:
    """The named model, or those of the default; `notes` gets why one of these is left out.

    Raises `InputError` or `FledgeError` for a model that cannot be had.
    """
    if model:
        return [_measured(_short(model), selection.find_snapshot(model, workspace))]
    found = [_measured(RANDOM, selection.find_snapshot(str(random_model(workspace.cache_dir, say)), workspace))]
    if _smollm2_is_cached(workspace.cache_dir):
        found.append(_measured(smollm2.NAME, selection.find_snapshot(smollm2.NAME, workspace)))
    else:
        notes.append(f"{smollm2.NAME} is left out: it has not been fetched (python -m fledge.models.smollm2)")
        say(notes[-1])
    return found


def _smollm2_is_cached(cache: Path) -> bool:
    """A benchmark fetches nothing that nobody has asked for."""
    fetched = (cache / "wheels" / smollm2.WHEEL).exists() or find_converted(smollm2.GGUF_SHA256, cache / "models")
    return bool(fetched) or is_cached(smollm2.HUB_NAME, smollm2.HUB_COMMIT)


def _measured(name: str, snapshot: Snapshot) -> MeasuredModel:
    return MeasuredModel(name, snapshot, _around(snapshot))


def _around(snapshot: Snapshot) -> Around:
    command = module("_hf_peer", "around", {"model": str(snapshot.path)})
    (line,) = run(command, START_S).lines  # a template may loop
    return Around(tuple(line["before"]), tuple(line["after"]))


def _short(model: str) -> str:
    """The last part of a path or a Hub id, of the letters that names of figures in MLflow may have."""
    return re.sub(r"[^\w.-]", "-", Path(model.rstrip("/")).name or model)[:60]
