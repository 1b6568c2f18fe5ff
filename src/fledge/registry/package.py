"""What goes into a release: the manifest of its parts, the engines that were exported, our own code, requirements."""

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

# What the code of a release imports, and what its engines do.
ALWAYS = (
    *("mlflow", "langchain-core", "pydantic", "python-dotenv", "numpy", "pandas", "psutil"),
    *("jinja2", "msgspec", "safetensors", "tokenizers"),
)
EXPORTED = ("openvino-genai",)
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
    """The manifest of a release, as yet without files and engines."""
    if weights == "reference" and (not snapshot.commit or is_release(snapshot.source)):
        raise InputError(
            f"{snapshot.source} is not of the Hub: nobody else could fetch it", hint="leave --weights at copy"
        )
    if MESSAGES in prompt.variables:
        raise InputError(
            f"prompt {prompt.label} has a variable {MESSAGES!r}, by which a release knows conversations",
            hint="name it otherwise",
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
    """What a manifest says of engines by mode: which, and what their gate measured."""
    return {mode: {"engine": "openvino", **_gate(folder)} for mode, folder in folders.items()}


def engine_modes(
    wanted: Sequence[str], settings: EngineSettings, snapshot: Snapshot, weights: Weights
) -> tuple[Mode, ...]:
    """The modes of the engines that a release of a model brings along: as wanted, else those in which `serve` would run
    it here. Raises `InputError` and `MissingExtraError` for what was wanted and cannot be."""
    if "none" in wanted and len(wanted) > 1:
        raise InputError("--engines none cannot be combined with modes", hint="--engines exact,fast, or --engines none")
    if wanted and "none" not in wanted:
        if weights == "reference":
            raise InputError("--weights reference keeps no files, so no engines", hint="leave out --engines")
        modes: tuple[Mode, ...] = ("exact", "fast")
        chosen = tuple(mode for mode in modes if mode in wanted)
        if not all(selection.can_export(settings, snapshot, mode) for mode in chosen):
            raise MissingExtraError("the engine openvino", selection.EXTRAS["openvino"])
        return chosen
    if wanted or weights == "reference":
        return ()
    try:
        choice = selection.choose(settings, snapshot)
    except (InputError, MissingExtraError):  # whoever serves it has another machine
        return ()
    by_setting: dict[str, tuple[Mode, ...]] = {"exact": ("exact",), "fast": ("fast",), "auto": ("exact", "fast")}
    return by_setting[settings.mode] if choice.name == "openvino" else ()


def export(snapshot: Snapshot, cache_dir: Path, modes: Sequence[Mode], say: Say, *, required: bool) -> dict[str, Path]:
    """The folders of the model's engines, by mode, exported where they are not yet. Where none can be and none is
    required, `say` is told."""
    try:
        return {str(mode): find_or_export(snapshot, cache_dir / "engines", mode, say) for mode in modes}
    except ExportError as error:
        if required:
            raise
        say(f"{error.message}; the release brings no engine files along, and transformers runs it")
        return {}


def copy_code(folder: Path) -> Path:
    """Copy fledge into `folder`, so that a release runs where fledge is not installed; without the embedded model."""
    target = folder / "fledge"
    box = str(ROOT / "fledge" / "models" / "embedded")

    def left_out(where: str, names: list[str]) -> list[str]:
        return [name for name in names if name == "__pycache__" or (where == box and name == "snapshot")]

    shutil.copytree(ROOT / "fledge", target, ignore=left_out)
    return target


def requirements(manifest: Manifest) -> list[str]:
    """What pip has to install to load a release, as `name==version` of what is installed here."""
    wanted: Collection[str] = (
        *ALWAYS,
        *(EXPORTED if manifest.engines else UNEXPORTED),
        *(BY_REFERENCE if manifest.weights == "reference" else ()),
    )
    found = {name: version for name in wanted if (version := _version(name))}
    # A local part, as of a build for the CPU, is on no index but its own.
    return [f"{name}=={version.partition('+')[0]}" for name, version in found.items()]


def _gate(folder: Path) -> dict[str, Any]:
    gate = folder / "gate.json"
    return json.loads(gate.read_text(encoding="utf-8")) if gate.is_file() else {}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
