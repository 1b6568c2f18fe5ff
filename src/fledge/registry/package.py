"""What goes into a release: the manifest of its parts, the engines that were exported, our own code, requirements."""

import importlib.metadata
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fledge.core.atomic_folder import is_whole
from fledge.core.errors import InputError
from fledge.core.processes import ROOT
from fledge.engines import machine
from fledge.engines.engine import GenerationParams
from fledge.engines.openvino_files import in_cache
from fledge.engines.selection import is_release
from fledge.models.snapshot import Snapshot
from fledge.prompts.prompt import Prompt
from fledge.registry.rows import MESSAGES
from fledge.releases.manifest import Manifest, Weights

# What the code of a release imports, and what its engines do.
ALWAYS = (
    *("mlflow", "langchain-core", "pydantic", "python-dotenv", "numpy", "pandas", "psutil"),
    *("jinja2", "safetensors", "tokenizers"),
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
    weights: Weights,
    evaluation: Mapping[str, Any],
    engines: Mapping[str, Path],
) -> Manifest:
    """The manifest of a release, as yet without files."""
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
        generation={**values, "stop": list(generation.stop)},
        weights=weights,
        licence=snapshot.licence,
        engines={mode: {"engine": "openvino", **_gate(folder)} for mode, folder in engines.items()},
        evaluation=dict(evaluation),
        environment=machine.describe(),
    )


def exports(snapshot: Snapshot, cache_dir: Path, weights: Weights) -> dict[str, Path]:
    """The folders of the model's engines that were exported on this machine and are whole, by mode."""
    return (
        {}
        if weights == "reference"
        else {str(mode): path for mode, path in in_cache(snapshot, cache_dir / "engines").items() if is_whole(path)}
    )


def copy_code(folder: Path) -> Path:
    """Copy fledge into `folder`, so that a release runs where fledge is not installed; without the model in the box."""
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
