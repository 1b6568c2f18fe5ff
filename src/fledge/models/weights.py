"""Weights: list their files, read the headers, and check that all numbers are finite."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from fledge.core.errors import FledgeError, InputError
from fledge.models.config_files import FETCH_AGAIN, read_object

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CHUNK_BYTES = 1 << 18  # stays in the processor's cache
# For each dtype: the integer type of its size, and its exponent bits, which are all set in NaN and infinity.
FLOATS: dict[str, tuple[Any, int]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}


class Tensor(NamedTuple):
    """A tensor in a header: its file, dtype, shape, and the range of its bytes in the file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Weights(NamedTuple):
    """The content of the headers: the number of weights, and the tensors by name."""

    parameters: int
    tensors: Mapping[str, Tensor]


def list_files(folder: Path, names: Collection[str], source: str) -> list[str]:
    """Return those of `names` that `transformers` would load as weights; an index is read from `folder`.

    Raises `FledgeError` if there are none, or the index names other kinds of file; `InputError` if one is missing.
    """
    if WHOLE in names:
        return [WHOLE]
    if INDEX not in names:
        raise missing_weights_error(source, [path.name for path in folder.glob("*.gguf")])
    where = f"{source}/{INDEX}"
    shards = sorted(set(_read_weight_map(folder, where).values()))
    for name in shards:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise FledgeError(f"{where} names {name!a}, which is not a safetensors file in its folder", FETCH_AGAIN)
        if name not in names:
            raise InputError(f"{source} lacks {name!a}, which its index names", hint=FETCH_AGAIN)
    return shards


def missing_weights_error(source: str, ggufs: Collection[str]) -> FledgeError:
    """Return the error for a model without safetensors; `ggufs` are its GGUF files."""
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


def _read_weight_map(folder: Path, where: str) -> dict[str, str]:
    shards = read_object(folder / INDEX, where).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise InputError(f"{where} has no weight_map of tensors to files", hint=FETCH_AGAIN)
    return shards


def read(folder: Path, names: Collection[str], source: str) -> Weights:
    """Return the headers of weight files. Raises `InputError` unless each header matches its file."""
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy"):  # type: ignore[no-untyped-call]
                found = _read_header(folder / name)
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise InputError(f"{source}/{name} is broken: {str(error)!a}", hint=FETCH_AGAIN) from None
        duplicates = sorted(found.keys() & tensors.keys())
        if duplicates:
            both = f"{source}/{tensors[duplicates[0]].file} and {name}"
            raise InputError(f"{both} both have the tensor {duplicates[0]!a}", hint=FETCH_AGAIN)
        tensors |= found
    if WHOLE not in names:
        for tensor, name in _read_weight_map(folder, f"{source}/{INDEX}").items():
            if tensor not in tensors or tensors[tensor].file != name:
                raise InputError(f"{source}/{name} lacks the tensor {tensor!a}, which its index names", FETCH_AGAIN)
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if not parameters:
        raise InputError(f"{source} has weight files without weights", hint=FETCH_AGAIN)
    return Weights(parameters, tensors)


def _read_header(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    first = 8 + size
    return {
        name: Tensor(
            path.name,
            entry["dtype"],
            tuple(entry["shape"]),
            first + entry["data_offsets"][0],
            first + entry["data_offsets"][1],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def refuse_non_finite(path: Path, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise `InputError` if a tensor of this file contains NaN or infinity. Reads the whole file."""
    buffer = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        for name, tensor in tensors.items():
            if tensor.file != path.name or tensor.dtype not in FLOATS:
                continue
            kind, exponent = FLOATS[tensor.dtype]
            file.seek(tensor.start)
            for place, bits in _read_chunks(file, tensor.end - tensor.start, buffer, kind):
                if _is_finite(bits, exponent):
                    continue
                at = int(np.argmax((bits & kind(exponent)) == exponent))
                fraction = (exponent & -exponent) - 1  # the bits below the exponent
                raise InputError(
                    f"{where} is broken: the tensor {name!a} contains "
                    f"{'NaN' if int(bits[at]) & fraction else 'infinity'} at position {place + at:,}",
                    hint="save the model again from a checkpoint whose weights are finite",
                )


def _is_finite(bits: Any, exponent: int) -> bool:
    """Return whether no number has all exponent bits set. Two maxima suffice, and allocate nothing."""
    sign = 1 << (8 * bits.itemsize - 1)
    return bool(bits.max() < sign | exponent and bits.view(f"i{bits.itemsize}").max() < exponent)


def _read_chunks(file: Any, size: int, buffer: bytearray, kind: Any) -> Iterator[tuple[int, Any]]:
    """Yield the next `size` bytes in chunks: the index of the first number, and the numbers as integers."""
    view, place = memoryview(buffer), 0
    while size > 0:
        got = file.readinto(view[: min(size, len(buffer))])
        if not got:
            return
        bits = np.frombuffer(buffer, kind, count=got // kind().itemsize)
        yield place, bits
        place, size = place + len(bits), size - got
