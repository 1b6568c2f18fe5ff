"""Snapshots: a model's files, resolved from a name and checked before anything loads them."""

import fnmatch
import hashlib
import importlib
import importlib.metadata
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from fledge.core.digests import file_digest
from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.models import tokenizer_files, weights
from fledge.models.architectures import check_model_type, check_tensors
from fledge.models.chat_template import check_template, read_template
from fledge.models.check_cache import run_once
from fledge.models.config_fields import WIDTHS, check_config, check_generation, end_tokens
from fledge.models.config_files import (
    FETCH_AGAIN,
    as_object,
    bad_value,
    chat_template_source,
    read_json,
    refuse_adapter,
    refuse_code,
)
from fledge.models.trial_run import check_rendering, check_tokenizer

ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
BY_MODULE = {"smollm2": "fledge.models.smollm2"}  # models with a module that resolves them
CAUSAL = re.compile(r"[A-Za-z0-9_]+(ForCausalLM|LMHeadModel)")
POSITIONS = ("n_positions", "max_position_embeddings", "n_ctx", "max_sequence_length")
SIZES = ("vocab_size", "intermediate_size", "n_inner", "ffn_dim", "head_dim", "moe_intermediate_size")
COUNTS = (
    *("num_attention_heads", "n_head", "num_key_value_heads"),
    *("num_local_experts", "num_experts", "n_routed_experts"),
)
# Models with one of these compute positions; others learn them.
COMPUTED = (
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "rotary_dim",
    "rotary_pct",
    "partial_rotary_factor",
    "alibi",
)
LEARNED = ("GPT2LMHeadModel", "GPTNeoForCausalLM")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
DEFAULT_CONTEXT = 2048
MAX_CONTEXT = 100_000_000
MAX_VOCABULARY = 100_000_000
GENERATION = "generation_config.json"
TOO_LARGE = "which is too large for its weights"


@dataclass(frozen=True)
class Snapshot:
    """A checked model folder. `digest` is SHA-256 over the names and contents of `files`; `size` is in bytes.

    `context` is the context window in tokens, `parameters` the number of weights, `vocabulary` the number of tokens.
    `end_tokens` end an answer; the first also ends a turn.
    """

    path: Path
    source: str
    commit: str
    files: tuple[str, ...]
    digest: str
    size: int
    licence: str
    architecture: str
    parameters: int
    vocabulary: int
    context: int
    end_tokens: tuple[int, ...]
    has_chat_template: bool = False


def resolve(model: str, cache: Path | None = None) -> Snapshot:
    """Return the snapshot of a model: `embedded`, `smollm2`, a local folder or GGUF file, or a Hub model as `org/name`
    or `org/name/FILE.gguf`, optionally with `@revision`.

    Conversions are kept in `cache`, by default fledge's own. Raises `InputError` if no such model exists,
    `FledgeError` if it is refused.
    """
    cache = cache or Workspace().cache_dir
    if model == "embedded":
        return check(Path(str(files("fledge.models.embedded").joinpath("snapshot"))), source="embedded")
    if model in BY_MODULE:
        found: Snapshot = importlib.import_module(BY_MODULE[model]).resolve(cache)
        return found
    path = _find_local(model)
    if path and path.is_dir():
        return check(path.resolve(), source=str(path))
    if path:
        return _from_gguf(path, str(path), "", cache)
    on_hub = re.fullmatch(r"([\w.-]+/[\w.-]+)(/[\w./-]+\.gguf)?(@[\w./-]+)?", model, re.IGNORECASE)
    if on_hub and not model.startswith(".") and (on_hub[2] or not on_hub[1].lower().endswith(".gguf")):
        name, file, revision = (part or "" for part in on_hub.groups())
        return _from_hub(name, file.removeprefix("/"), revision.removeprefix("@"), cache)
    if "://" in model:
        raise InputError(
            f"{model!r} is a URL; this command needs the model's files",
            hint="name the model: a folder or a Hub id",
        )
    if model.lower().endswith(".gguf"):
        raise InputError(f"there is no file {model[:200]!r}", hint="a file on the Hub is named org/name/FILE.gguf")
    raise InputError(
        f"no model {model[:200]!r}: not a folder, not a GGUF file, not {' or '.join(('embedded', *BY_MODULE))}, "
        "not a Hub id",
        hint="fledge experiment --model embedded",
    )


def _find_local(model: str) -> Path | None:
    try:
        path = Path(model).expanduser()
        return path if model and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, an unknown user
        return None


