"""The header of a GGUF file, read before anything else opens the file.

Every count, length, size and offset is checked against the file, so that a hostile header costs little memory and
time. Errors name the file, the field and the value.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from fledge.core.errors import InputError

HINT = "fetch the file again, or name another"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 1 << 25
MAX_FIELDS = 10_000
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 1024
MAX_TEXT_BYTES = 1 << 20
MAX_ITEMS = 1_000_000
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
TEXT, ARRAY, BOOL = 8, 9, 7


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: its shape (fastest dimension last), its type, and the offset and size of its bytes in the file."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file; `source` names it in errors."""

    source: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer field. Raises `InputError` unless it is from `low` to `high`."""
        value = self.metadata.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.error(key, f"must be an integer from {low} to {high}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive, finite number."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self.error(key, "must be a positive number")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def items(self, key: str, kind: type) -> list[Any]:
        """Return an array field of strings or integers; `kind` is `str` or `int`."""
        value = self.metadata.get(key)
        if not isinstance(value, list) or not value or type(value[0]) is not kind:
            raise self.error(key, f"must be an array of {'strings' if kind is str else 'integers'}")
        return value

    def error(self, key: str, why: str) -> InputError:
        """Return the error for a field's value."""
        if key not in self.metadata:
            return InputError(f"{self.source} has no {key}", hint=HINT)
        return InputError(f"{self.source} has {key} = {_format_value(self.metadata[key])}, which {why}", hint=HINT)


def read_header(path: Path, source: str) -> Header:
    """Return the header of a GGUF file. Raises `InputError` if it is invalid or does not match the file."""
    with path.open("rb") as file:
        return _HeaderReader(file, path.stat().st_size, source).read_header()


