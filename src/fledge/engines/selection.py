"""Which engine runs a model here, and why."""

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from fledge.core.errors import InputError, MissingExtraError
from fledge.core.settings import Workspace
from fledge.core.types import EngineInfo, Mode, Say, silent
from fledge.engines import memory
from fledge.engines.engine import Engine, LoadedEngine, StartingEngine
from fledge.engines.local_engine import LocalEngine
from fledge.engines.machine import gpu
from fledge.engines.openvino_files import ExportError, find_or_export, is_exported, known_files, read_gate
from fledge.engines.scripted import ScriptedEngine
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot
from fledge.models.snapshot import Snapshot
from fledge.releases.manifest import read_kept, snapshot_of
from fledge.tracking.connection import connect

EXTRAS = {"openvino": "models,openvino", "transformers": "models"}


@dataclass(frozen=True)
class RemoteModel:
    """A model behind a URL: its files are not ours to see."""

    source: str


class EngineChoice(NamedTuple):
    """An engine's name, its device, and in words why it was chosen."""

    name: str
    device: Literal["cpu", "gpu"]
    reason: str


def find(model: str, workspace: Workspace) -> Snapshot | RemoteModel:
    """What a name means: a URL is a remote model, anything else a snapshot; that of a release is its own copy."""
    if is_release(model):
        folder = release_folder(model, workspace)
        manifest = read_kept(folder)
        return replace(snapshot_of(folder, manifest), source=f"models:/{manifest.name}/{manifest.version}")
    if not is_remote(model):
        return snapshot.resolve(model, workspace.cache_dir)
    if "@" in urlsplit(model).netloc:
        raise InputError(
            "the model URL contains credentials, and fledge records the URL",
            hint="remove them and export OPENAI_API_KEY=...",
        )
    return RemoteModel(model)


def find_snapshot(model: str, workspace: Workspace) -> Snapshot:
    """As `find`, where the files themselves are wanted. Raises `InputError` for a URL."""
    found = find(model, workspace)
    if isinstance(found, RemoteModel):
        raise InputError(
            f"{model} is a URL; this command needs the model's files",
            hint="name the model itself: a folder, a Hub id or a release",
        )
    return found


def release_folder(model: str, workspace: Workspace) -> Path:
    """The folder of the release that `name@alias`, `name/3` or `models:/...` means, fetched and checked."""
    from fledge.releases._mlflow_releases import MODEL_TAG, fetch
    from fledge.releases._mlflow_releases import find as find_version

    client = connect(workspace.tracking)
    version = find_version(client, model)
    known = known_files(workspace.cache_dir / "engines", version.tags.get(MODEL_TAG, ""))
    return fetch(client, version, workspace.state_dir / "releases", known)


def is_release(model: str) -> bool:
    """Whether a name is that of a release: `models:/name/3`, `models:/name@alias` or `name@alias`."""
    return re.fullmatch(r"models:/.+|[^/:@\s]+@[^/@\s]+", model) is not None