def _from_hub(name: str, file: str, revision: str, cache: Path) -> Snapshot:
    from fledge.models.hub import download, download_file

    if not file:
        fetched = download(f"{name}@{revision}", allowed, vet)
        # The Hub's cache stores a snapshot as links to the repository's blobs.
        return check(fetched.folder, source=fetched.name, commit=fetched.commit, root=fetched.repository)
    if {"", ".", ".."} & set(file.split("/")) or Path(name.split("/")[0]).is_dir():
        raise InputError(f"there is no file {f'{name}/{file}'!r}", hint="a file on the Hub is named org/name/FILE.gguf")
    fetched = download_file(name, file, revision)
    return _from_gguf(fetched.folder / file, f"{name}/{file}", fetched.commit, cache)


def _from_gguf(path: Path, source: str, commit: str, cache: Path) -> Snapshot:
    from fledge.models.gguf import convert

    if not path.is_file():
        raise InputError(f"{source} is not a regular file", hint="name a GGUF file, or a folder")
    try:
        converted = convert(path, source, cache / "models")
    except OSError as error:
        hint = f"make the file readable, and {cache} writable"
        raise FledgeError(f"cannot convert {source}: {error.strerror or error}", hint=hint) from None
    return check(converted.folder, source=source, commit=commit, digests=converted.digests)


def check(
    folder: Path,
    *,
    source: str,
    commit: str = "",
    root: Path | None = None,
    digests: Mapping[str, str] | None = None,
) -> Snapshot:
    """Check the names, JSON and weight headers of `folder`, and return its snapshot.

    Links may only point within `root`, by default the folder. Files of other kinds are never opened. `digests` are
    SHA-256 of files by name, if already known. Raises `FledgeError` if the model must not be loaded.
    """
    try:
        return _check_folder(folder, source, commit, root or folder.resolve(), digests or {})
    except OSError as error:
        hint = "make it readable: chmod -R u+rX"
        raise FledgeError(f"cannot read {source}: {error.strerror or error}", hint=hint) from None


def _check_folder(folder: Path, source: str, commit: str, root: Path, digests: Mapping[str, str]) -> Snapshot:
    present = _list_files(folder, source, root)
    refuse_adapter(present, source)
    loaded = weights.list_files(folder, present, source)
    names = tuple(name for name in present if not name.endswith(".safetensors") or name in loaded)
    contents = vet(folder, names, source)
    config, generation = contents["config.json"], contents.get(GENERATION, {})
    found = weights.read(folder, loaded, source)
    _check_sizes(config, found, f"{source}/config.json")
    check_tensors(config, found.tensors, source)
    digests = {name: digests.get(name) or file_digest(folder / name) for name in names}
    _check_contents(folder, found, digests, source)
    return Snapshot(
        path=folder,
        source=source,
        commit=commit,
        files=names,
        digest=_digest(digests),
        size=sum((folder / name).stat().st_size for name in names),
        licence=_read_licence(folder, names),
        architecture=config["architectures"][0],
        parameters=found.parameters,
        vocabulary=config["vocab_size"],
        context=_context(config),
        end_tokens=_end_tokens(config, generation, source),
        has_chat_template=bool(chat_template_source(folder)),
    )


def vet(folder: Path, names: Collection[str], source: str) -> dict[str, Any]:
    """Return the content of the JSON files among `names`. Raises `FledgeError` if the model must not be loaded."""
    contents = {name: read_json(folder / name, f"{source}/{name}") for name in names if name.endswith(".json")}
    for name, content in contents.items():
        if name != "vocab.json":
            refuse_code(content, f"{source}/{name}")
    config = _check_config(contents, source)
    if GENERATION in contents:
        check_generation(as_object(contents[GENERATION], f"{source}/{GENERATION}"), f"{source}/{GENERATION}")
    tokenizer_files.check(contents, names, config["vocab_size"], source)
    for name in (tokenizer_files.CONFIG, "chat_template.json"):
        value = contents.get(name, {}).get("chat_template")
        if value:
            check_template(value, f"{source}/{name}", "chat_template")
    if "chat_template.jinja" in names:
        text = (folder / "chat_template.jinja").read_text(encoding="utf-8", errors="replace")
        check_template(text, f"{source}/chat_template.jinja", "content")
    return contents


def _check_contents(folder: Path, found: weights.Weights, digests: Mapping[str, str], source: str) -> None:
    """Run the checks that read whole files, once for each digest."""
    if tokenizer_files.WHOLE in digests:
        path = folder / tokenizer_files.WHOLE
        library = importlib.metadata.version("tokenizers")
        run_once(f"tokenizer-{library}", digests[path.name], partial(check_tokenizer, path, f"{source}/{path.name}"))
    template = read_template(folder)
    if template:
        digest = hashlib.sha256(json.dumps(template).encode()).hexdigest()
        run_once(
            f"chat-template-{importlib.metadata.version('jinja2')}", digest, partial(check_rendering, template, source)
        )
    for name in dict.fromkeys(tensor.file for tensor in found.tensors.values()):
        run_once(
            "finite",
            digests[name],
            partial(weights.refuse_non_finite, folder / name, found.tensors, f"{source}/{name}"),
        )


