"""Read a model's JSON files with limits, and refuse those that would run code or read files elsewhere."""

import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from fledge.core.errors import FledgeError, InputError

CODE_KEYS = ("auto_map", "trust_remote_code", "_attn_implementation_internal", "_experts_implementation_internal")
# A value `org/name` names a kernel on the Hub, which is code.
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
FILE_KEYS = ("tokenizer_file", "vocab_file", "merges_file", "spm_file", "added_tokens_file", "fast_tokenizer_files")
MAX_BYTES = 20_000_000
MAX_TOKENIZER_BYTES = 200_000_000
FETCH_AGAIN = "fetch the model again, or name another"
# Training logs, which no library loads; a loss in them may be NaN.
TRAINING_LOGS = ("trainer_state.json", "all_results.json", "train_results.json", "eval_results.json")


def bad_value(where: str, field: str, value: Any, why: str, hint: str = FETCH_AGAIN) -> InputError:
    """Return the error for a value in the file `where`; `why` continues "FILE has FIELD VALUE, "."""
    text = json.dumps(value)
    return InputError(f"{where} has {field[:100]!a} {text if len(text) <= 60 else f'{text[:60]}...'}, {why}", hint=hint)


def read_object(path: Path, where: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises as `read_json`, and `InputError` for other values."""
    return as_object(read_json(path, where), where)


def as_object(value: Any, where: str) -> dict[str, Any]:
    """Return `value`, the content of the file `where`. Raises `InputError` if it is not an object."""
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a JSON object", hint="name a folder written by save_pretrained")
    return value


def read_json(path: Path, where: str) -> Any:
    """Return the content of a model's JSON file; `where` names it in errors.

    Raises `InputError` if it is too large, not UTF-8, not JSON or nested too deeply, or has a duplicate key or a
    number that is not finite.
    """
    limit = size_limit(path.name)
    if path.stat().st_size > limit:
        raise InputError(f"{where} has more than {limit:,} bytes", hint=FETCH_AGAIN)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8 text", hint=FETCH_AGAIN) from None
    return _parse(text, where, finite=path.name not in TRAINING_LOGS)


def _parse(text: str, where: str, finite: bool) -> Any:
    non_finite: list[str] = []

    def number(literal: str) -> float:
        value = float(literal)
        if not math.isfinite(value):
            non_finite.append(literal)
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):  # libraries disagree on which value counts
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise InputError(f"{where} has {twice[:100]!a} twice in one object", hint=FETCH_AGAIN)
        return found

    try:
        value = json.loads(text, parse_float=number, parse_constant=number, object_pairs_hook=unique)
    except RecursionError:
        raise InputError(f"{where} is nested too deeply", hint=FETCH_AGAIN) from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}", hint=FETCH_AGAIN) from None
    if non_finite and finite:
        field = next(_find_non_finite(value, ""), "")
        raise InputError(f"{where} has {field!a} {non_finite[0][:50]}, which is not a finite number", hint=FETCH_AGAIN)
    return value


def _find_non_finite(value: Any, place: str) -> Iterator[str]:
    """Yield the paths of numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _find_non_finite(item, f"{place}.{key}" if place else str(key))


def chat_template_source(folder: Path) -> str:
    """Return the chat template of a checked snapshot, empty if none. Raises `FledgeError` if it is not a string."""
    source = _read_text(folder / "chat_template.jinja") or tokenizer_config(folder).get("chat_template")
    if not source:
        source = _read_object(folder / "chat_template.json").get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next(
            (item.get("template") for item in source if isinstance(item, dict) and item.get("name") == "default"), None
        )
    if source and not isinstance(source, str):
        raise FledgeError(f"{folder}: the chat template is not a string", hint=FETCH_AGAIN)
    return source or ""


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """Return the `tokenizer_config.json` of a checked snapshot, empty if it has none."""
    return _read_object(folder / "tokenizer_config.json")


def _read_object(path: Path) -> dict[str, Any]:
    value = json.loads(_read_text(path) or "{}")
    return value if isinstance(value, dict) else {}


def _read_text(path: Path) -> str:
    if not path.is_file():
        return ""
    if path.stat().st_size > size_limit(path.name):
        raise InputError(f"{path} has more than {size_limit(path.name):,} bytes", hint=FETCH_AGAIN)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text", hint=FETCH_AGAIN) from None


def size_limit(name: str) -> int:
    """Return the size limit of a JSON file of this name, in bytes."""
    return MAX_TOKENIZER_BYTES if name in ("tokenizer.json", "vocab.json") else MAX_BYTES


def refuse_adapter(names: Collection[str], source: str) -> None:
    """Raise `InputError` if the files are those of an adapter."""
    if "adapter_config.json" in names:
        raise InputError(
            f"{source} is an adapter (PEFT), not a whole model",
            hint="merge it: model.merge_and_unload().save_pretrained(DIR)",
        )


def refuse_code(value: Any, where: str) -> None:
    """Raise `FledgeError` if a JSON value, at any depth, would make a library run code or read files elsewhere."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            _refuse_keys(item, where)
            # The keys of a vocabulary are tokens: any string.
            pending.extend(value for key, value in item.items() if key != "vocab")


def _refuse_keys(item: dict[str, Any], where: str) -> None:
    for key in CODE_KEYS:
        if key in item:
            raise FledgeError(
                f"{where} has {key!r}, which can run code from the model; it is refused",
                hint=f"name a model whose architecture is part of transformers, or a copy without {key!r}",
            )
    if "transformers_weights" in item:
        raise FledgeError(
            f"{where} has 'transformers_weights', which would load files that were not checked; it is refused",
            hint="save the model again with save_pretrained",
        )
    for key in KERNEL_KEYS:
        if "/" in json.dumps(item.get(key)):
            raise FledgeError(
                f"{where} has {key!r} with a kernel from the Hub, which is code; it is refused",
                hint=f"remove {key!r} from a copy of the folder",
            )
    for key in FILE_KEYS:
        if any("/" in name or "\\" in name for name in _list_strings(item.get(key))):
            raise FledgeError(
                f"{where} has {key!r} with a path; a model may read only its own folder",
                hint=f"remove {key!r} from a copy of the folder",
            )


def _list_strings(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
