"""GGUF files as models: converted once into a snapshot folder, cached by the file's SHA-256."""

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from fledge.core import atomic_folder, state
from fledge.core.digests import KnownDigests
from fledge.core.errors import InputError
from fledge.core.links import link_or_copy
from fledge.models.gguf_config import ConvertedTensor, check_architecture, read_config, token_ids
from fledge.models.gguf_header import HINT, GgufTensor, Header, read_header
from fledge.models.gguf_original import ORIGINAL
from fledge.models.gguf_tokenizer import TokenizerFiles, check_loads, read_tokenizer

log = logging.getLogger(__name__)

FORMAT = 2  # raise it when a conversion writes different files
CHUNK_BYTES = 1 << 24
BYTES_PER_SECOND = 1.2e8  # conversion speed, measured on two cores
F32, F16, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16


class Converted(NamedTuple):
    """A snapshot folder, and the SHA-256 of its files by name."""

    folder: Path
    digests: dict[str, str]


def convert(file: Path, source: str, cache: Path, sha256: str = "") -> Converted:
    """Return the snapshot folder of a GGUF file, converting it into `cache` if needed. `source` names it in errors.

    `sha256` is the file's digest, if known. Raises `InputError` if the file is broken or unsupported.
    """
    header = read_header(file, source)
    sha256 = sha256 or _cached_digest(file, state.ensure(cache))
    found = find_converted(sha256, cache)
    if found:
        return found
    check_architecture(header)
    tokenizer = read_tokenizer(header)
    with file.open("rb") as content:
        reader = _TensorReader(header, content)
        config, targets = read_config(header, tokenizer, reader.read_values)
        layout = _plan_layout(header, targets)
        size = len(layout.header) + layout.size + file.stat().st_size
        state.check_writable(cache, size + state.MINIMUM_FREE_BYTES)
        with atomic_folder.build(_folder(sha256, cache)) as (working, _):
            if working:
                log.info("converting %s, once: about %.0f s", source, 1 + size / BYTES_PER_SECOND)
                folder = working / "snapshot"
                folder.mkdir(parents=True)
                _write_texts(header, tokenizer, config, sha256, folder)
                link_or_copy(file.resolve(), working / ORIGINAL)
                with (folder / "model.safetensors").open("wb") as out:
                    out.write(layout.header)
                    for target in layout.targets:
                        out.writelines(reader.read_chunks(target))
    found = find_converted(sha256, cache)
    if not found:
        raise InputError(
            f"{_folder(sha256, cache)} was changed by another process during the conversion", hint="try again"
        )
    return found


def find_converted(sha256: str, cache: Path) -> Converted | None:
    """Return the conversion of the GGUF file with this SHA-256, None if it is missing or damaged."""
    folder = _folder(sha256, cache)
    digests = atomic_folder.digests(folder)
    return Converted(folder / "snapshot", {Path(name).name: it for name, it in digests.items()}) if digests else None


def _folder(sha256: str, cache: Path) -> Path:
    return cache / f"{sha256}-{FORMAT}"


def _cached_digest(file: Path, cache: Path) -> str:
    """Return the SHA-256 of a file, from a cache if the file is unchanged."""
    place = hashlib.sha256(bytes(file.resolve())).hexdigest()
    known = KnownDigests(cache / f"known-{place[:16]}.json")
    digest = known.digest(file)
    known.save()
    return digest


class _Layout(NamedTuple):
    """A safetensors file: its header, the order of its tensors, and their total size in bytes."""

    header: bytes
    targets: list[ConvertedTensor]
    size: int


