"""Snapshots: a model's files, found by any usual name, checked before anything loads them."""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from fledge.core.errors import FledgeError, InputError, MissingExtraError

ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
CODE_KEYS = ("auto_map", "trust_remote_code", "_attn_implementation_internal")


@dataclass(frozen=True)
class Snapshot:
    """A checked model folder. `digest` is SHA-256 over the names and contents of `files`; `size` is in bytes."""

    path: Path
    source: str
    commit: str
    files: tuple[str, ...]
    digest: str
    size: int
    architecture: str
    context: int
    end_token: int


def resolve(model: str) -> Snapshot:
    """The snapshot of `embedded`, a local folder, or a Hub id `org/name[@revision]`.

    Raises `InputError` when nothing of that name exists, `FledgeError` when it must not be loaded.
    """
    if model == "embedded":
        return check(Path(str(files("fledge.models.embedded").joinpath("snapshot"))), source="embedded")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return check(folder.resolve(), source=str(folder))
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return _download(model)
    raise InputError(
        f"no model {model!r}: not a folder, not 'embedded', not a Hub id", hint="fledge experiment --model embedded"
    )


def check(folder: Path, *, source: str, commit: str = "", root: Path | None = None) -> Snapshot:
    """Read the names and JSON of `folder`, refuse what may not be loaded, and digest what is left.

    Links that lead out of `root`, the folder itself unless given, are left out.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for pattern in ALLOWED
        for path in folder.glob(pattern)
        if path.is_file() and path.resolve().is_relative_to(root or folder.resolve())
    )
    if not any(name.endswith(".safetensors") for name in names):
        raise FledgeError(
            f"{source} has no safetensors weights; pickled weights are never opened",
            hint="convert it with transformers: model.save_pretrained(DIR)",
        )
    if "config.json" not in names:
        raise InputError(f"{source} has no config.json", hint="name a folder written by save_pretrained")
    for name in names:
        if name.endswith(".json"):
            _refuse_code(_read_json(folder / name), f"{source}/{name}")
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise InputError(f"{source}/config.json is not an object", hint="name a folder written by save_pretrained")
    end = config.get("eos_token_id") or 0
    return Snapshot(
        path=folder,
        source=source,
        commit=commit,
        files=tuple(names),
        digest=_digest(folder, names),
        size=sum((folder / name).stat().st_size for name in names),
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        context=int(config.get("n_positions") or config.get("max_position_embeddings") or 2048),
        end_token=int(end[0] if isinstance(end, list) else end),
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}", hint="fetch the model again") from None


def _refuse_code(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key in CODE_KEYS:
            if key in value:
                raise FledgeError(f"{where} has {key!r}, which can run code from the model; it is refused")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _refuse_code(item, where)


def _digest(folder: Path, names: list[str]) -> str:
    total = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _download(model: str) -> Snapshot:
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        raise MissingExtraError("the Hugging Face Hub client", "models") from None
    name, _, revision = model.partition("@")
    try:
        commit = HfApi().model_info(name, revision=revision or None).sha or ""
        folder = snapshot_download(name, revision=commit, allow_patterns=list(ALLOWED))
    except RepositoryNotFoundError:
        raise InputError(f"the Hub has no model {model!r}, or it is private", hint="export HF_TOKEN=...") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        raise FledgeError(
            f"cannot fetch {model} from the Hub: {error}", hint="use --model embedded or a local folder"
        ) from None
    # The Hub's cache keeps a snapshot as links into the blobs of the same repository.
    return check(Path(folder), source=name, commit=commit, root=Path(folder).resolve().parent.parent)