def is_remote(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def choose(settings: EngineSettings, model: Snapshot | None = None) -> EngineChoice:
    """Resolve `auto` for a model of one's own by hardware and what is installed.

    OpenVINO runs a model that has been exported for it also where nothing is installed that could export one.
    Raises `MissingExtraError` if what was asked for is not installed, `InputError` if settings do not go together.
    """
    if settings.engine == "scripted":
        return EngineChoice("scripted", "cpu", "as set")
    if settings.engine == "remote":
        raise InputError("--engine remote needs a URL as --model", hint="--model http://127.0.0.1:8000/v1#NAME")
    if settings.engine == "auto":
        choice = _automatic(settings, model)
    elif not _runs(settings.engine, settings, model):
        raise MissingExtraError(f"the engine {settings.engine}", EXTRAS[settings.engine])
    else:
        on_gpu = settings.device == "gpu" or (settings.device == "auto" and settings.engine == "transformers" and gpu())
        choice = EngineChoice(settings.engine, "gpu" if on_gpu else "cpu", "as set")
    if settings.mode == "fast" and choice.name != "openvino":
        raise InputError("only the engine openvino has a fast mode", hint="--mode exact, or --engine openvino")
    if choice == ("transformers", "gpu", choice.reason) and not gpu():
        raise InputError("there is no NVIDIA GPU here, or torch is built without CUDA", hint="--device cpu")
    return choice


def _automatic(settings: EngineSettings, model: Snapshot | None) -> EngineChoice:
    if settings.device != "cpu" and settings.mode != "fast" and gpu() and installed("transformers"):
        return EngineChoice("transformers", "gpu", "continuous batching on the GPU")
    if settings.device == "gpu":
        return EngineChoice("transformers", "gpu", "as set")
    if _runs("openvino", settings, model):
        return EngineChoice("openvino", "cpu", "continuous batching on the CPU")
    if installed("transformers"):
        return EngineChoice("transformers", "cpu", "OpenVINO, which is faster on a CPU, is not installed")
    raise MissingExtraError("an engine", "models,openvino")


def installed(engine: str) -> bool:
    """Whether the libraries of an engine are there; none of them is imported."""
    modules = {"openvino": ("openvino_genai", "optimum.intel"), "transformers": ("transformers", "torch")}
    return _found(modules.get(engine, ()))


def _runs(engine: str, settings: EngineSettings, model: Snapshot | None) -> bool:
    if installed(engine):
        return True
    mode: Mode = "exact" if settings.mode == "exact" else "fast"
    exported = engine == "openvino" and model and is_exported(model, settings.cache_dir / "engines", mode)
    return bool(exported) and _found(("openvino_genai",))


def can_export(settings: EngineSettings, model: Snapshot, mode: Mode) -> bool:
    """Whether the files of OpenVINO's engine are there, or can be made here."""
    return installed("openvino") or is_exported(model, settings.cache_dir / "engines", mode)


def _found(modules: tuple[str, ...]) -> bool:
    try:
        return all(find_spec(name) for name in modules)
    except ModuleNotFoundError:
        return False


def start(settings: EngineSettings, model: Snapshot | RemoteModel, say: Say = silent) -> Engine:
    """The engine for a model, ready, in a process of its own; a remote one is asked from this process.

    `say` is told what takes long, with an estimate.
    """
    engine = launch(settings, model, say)
    engine.wait_ready()
    return engine


def launch(settings: EngineSettings, model: Snapshot | RemoteModel, say: Say = silent) -> StartingEngine:
    """As `start`, without waiting: the engine loads while the program does other things."""
    if isinstance(model, RemoteModel):
        return _remote(settings, model)
    choose(settings, model)  # what cannot be is refused before anything is started

    return LocalEngine(settings, model, say)


def load(settings: EngineSettings, model: Snapshot, say: Say = silent) -> LoadedEngine:
    """The engine for a model, loaded in this process, which must be that of the engine."""
    choice = choose(settings, model)
    if choice.name == "scripted":
        return ScriptedEngine()
    if choice.name == "openvino":
        try:
            return _openvino(settings, model, choice, say)
        except ExportError as error:
            if settings.engine != "auto" or settings.mode == "fast":
                raise
            choice = EngineChoice("transformers", "cpu", error.message)
            say(f"{error.message}; transformers runs it")
    return _transformers(settings, model, choice, say)


def _remote(settings: EngineSettings, model: RemoteModel) -> StartingEngine:
    from fledge.engines.remote import Prices, RemoteEngine

    if settings.engine not in ("auto", "remote"):
        raise InputError(f"the engine {settings.engine} cannot run a URL", hint="--engine remote, or name a model")
    return RemoteEngine(
        model.source,
        reason="the model is a URL",
        concurrency=settings.remote_concurrency,
        prices=Prices(settings.prompt_price, settings.completion_price),
    )


def _openvino(settings: EngineSettings, model: Snapshot, choice: EngineChoice, say: Say) -> LoadedEngine:
    cache = settings.cache_dir / "engines"
    mode: Mode = "exact" if settings.mode == "exact" else "fast"
    if choice.device == "cpu":
        say(memory.check(model, "openvino", mode, settings.cache_gb))
    folder = find_or_export(model, cache, mode, say)
    info = EngineInfo("openvino", choice.device, mode, choice.reason)
    if mode == "fast":
        gate = read_gate(folder)
        measured = (
            f"int8 multiplies perplexity by {gate.perplexity_ratio:.4f}, "
            f"and {gate.token_agreement:.0%} of greedy tokens agree"
        )
        if settings.mode == "auto" and gate.perplexity_ratio > settings.fast_limit:
            measured = f"exact: {measured}, and the limit is {settings.fast_limit:g}"
            folder, info = find_or_export(model, cache, "exact", say), replace(info, mode="exact")
        info = replace(info, reason=f"{choice.reason}; {measured}")
        say(measured)

    from fledge.engines.openvino import OpenVINOEngine, check_device

    check_device(choice.device)
    return OpenVINOEngine(model, folder, info, settings.cache_gb)


def _transformers(settings: EngineSettings, model: Snapshot, choice: EngineChoice, say: Say) -> LoadedEngine:
    info = EngineInfo("transformers", choice.device, "exact", choice.reason)
    if choice.device == "gpu":
        from fledge.engines.transformers_paged import PagedTransformersEngine

        return PagedTransformersEngine(model, info, settings.cache_gb)

    say(memory.check(model, "transformers", "exact", settings.cache_gb))

    from fledge.engines.transformers import TransformersEngine

    return TransformersEngine(model, info)