def allowed(name: str) -> bool:
    """Return whether a file of this name can be part of a snapshot."""
    return not name.startswith(".") and "/" not in name and any(fnmatch.fnmatchcase(name, kind) for kind in ALLOWED)


def _list_files(folder: Path, source: str, root: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if allowed(path.name))
    for name in names:
        path = folder / name
        if not name.isprintable():
            raise InputError(
                f"{source} has a file with an unprintable name, {name!a}", hint="rename it, or name another model"
            )
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise InputError(f"{source}/{name} is a broken link", hint=FETCH_AGAIN) from None
        if not target.is_relative_to(root):
            raise FledgeError(
                f"{source}/{name} is a link that points outside the folder; it is refused",
                hint="replace the link with a copy of the file",
            )
        if not target.is_file():
            raise InputError(f"{source}/{name} is not a regular file", hint=FETCH_AGAIN)
    return names


def _check_config(contents: Mapping[str, Any], source: str) -> dict[str, Any]:
    where = f"{source}/config.json"
    if "config.json" not in contents:
        raise InputError(f"{source} has no config.json", hint="name a folder written by save_pretrained")
    config = as_object(contents["config.json"], where)
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise InputError(f"{where} names no architecture", hint="name a folder written by save_pretrained")
    if not CAUSAL.fullmatch(named[0]):
        raise InputError(
            f"{source} is a {named[0][:50]!a}, which does not generate text",
            hint="name a causal language model: its architecture ends in ForCausalLM or LMHeadModel",
        )
    if type(config.get("vocab_size")) is not int or not 1 <= config["vocab_size"] <= MAX_VOCABULARY:
        raise bad_value(where, "vocab_size", config.get("vocab_size"), "which is not a number of tokens")
    check_model_type(config, where)
    check_config(config, where)
    return config


def _check_sizes(config: dict[str, Any], found: weights.Weights, where: str) -> None:
    """Raise `InputError` for sizes too large for the weights: a library would allocate that memory."""
    widest = max((config[key] for key in WIDTHS if isinstance(config.get(key), int)), default=1)
    limits = {
        **dict.fromkeys((*WIDTHS, *COUNTS), found.parameters),
        **dict.fromkeys(SIZES, found.parameters // max(widest, 1)),  # the other side of these matrices is the width
        **dict.fromkeys(LAYERS, len(found.tensors)),
        **dict.fromkeys(POSITIONS, MAX_CONTEXT),
    }
    for key, limit in limits.items():
        value = config.get(key)
        if value is None and key != "vocab_size":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            problem = TOO_LARGE if type(value) is int and value > limit else "which is not an integer of at least 1"
            raise InputError(f"{where} has {key} {json.dumps(value)[:50]}, {problem}", hint=FETCH_AGAIN)
    # Learned positions are weights, and their mask grows with the square of their number.
    learned = config["architectures"][0] in LEARNED or not any(config.get(key) for key in COMPUTED)
    positions = max(config.get(key) or 0 for key in POSITIONS)
    if learned and positions * widest > found.parameters:
        raise InputError(f"{where} has {positions} positions, {TOO_LARGE}", hint=FETCH_AGAIN)


def _context(config: Mapping[str, Any]) -> int:
    return next((config[key] for key in POSITIONS if config.get(key)), DEFAULT_CONTEXT)


def context_of(folder: Path) -> int:
    """Return the context window of a checked model folder, in tokens."""
    return _context(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _end_tokens(config: dict[str, Any], generation: dict[str, Any], source: str) -> tuple[int, ...]:
    """Return the end tokens of the generation config, else of the model's config, as `transformers.generate` does."""
    for content, name in ((generation, GENERATION), (config, "config.json")):
        known = end_tokens(content.get("eos_token_id"), config["vocab_size"], f"{source}/{name}")
        if known:
            return known
    return ()


def _read_licence(folder: Path, names: Collection[str]) -> str:
    """Return the licence in the model card's front matter, else the first line of a licence file, else empty."""
    card = _read_start(folder / "README.md") if "README.md" in names else ""
    front = card.split("\n---", 1)[0] if card.startswith("---") else ""
    named = re.search(r"^license:[ \t]*[\"']?([^\"'\n]+)", front, re.MULTILINE)
    texts = [named[1]] if named else [_read_start(folder / name) for name in names if name.startswith("LICENSE")]
    first = next((text.strip().splitlines()[0] for text in texts if text.strip()), "")
    return "".join(letter for letter in first.strip()[:80] if letter.isprintable())


def _read_start(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(20_000)


def _digest(digests: Mapping[str, str]) -> str:
    total = hashlib.sha256()
    for name, digest in digests.items():
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()
