"""Which engine runs a model here."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fledge.core.errors import InputError, MissingExtraError
from fledge.models.engine import Engine
from fledge.models.scripted import ScriptedEngine
from fledge.models.snapshot import Snapshot

ENGINES = ("auto", "openvino", "transformers", "scripted")


class Choice(NamedTuple):
    """An engine's name and, in words, why it was chosen."""

    name: str
    reason: str


def choose(engine: str) -> Choice:
    """Resolve `auto` by what is installed; raise if the engine named is unknown or not installed."""
    have = {
        "openvino": _installed("openvino_genai", "optimum.intel"),
        "transformers": _installed("transformers", "torch"),
    }
    if engine not in ENGINES:
        raise InputError(f"no engine {engine!r}", hint=f"one of: {', '.join(ENGINES)}")
    if engine == "auto":
        if have["openvino"]:
            return Choice("openvino", "the fastest on this CPU")
        if have["transformers"]:
            return Choice("transformers", "OpenVINO is not installed")
        raise MissingExtraError("an engine", "models,openvino")
    if not have.get(engine, True):
        raise MissingExtraError(f"the engine {engine}", "models,openvino" if engine == "openvino" else "models")
    return Choice(engine, "as set")


def start(engine: str, snapshot: Snapshot, cache: Path) -> Engine:
    """The engine for a snapshot, loaded and ready; `cache` keeps exported models."""
    name = choose(engine).name
    if name == "openvino":
        from fledge.models.openvino import OpenVINOEngine

        return OpenVINOEngine(snapshot, cache)
    if name == "transformers":
        from fledge.models.transformers import TransformersEngine

        return TransformersEngine(snapshot, cache)
    return ScriptedEngine()


def _installed(*modules: str) -> bool:
    try:
        return all(find_spec(name) for name in modules)
    except ModuleNotFoundError:
        return False
