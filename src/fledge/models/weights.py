"""Weights: which files hold them, and what their headers say. No tensor is read here."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from fledge.core.errors import FledgeError, InputError
from fledge.models.config_files import FETCH_AGAIN, read_object

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Weights(NamedTuple):
    """Numbers from the headers: of weights, and of the tensors that hold them."""

    parameters: int
    tensors: int


def files(folder: Path, names: Collection[str], source: str) -> list[str]:
    """The names, among `names`, of the files that `transformers` would load; an index is read from `folder`.

    Raises `FledgeError` if there are none, `InputError` for an index that names other things.
    """
    if WHOLE in names:
        return [WHOLE]
    if INDEX not in names:
        raise missing(source, [path.name for path in folder.glob("*.gguf")])
    where = f"{source}/{INDEX}"
    shards = read_object(folder / INDEX, where).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise InputError(f"{where} has no weight_map of tensors to files", hint=FETCH_AGAIN)
    wanted = sorted(set(shards.values()))
    for name in wanted:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise FledgeError(f"{where} names {name!a}, which is not a safetensors file of its folder", FETCH_AGAIN)
        if name not in names:
            raise InputError(f"{source} lacks {name!a}, which its index names", hint=FETCH_AGAIN)
    return wanted


def missing(source: str, ggufs: Collection[str]) -> FledgeError:
    """The error for a model without safetensors, but perhaps with GGUF files."""
    if ggufs:
        named = sorted(ggufs)
        some = f"{', '.join(map(ascii, named[:3]))}{', ...' if len(named) > 3 else ''}"
        return FledgeError(
            f"{source} has no safetensors weights, but GGUF files: {some}",
            hint=f"name one: --model {source}/{named[0]}",
        )
    return FledgeError(
        f"{source} has no safetensors weights ({WHOLE}); pickled weights are never opened",
        hint="convert it with transformers: model.save_pretrained(DIR)",
    )


def read(folder: Path, names: Collection[str], source: str) -> Weights:
    """Add up the headers of weight files; the library checks that each describes exactly what its file holds."""
    parameters = tensors = 0
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy") as file:  # type: ignore[no-untyped-call]
                shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise InputError(f"{source}/{name} is broken: {str(error)!a}", hint=FETCH_AGAIN) from None
        parameters += sum(math.prod(shape) for shape in shapes)
        tensors += len(shapes)
    if not parameters:
        raise InputError(f"{source} has weight files without weights", hint=FETCH_AGAIN)
    return Weights(parameters, tensors)
