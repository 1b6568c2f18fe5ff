"""Contents of a release: manifest, exported engines, fledge's code, requirements."""

import importlib.metadata
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fledge.core.errors import InputError, MissingExtraError
from fledge.core.generation import GenerationParams
from fledge.core.processes import ROOT
from fledge.core.types import Format, Mode, Say
from fledge.engines import machine, selection
from fledge.engines.openvino_files import ExportError, find_or_export
from fledge.engines.selection import is_release
from fledge.engines.settings import EngineSettings
from fledge.models.snapshot import Snapshot
from fledge.prompts.prompt import Prompt
from fledge.registry.columns import MESSAGES
from fledge.releases.manifest import Manifest, Weights

# Packages that the code of a release imports, then those its engines import.
ALWAYS = (
    *("mlflow", "langchain-core", "pydantic", "python-dotenv", "numpy", "pandas", "psutil"),
    *("jinja2", "msgspec", "safetensors", "tokenizers"),
)
EXPORTED = {"exact": ("openvino-genai",), "fast": ("openvino-genai",), "gguf": ("xllamacpp",)}
UNEXPORTED = ("torch", "transformers", "openvino-genai", "optimum-intel", "nncf")
BY_REFERENCE = ("huggingface-hub", "httpx", "gguf")


def describe(
    name: str,
    snapshot: Snapshot,
    prompt: Prompt,
    generation: GenerationParams,
    *,
    form: Format,
    weights: Weights,
    evaluation: Mapping[str, Any],
) -> Manifest:
    """Return the manifest of a release, still without files and engines."""
    if weights == "reference" and (not snapshot.commit or is_release(snapshot.source)):
        raise InputError(
            f"--weights reference needs a Hub model, and {snapshot.source} is not one", hint="--weights copy"
        )
    if MESSAGES in prompt.variables:
        raise InputError(
            f"prompt {prompt.label} has a variable {MESSAGES!r}, which a release reserves for conversations",
            hint="rename the variable",
        )
    values = asdict(generation)
    return Manifest(
        name=name,
        model=snapshot.source,
        commit=snapshot.commit,
        model_digest=snapshot.digest,
        prompt_name=prompt.name,
        prompt_version=prompt.version,
        template=prompt.template,
        format=form,
        system=prompt.system,
        generation={**values, "stop": list(generation.stop)},
        weights=weights,
        licence=snapshot.licence,
        evaluation=dict(evaluation),
        environment=machine.describe(),
    )


def describe_engines(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the manifest's description of engines by mode: name and gate measurements."""
    return {
        mode: {"engine": "llamacpp" if mode == "gguf" else "openvino", **_read_gate(folder)}
        for mode, folder in folders.items()
    }


def select_modes(
    requested: Sequence[str], settings: EngineSettings, snapshot: Snapshot, weights: Weights
) -> tuple[Mode, ...]:
    """Return the modes of the engines in a release: those `requested`, else those that `serve` would use here.

    Raises `InputError` or `MissingExtraError` if a requested mode is not possible.
    """
    if "none" in requested and len(requested) > 1:
        raise InputError("--engines none cannot be combined with modes", hint="--engines exact,fast, or --engines none")
    if requested and "none" not in requested:
        if weights == "reference":
            raise InputError("--weights reference stores no engine files", hint="leave out --engines")
        modes: tuple[Mode, ...] = ("exact", "fast", "gguf")
        chosen = tuple(mode for mode in modes if mode in requested)
        if "gguf" in chosen:
            selection.check_gguf(snapshot)
        if not all(selection.can_export(settings, snapshot, mode) for mode in chosen):
            raise MissingExtraError("the engine openvino", selection.EXTRAS["openvino"])
        return chosen
    if requested or weights == "reference":
        return ()
    try:
        choice = selection.choose(settings, snapshot)
    except (InputError, MissingExtraError):  # it may be served on another machine
        return ()
    by_setting: dict[str, tuple[Mode, ...]] = {"exact": ("exact",), "fast": ("fast",), "auto": ("exact", "fast")}
    if choice.name == "llamacpp":
        return ("gguf",)
    return by_setting[settings.mode] if choice.name == "openvino" else ()


def export(snapshot: Snapshot, cache_dir: Path, modes: Sequence[Mode], say: Say, *, required: bool) -> dict[str, Path]:
    """Return the folders of the model's engines by mode, exporting missing ones.

    If the export fails: raise `ExportError` if engines are `required`, else report it by `say` and return none.
    """
    try:
        return {str(mode): _find_files(snapshot, cache_dir, mode, say) for mode in modes}
    except ExportError as error:
        if required:
            raise
        say(f"{error.message}; the release includes no engine files and will run with transformers")
        return {}


def _find_files(snapshot: Snapshot, cache_dir: Path, mode: Mode, say: Say) -> Path:
    if mode == "gguf":
        return selection.check_gguf(snapshot)
    return find_or_export(snapshot, cache_dir / "engines", mode, say)


def copy_code(folder: Path) -> Path:
    """Copy fledge, without the embedded model, into `folder`: a release must load where fledge is not installed."""
    target = folder / "fledge"
    embedded = str(ROOT / "fledge" / "models" / "embedded")

    def ignore(where: str, names: list[str]) -> list[str]:
        return [name for name in names if name == "__pycache__" or (where == embedded and name == "snapshot")]

    shutil.copytree(ROOT / "fledge", target, ignore=ignore)
    return target


def list_requirements(manifest: Manifest) -> list[str]:
    """Return the pip requirements of a release as `name==version`, with the versions installed here."""
    needed: Collection[str] = (
        *ALWAYS,
        *(dict.fromkeys(name for mode in manifest.engines for name in EXPORTED[mode]) or UNEXPORTED),
        *(BY_REFERENCE if manifest.weights == "reference" else ()),
    )
    found = {name: version for name in needed if (version := _version(name))}
    # Drop local version labels such as +cpu, which PyPI does not have.
    return [f"{name}=={version.partition('+')[0]}" for name, version in found.items()]


def _read_gate(folder: Path) -> dict[str, Any]:
    gate = folder / "gate.json"
    return json.loads(gate.read_text(encoding="utf-8")) if gate.is_file() else {}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
