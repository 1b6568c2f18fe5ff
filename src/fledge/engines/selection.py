"""Choose the engine for a model, with a reason, and start it."""

import logging
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
from fledge.engines.machine import has_gpu
from fledge.engines.openvino_files import ExportError, find_or_export, is_exported, known_files, read_gate
from fledge.engines.scripted import ScriptedEngine
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot
from fledge.models.gguf_original import ORIGINAL, find_original
from fledge.models.snapshot import Snapshot
from fledge.releases.manifest import find_release_export, read_kept, snapshot_of
from fledge.tracking.connection import connect

log = logging.getLogger(__name__)

EXTRAS = {"openvino": "models,openvino", "llamacpp": "gguf", "transformers": "models"}


@dataclass(frozen=True)
class RemoteModel:
    """A model behind a URL, without files."""

    source: str


class EngineChoice(NamedTuple):
    """An engine's name, its device, and the reason for the choice."""

    name: str
    device: Literal["cpu", "gpu"]
    reason: str


def find(model: str, workspace: Workspace) -> Snapshot | RemoteModel:
    """Resolve a name: a URL to a remote model, a release to its own copy of the snapshot, others to a snapshot."""
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
    """Resolve a name to a snapshot. Raises `InputError` for a URL."""
    found = find(model, workspace)
    if isinstance(found, RemoteModel):
        raise InputError(
            f"{model} is a URL; this command needs the model's files",
            hint="name the model: a folder, a Hub id or a release",
        )
    return found


def release_folder(model: str, workspace: Workspace) -> Path:
    """Fetch and check the release `name@alias`, `name/3` or `models:/...`; returns its folder."""
    from fledge.releases._mlflow_releases import MODEL_TAG, fetch
    from fledge.releases._mlflow_releases import find as find_version

    client = connect(workspace.tracking)
    version = find_version(client, model)
    known = known_files(workspace.cache_dir / "engines", version.tags.get(MODEL_TAG, ""))
    return fetch(client, version, workspace.state_dir / "releases", known)


def is_release(model: str) -> bool:
    """Return whether a name is a release: `models:/name/3`, `models:/name@alias` or `name@alias`."""
    return re.fullmatch(r"models:/.+|[^/:@\s]+@[^/@\s]+", model) is not None


