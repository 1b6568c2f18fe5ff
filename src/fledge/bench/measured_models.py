"""The models of a benchmark: by default one with random weights, and SmolLM2 if it is cached."""

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
MODEL_HELP = "model to measure; default: random weights of DialoGPT-small's architecture (124 M), and smollm2"


class Around(NamedTuple):
    """The tokens that a model's chat template puts around a user's message; none without a template."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class MeasuredModel(NamedTuple):
    """A model with its short name in the rows. With a chat template, prompts are conversations."""

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
    """Return the named model, or the default ones; `notes` gets the reason why one is left out.

    Raises `InputError` or `FledgeError` if a model cannot be resolved.
    """
    if model:
        return [_measure_around(_short_name(model), selection.find_snapshot(model, workspace))]
    found = [_measure_around(RANDOM, selection.find_snapshot(str(random_model(workspace.cache_dir, say)), workspace))]
    if _smollm2_is_cached(workspace.cache_dir):
        found.append(_measure_around(smollm2.NAME, selection.find_snapshot(smollm2.NAME, workspace)))
    else:
        notes.append(f"{smollm2.NAME} is left out: it has not been fetched (python -m fledge.models.smollm2)")
        say(notes[-1])
    return found


def _smollm2_is_cached(cache: Path) -> bool:
    """Return whether SmolLM2 is cached: a benchmark does not download it unasked."""
    fetched = (cache / "wheels" / smollm2.WHEEL).exists() or find_converted(smollm2.GGUF_SHA256, cache / "models")
    return bool(fetched) or is_cached(smollm2.HUB_NAME, smollm2.HUB_COMMIT)


def _measure_around(name: str, snapshot: Snapshot) -> MeasuredModel:
    return MeasuredModel(name, snapshot, _find_around(snapshot))


def _find_around(snapshot: Snapshot) -> Around:
    command = module("_hf_peer", "around", {"model": str(snapshot.path)})
    (line,) = run(command, START_S).lines  # in a process: a template may loop
    return Around(tuple(line["before"]), tuple(line["after"]))


def _short_name(model: str) -> str:
    """Return the last part of a path or a Hub id, with the characters allowed in MLflow's metric names."""
    return re.sub(r"[^\w.-]", "-", Path(model.rstrip("/")).name or model)[:60]
