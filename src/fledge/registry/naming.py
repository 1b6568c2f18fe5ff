"""The registered name of a release, derived from its model. Pure."""

import os
import re
from pathlib import Path

from fledge.core.errors import InputError
from fledge.registry.moves import LOG
from fledge.releases.release_cache import parse

DEFAULT_NAME = "huggingface-dialogpt-model"
OF_MODELS = {"embedded": DEFAULT_NAME, "smollm2": "smollm2-135m-instruct"}  # models that are known by a short name
# Of a GGUF file: the type of its weights, and its part of several.
_GGUF = re.compile(r"([.-]\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
_QUANTIZED = re.compile(r"[._-](i?q\d\w*|b?f16|f32)$", re.IGNORECASE)


def derive_name(model: str) -> str:
    """The last part of a Hub id or a path, in lower case, of letters, digits, `.`, `_` and `-` only; a GGUF file's
    without the type of its weights. A release keeps its own. Raises `InputError` where nothing is left."""
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
        raise InputError(f"no name for a release can be made of {model!r}", hint="--name NAME")
    return name


def check_syntax(name: str) -> None:
    """Raise `InputError` for what cannot be the name of a release."""
    if not re.fullmatch(r"[^/:@\x00-\x1f]{1,200}", name) or name.endswith(LOG):
        hint = f"no '/', ':' or '@', and not '{LOG}' at its end"
        raise InputError(f"{name!r} cannot be the name of a release", hint=hint)