def is_remote(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def choose(settings: EngineSettings, model: Snapshot | None = None) -> EngineChoice:
    """Choose the engine for a local model; `auto` depends on the hardware and the installed libraries.

    An exported model runs on OpenVINO even without the libraries for exporting. Raises `MissingExtraError` if the
    engine is not installed, `InputError` for incompatible settings.
    """
    if settings.engine == "scripted":
        return EngineChoice("scripted", "cpu", "as set")
    if settings.engine == "remote":
        raise InputError("--engine remote needs a URL as --model", hint="--model http://127.0.0.1:8000/v1#NAME")
    if settings.engine == "auto":
        choice = _choose_automatically(settings, model)
    elif not _can_run(settings.engine, settings, model):
        raise MissingExtraError(f"the engine {settings.engine}", EXTRAS[settings.engine])
    else:
        on_gpu = settings.device == "gpu" or (
            settings.device == "auto" and settings.engine == "transformers" and has_gpu()
        )
        choice = EngineChoice(settings.engine, "gpu" if on_gpu else "cpu", "as set")
    if choice.name == "llamacpp" and choice.device == "gpu":
        raise InputError("the engine llamacpp runs on the CPU", hint="--device cpu, or --engine transformers")
    if choice.name == "llamacpp" and model is not None:
        check_gguf(model)
    if settings.mode == "fast" and choice.name != "openvino":
        raise InputError("only the engine openvino has a fast mode", hint="--mode exact, or --engine openvino")
    if choice == ("transformers", "gpu", choice.reason) and not has_gpu():
        raise InputError("there is no NVIDIA GPU here, or torch is built without CUDA", hint="--device cpu")
    log.debug("engine %s on %s: %s", choice.name, choice.device, choice.reason)
    return choice


def check_gguf(model: Snapshot) -> Path:
    """Return the GGUF file of a model. Raises `InputError` for a model without one."""
    found = find_gguf(model)
    if found is None:
        raise InputError(
            f"the engine llamacpp needs a GGUF file, and {model.source} is not one",
            hint="--model FILE.gguf, --model org/name/FILE.gguf, or --engine openvino",
        )
    return found


def find_gguf(model: Snapshot) -> Path | None:
    """Return the GGUF file of a model: the release's own, else the one that it was converted from; None without one."""
    release = find_release_export(model.path, "gguf")
    return release / ORIGINAL if release else find_original(model.path)


def _has_only_gguf(model: Snapshot) -> bool:
    """Return whether the model is a release whose only engine file is a GGUF file."""
    modes: tuple[Mode, ...] = ("gguf", "exact", "fast")
    return [bool(find_release_export(model.path, mode)) for mode in modes] == [True, False, False]


def _choose_automatically(settings: EngineSettings, model: Snapshot | None) -> EngineChoice:
    if settings.device != "cpu" and settings.mode != "fast" and has_gpu() and is_installed("transformers"):
        return EngineChoice("transformers", "gpu", "continuous batching on the GPU")
    if settings.device == "gpu":
        return EngineChoice("transformers", "gpu", "as set")
    if model is not None and _has_only_gguf(model) and is_installed("llamacpp"):
        return EngineChoice("llamacpp", "cpu", "the release has its GGUF file")
    if _can_run("openvino", settings, model):
        return EngineChoice("openvino", "cpu", "continuous batching on the CPU")
    if model is not None and find_gguf(model) and is_installed("llamacpp"):
        return EngineChoice("llamacpp", "cpu", "the model is a GGUF file, and OpenVINO is not installed")
    if is_installed("transformers"):
        return EngineChoice("transformers", "cpu", "OpenVINO, which is faster on a CPU, is not installed")
    raise MissingExtraError("an engine", "models,openvino")


def is_installed(engine: str) -> bool:
    """Return whether an engine's libraries are installed, without importing them."""
    modules = {
        "openvino": ("openvino_genai", "optimum.intel"),
        "llamacpp": ("xllamacpp",),
        "transformers": ("transformers", "torch"),
    }
    return _are_importable(modules.get(engine, ()))


def _can_run(engine: str, settings: EngineSettings, model: Snapshot | None) -> bool:
    if is_installed(engine):
        return True
    mode: Mode = "exact" if settings.mode == "exact" else "fast"
    exported = engine == "openvino" and model and is_exported(model, settings.cache_dir / "engines", mode)
    return bool(exported) and _are_importable(("openvino_genai",))


def can_export(settings: EngineSettings, model: Snapshot, mode: Mode) -> bool:
    """Return whether a release can include the model's engine files for a mode."""
    if mode == "gguf":
        return find_gguf(model) is not None
    return is_installed("openvino") or is_exported(model, settings.cache_dir / "engines", mode)


def _are_importable(modules: tuple[str, ...]) -> bool:
    try:
        return all(find_spec(name) for name in modules)
    except ModuleNotFoundError:
        return False


def start(settings: EngineSettings, model: Snapshot | RemoteModel, say: Say = silent) -> Engine:
    """Start the engine for a model and wait until it is ready; local engines run in their own process.

    `say` receives progress messages with estimates.
    """
    engine = launch(settings, model, say)
    engine.wait_ready()
    return engine


def launch(settings: EngineSettings, model: Snapshot | RemoteModel, say: Say = silent) -> StartingEngine:
    """Start the engine for a model without waiting until it is ready."""
    if isinstance(model, RemoteModel):
        return _create_remote(settings, model)
    choose(settings, model)  # raises before a process starts

    return LocalEngine(settings, model, say)


def load(settings: EngineSettings, model: Snapshot, say: Say = silent) -> LoadedEngine:
    """Load the engine for a model in this process, the engine process."""
    choice = choose(settings, model)
    if choice.name == "scripted":
        return ScriptedEngine()
    if choice.name == "llamacpp":
        return _load_llamacpp(settings, model, choice, say)
    if choice.name == "openvino":
        try:
            return _load_openvino(settings, model, choice, say)
        except ExportError as error:
            if settings.engine != "auto" or settings.mode == "fast":
                raise
            choice = EngineChoice("transformers", "cpu", error.message)
            say(f"{error.message}; using transformers instead")
    return _load_transformers(settings, model, choice, say)


def _create_remote(settings: EngineSettings, model: RemoteModel) -> StartingEngine:
    from fledge.engines.remote import Prices, RemoteEngine

    if settings.engine not in ("auto", "remote"):
        raise InputError(f"the engine {settings.engine} cannot run a URL", hint="--engine remote, or name a model")
    return RemoteEngine(
        model.source,
        reason="the model is a URL",
        concurrency=settings.remote_concurrency,
        prices=Prices(settings.prompt_price, settings.completion_price),
    )


def _load_openvino(settings: EngineSettings, model: Snapshot, choice: EngineChoice, say: Say) -> LoadedEngine:
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
            measured = f"exact: {measured}, but the limit is {settings.fast_limit:g}"
            folder, info = find_or_export(model, cache, "exact", say), replace(info, mode="exact")
        info = replace(info, reason=f"{choice.reason}; {measured}")
        say(measured)

    from fledge.engines.openvino import OpenVINOEngine, check_device

    check_device(choice.device)
    return OpenVINOEngine(model, folder, info, settings.cache_gb)


def _load_llamacpp(settings: EngineSettings, model: Snapshot, choice: EngineChoice, say: Say) -> LoadedEngine:
    gguf = check_gguf(model)
    say(memory.check(model, "llamacpp", "gguf", settings.cache_gb))

    from fledge.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine(model, gguf, EngineInfo("llamacpp", "cpu", "gguf", choice.reason), settings.cache_gb)


def _load_transformers(settings: EngineSettings, model: Snapshot, choice: EngineChoice, say: Say) -> LoadedEngine:
    info = EngineInfo("transformers", choice.device, "exact", choice.reason)
    if choice.device == "gpu":
        from fledge.engines.transformers_paged import PagedTransformersEngine

        return PagedTransformersEngine(model, info, settings.cache_gb)

    say(memory.check(model, "transformers", "exact", settings.cache_gb))

    from fledge.engines.transformers import TransformersEngine

    return TransformersEngine(model, info)