def _plan_layout(header: Header, targets: list[ConvertedTensor]) -> _Layout:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    # The library's order, which aligns each number to its size.
    ordered = sorted(targets, key=lambda target: (-_item_bytes(header.tensors[target.gguf]), target.name))
    offset = 0
    for target in ordered:
        kind = header.tensors[target.gguf].type
        end = offset + math.prod(target.shape) * _item_bytes(header.tensors[target.gguf])
        entries[target.name] = {
            "dtype": kind.name if kind in (F16, BF16) else "F32",
            "shape": target.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _Layout(len(text).to_bytes(8, "little") + text, ordered, offset)


def _item_bytes(tensor: GgufTensor) -> int:
    return 2 if tensor.type in (F16, BF16) else 4


class _TensorReader:
    """Reads and dequantizes tensors in chunks."""

    def __init__(self, header: Header, content: BinaryIO) -> None:
        self._header = header
        self._content = content

    def read_values(self, tensor: GgufTensor) -> npt.NDArray[np.float32]:
        """Return the numbers of a small F32 tensor."""
        return self._check_finite(tensor, self._read_raw(tensor, tensor.offset, tensor.size).view("<f4"))

    def read_chunks(self, target: ConvertedTensor) -> Iterator[bytes]:
        """Yield a tensor's content for a snapshot: F16 and BF16 unchanged, everything else as F32."""
        tensor = self._header.tensors[target.gguf]
        rows = tensor.shape[0]
        row_bytes = tensor.size // rows
        step = max(1, CHUNK_BYTES * rows // (math.prod(tensor.shape) * 4))
        step = max(1, step // target.head) * target.head if target.head else step
        for start in range(0, rows, step):
            count = min(step, rows - start)
            raw = self._read_raw(tensor, tensor.offset + start * row_bytes, count * row_bytes).reshape(count, row_bytes)
            if target.head:
                raw = raw.reshape(-1, target.head // 2, 2, row_bytes).swapaxes(1, 2).reshape(count, row_bytes)
            yield self._to_numbers(tensor, np.ascontiguousarray(raw)).tobytes()

    def _to_numbers(self, tensor: GgufTensor, raw: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        if tensor.type == BF16:
            bits = raw.view("<u2")
            if ((bits & 0x7F80) == 0x7F80).any():
                raise self._non_finite_error(tensor)
            return bits
        if tensor.type in (F32, F16):
            return self._check_finite(tensor, raw.view("<f4" if tensor.type == F32 else "<f2"))
        with np.errstate(all="ignore"):  # NaN scales are found below
            return self._check_finite(tensor, dequantize(raw, tensor.type).astype("<f4", copy=False))

    def _check_finite(self, tensor: GgufTensor, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not np.isfinite(numbers).all():
            raise self._non_finite_error(tensor)
        return numbers

    def _non_finite_error(self, tensor: GgufTensor) -> InputError:
        return InputError(f"{self._header.source}: tensor {tensor.name} contains NaN or infinity", hint=HINT)

    def _read_raw(self, tensor: GgufTensor, offset: int, size: int) -> npt.NDArray[np.uint8]:
        self._content.seek(offset)
        content = self._content.read(size)
        if len(content) < size:
            raise InputError(f"{self._header.source} was truncated in {tensor.name} during the conversion", hint=HINT)
        return np.frombuffer(content, np.uint8)


def _write_texts(header: Header, tokenizer: TokenizerFiles, config: dict[str, Any], sha256: str, folder: Path) -> None:
    content = json.dumps(tokenizer.tokenizer, ensure_ascii=False)
    check_loads(content, tokenizer, header.source)
    licence = header.metadata.get("general.license")
    is_valid = isinstance(licence, str) and re.fullmatch(r"[\w.+ -]{1,80}", licence)
    texts = {
        "config.json": json.dumps(config, indent=2),
        "generation_config.json": json.dumps(token_ids(tokenizer), indent=2),
        "tokenizer.json": content,
        "tokenizer_config.json": json.dumps(
            {**tokenizer.config, "model_max_length": config["max_position_embeddings"]}
        ),
        "README.md": f"---\nlicense: {licence if is_valid else ''}\n---\nMade by fledge of the GGUF file {sha256}.\n",
    }
    if tokenizer.template:
        texts["chat_template.jinja"] = tokenizer.template
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
