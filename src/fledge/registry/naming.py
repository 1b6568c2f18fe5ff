"""The registered name of a release, derived from its model. Pure."""

import os
import re
from pathlib import Path

from fledge.core.errors import InputError
from fledge.registry.moves import LOG
from fledge.releases.release_cache import parse

DEFAULT_NAME = "huggingface-dialogpt-model"
OF_MODELS = {"embedded": DEFAULT_NAME, "smollm2": "smollm2-135m-instruct"}  # models with a short name
# The part number and the weight type in the name of a GGUF file.
_GGUF = re.compile(r"([.-]\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
_QUANTIZED = re.compile(r"[._-](i?q\d\w*|b?f16|f32)$", re.IGNORECASE)


def derive_name(model: str) -> str:
    """Return the last part of a Hub id or path in lower case, with only letters, digits, `.`, `_` and `-`.

    The weight type of a GGUF file is dropped; a release keeps its name. Raises `InputError` if nothing is left.
    """
    if model in OF_MODELS:
        return OF_MODELS[model]
    if model.startswith("models:/") or re.fullmatch(r"[^/:@\s]+@[^/@\s]+", model):
        return parse(model).name
    on_hub = re.fullmatch(r"[\w.-]+/[\w./-]+@[\w./-]+", model)
    path = Path(os.path.abspath(Path(model.partition("@")[0] if on_hub else model).expanduser()))  # noqa: PTH100 (of a link, the link's)
    in_hub_cache = path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")
    last = path.parent.parent.name.rpartition("--")[2] if in_hub_cache else path.name
    if _GGUF.search(last):
        last = _QUANTIZED.sub("", _GGUF.sub("", last))
    name = re.sub(r"[^a-z0-9._-]+", "-", last.lower())[:100].strip("._-")
    if not name:
        raise InputError(f"cannot derive a release name from {model!r}", hint="--name NAME")
    return name


def check_syntax(name: str) -> None:
    """Raise `InputError` unless `name` can be the name of a release."""
    if not re.fullmatch(r"[^/:@\x00-\x1f]{1,200}", name) or name.endswith(LOG):
        hint = f"use no '/', ':' or '@', and no '{LOG}' at the end"
        raise InputError(f"invalid release name {name!r}", hint=hint)