class _HeaderReader:
    def __init__(self, file: BinaryIO, size: int, source: str) -> None:
        self._file = file
        self._size = size
        self._source = source
        self._position = 0

    def read_header(self) -> Header:
        magic = self._read_bytes(4, "its magic number")
        if magic != MAGIC:
            hint = "name a GGUF file, or a folder written by save_pretrained"
            raise InputError(f"{self._source} is not a GGUF file: it starts with {magic!a}", hint=hint)
        version = self._unpack("<I", "its version")
        if version not in VERSIONS:
            big = int.from_bytes(struct.pack("<I", version), "big") in VERSIONS
            raise self._error("version", version, "is big-endian" if big else f"is not one of {VERSIONS}")
        tensors = self._read_count("number of tensors", MAX_TENSORS)
        fields = self._read_count("number of metadata fields", MAX_FIELDS)
        if not tensors:
            raise self._error("number of tensors", tensors, "must be at least 1")
        metadata: dict[str, Any] = {}
        for number in range(fields):
            key = self._read_name(f"the key of metadata field {number}")
            if key in metadata:
                raise self._error("metadata field", key, "is duplicated")
            metadata[key] = self._read_value(key, self._unpack("<I", f"the type of {key}"))
        return Header(self._source, metadata, self._read_tensors(tensors, metadata.get("general.alignment", 32)))

    def _read_value(self, key: str, kind: int) -> Any:
        if kind == TEXT:
            return self._read_text(key, MAX_TEXT_BYTES)
        if kind == ARRAY:
            return self._read_array(key)
        return self._read_scalars(key, kind, 1)[0]

    def _read_array(self, key: str) -> list[Any]:
        kind = self._unpack("<I", f"the type of the items of {key}")
        count = self._read_count(f"length of {key}", MAX_ITEMS)
        if kind == TEXT:
            return [self._read_text(key, MAX_TEXT_BYTES) for _ in range(count)]
        return self._read_scalars(key, kind, count)

    def _read_scalars(self, key: str, kind: int, count: int) -> list[Any]:
        if kind not in SCALARS:
            raise self._error(f"type of {key}", kind, "is not a GGUF type")
        dtype = np.dtype(SCALARS[kind])
        content = self._read_bytes(count * dtype.itemsize, key)
        if kind == BOOL and content.strip(b"\0\1"):
            raise self._error(key, content[:8], "is not true or false")
        return list(np.frombuffer(content, dtype).tolist())

    def _read_tensors(self, count: int, alignment: Any) -> dict[str, GgufTensor]:
        known = type(alignment) is int and 8 <= alignment <= MAX_ALIGNMENT
        if not known or alignment & (alignment - 1):
            raise self._error("general.alignment", alignment, f"is not a power of two from 8 to {MAX_ALIGNMENT}")
        found: dict[str, GgufTensor] = {}
        expected = 0
        for number in range(count):
            name = self._read_name(f"the name of tensor {number}")
            if name in found:
                raise self._error("tensor", name, "is duplicated")
            tensor = self._read_tensor(name)
            # llama.cpp expects contiguous tensors, which also cannot overlap.
            if tensor.offset != expected:
                raise self._error(f"offset of {name}", tensor.offset, f"should be {expected}")
            expected = _align(tensor.offset + tensor.size, alignment)
            found[name] = tensor
        start = _align(self._position, alignment)
        last = list(found.values())[-1]
        if start + last.offset + last.size > self._size:
            end = f"ends at byte {start + last.offset + last.size:,}"
            raise InputError(f"{self._source} is truncated: {last.name} {end}, the file has {self._size:,}", hint=HINT)
        return {name: GgufTensor(name, it.shape, it.type, start + it.offset, it.size) for name, it in found.items()}

    def _read_tensor(self, name: str) -> GgufTensor:
        dimensions = self._unpack("<I", f"the dimensions of {name}")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._error(f"number of dimensions of {name}", dimensions, f"is not from 1 to {MAX_DIMENSIONS}")
        sizes = struct.unpack(f"<{dimensions}Q", self._read_bytes(8 * dimensions, f"the dimensions of {name}"))
        number, offset = struct.unpack("<IQ", self._read_bytes(12, f"type and offset of {name}"))
        kinds = {int(kind): kind for kind in GGMLQuantizationType}
        if number not in kinds or kinds[number].name not in TYPES:
            shown = kinds[number].name if number in kinds else number
            raise self._error(f"type of {name}", shown, f"is not one of {', '.join(TYPES)}")
        block, size = GGML_QUANT_SIZES[kinds[number]]
        count = math.prod(sizes)
        if not count or count // block * size > self._size:
            raise self._error(f"dimensions of {name}", list(sizes), f"do not fit in the file's {self._size:,} bytes")
        if sizes[0] % block:
            raise self._error(f"dimensions of {name}", list(sizes), f"are not whole blocks of {block}")
        return GgufTensor(name, tuple(reversed(sizes)), kinds[number], offset, count // block * size)

    def _read_name(self, what: str) -> str:
        name = self._read_text(what, MAX_NAME_BYTES)
        if not name or not name.isprintable():
            raise self._error(what, name, "is empty or not printable")
        return name

    def _read_text(self, what: str, limit: int) -> str:
        length = self._unpack("<Q", f"the length of {what}")
        if length > limit:
            raise self._error(f"length of {what}", length, f"is more than {limit}")
        content = self._read_bytes(length, what)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise self._error(what, content, "is not UTF-8") from None

    def _read_count(self, what: str, limit: int) -> int:
        count = self._unpack("<Q", f"the {what}")
        if count > limit:
            raise self._error(what, count, f"is more than {limit:,}")
        return count

    def _unpack(self, layout: str, what: str) -> int:
        return int(struct.unpack(layout, self._read_bytes(struct.calcsize(layout), what))[0])

    def _read_bytes(self, count: int, what: str) -> bytes:
        if self._position + count > MAX_HEADER_BYTES:
            raise self._error(what, f"{count:,} bytes", f"makes the header larger than {MAX_HEADER_BYTES:,} bytes")
        content = self._file.read(count)
        if len(content) < count:
            raise InputError(f"{self._source} is truncated in {what}: the file has {self._size:,} bytes", hint=HINT)
        self._position += count
        return content

    def _error(self, field: str, value: Any, why: str) -> InputError:
        return InputError(f"{self._source} has the {field} {_format_value(value)}, which {why}", hint=HINT)


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _format_value(value: Any) -> str:
    return ascii(value[:60] if isinstance(value, (list, str, bytes)) else value)[:80]
