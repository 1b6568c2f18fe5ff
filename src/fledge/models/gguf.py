"""GGUF files as models: converted once into an ordinary snapshot folder, kept in the user's cache by their SHA-256."""

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
from fledge.models.gguf_config import ConvertedTensor, read_config, refuse_other_architectures, token_ids
from fledge.models.gguf_header import HINT, GgufTensor, Header, read_header
from fledge.models.gguf_tokenizer import TokenizerFiles, check_loads, read_tokenizer

log = logging.getLogger(__name__)

FORMAT = 1  # raise it where a conversion would write other files than before
CHUNK_BYTES = 1 << 24
BYTES_PER_SECOND = 1.2e8  # of a conversion, measured on two cores
F32, F16, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16


class Converted(NamedTuple):
    """A snapshot folder, and the SHA-256 of its files by name."""

    folder: Path
    digests: dict[str, str]


def convert(file: Path, source: str, cache: Path, sha256: str = "") -> Converted:
    """The snapshot folder of a GGUF file, made in the folder `cache` unless it is there. `source` names it in errors.

    `sha256` is that of the file, where it is known. Raises `InputError` where the file is broken, or of a kind that
    fledge does not read.
    """
    header = read_header(file, source)
    sha256 = sha256 or _known_digest(file, state.ensure(cache))
    found = converted(sha256, cache)
    if found:
        return found
    refuse_other_architectures(header)
    tokenizer = read_tokenizer(header)
    with file.open("rb") as content:
        reader = _Reader(header, content)
        config, targets = read_config(header, tokenizer, reader.values)
        layout = _layout(header, targets)
        size = len(layout.header) + layout.size
        state.check_writable(cache, size + state.MINIMUM_FREE_BYTES)
        with atomic_folder.build(_folder(sha256, cache)) as (working, _):
            if working:
                log.info("converting %s, once: about %.0f s", source, 1 + size / BYTES_PER_SECOND)
                folder = working / "snapshot"
                folder.mkdir(parents=True)
                _write_texts(header, tokenizer, config, sha256, folder)
                with (folder / "model.safetensors").open("wb") as out:
                    out.write(layout.header)
                    for target in layout.targets:
                        out.writelines(reader.pieces(target))
    found = converted(sha256, cache)
    if not found:
        raise InputError(
            f"{_folder(sha256, cache)} was changed by another process during the conversion", hint="try again"
        )
    return found


def converted(sha256: str, cache: Path) -> Converted | None:
    """What a GGUF file of this SHA-256 was converted to before, None where it was not, or is damaged."""
    folder = _folder(sha256, cache)
    digests = atomic_folder.digests(folder)
    return Converted(folder / "snapshot", {Path(name).name: it for name, it in digests.items()}) if digests else None


def _folder(sha256: str, cache: Path) -> Path:
    return cache / f"{sha256}-{FORMAT}"


def _known_digest(file: Path, cache: Path) -> str:
    """SHA-256 of a file, which is not read again where it was read before and has not changed since."""
    place = hashlib.sha256(bytes(file.resolve())).hexdigest()
    known = KnownDigests(cache / f"known-{place[:16]}.json")
    digest = known.digest(file)
    known.save()
    return digest


class _Layout(NamedTuple):
    """A safetensors file: its header, the order of its tensors, and the bytes that they take."""

    header: bytes
    targets: list[ConvertedTensor]
    size: int


def _layout(header: Header, targets: list[ConvertedTensor]) -> _Layout:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    # As the library orders them, so that each number lies at a multiple of its size.
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


class _Reader:
    """Reads the numbers of tensors, piece by piece."""

    def __init__(self, header: Header, content: BinaryIO) -> None:
        self._header = header
        self._content = content

    def values(self, tensor: GgufTensor) -> npt.NDArray[np.float32]:
        """The numbers of a small F32 tensor."""
        return self._finite(tensor, self._raw(tensor, tensor.offset, tensor.size).view("<f4"))

    def pieces(self, target: ConvertedTensor) -> Iterator[bytes]:
        """A tensor's content as a snapshot has it: F32, or F16 and BF16 as they are."""
        tensor = self._header.tensors[target.gguf]
        rows = tensor.shape[0]
        row_bytes = tensor.size // rows
        step = max(1, CHUNK_BYTES * rows // (math.prod(tensor.shape) * 4))
        step = max(1, step // target.head) * target.head if target.head else step
        for start in range(0, rows, step):
            count = min(step, rows - start)
            raw = self._raw(tensor, tensor.offset + start * row_bytes, count * row_bytes).reshape(count, row_bytes)
            if target.head:
                raw = raw.reshape(-1, target.head // 2, 2, row_bytes).swapaxes(1, 2).reshape(count, row_bytes)
            yield self._numbers(tensor, np.ascontiguousarray(raw)).tobytes()

    def _numbers(self, tensor: GgufTensor, raw: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        if tensor.type == BF16:
            bits = raw.view("<u2")
            if ((bits & 0x7F80) == 0x7F80).any():
                raise self._not_finite(tensor)
            return bits
        if tensor.type in (F32, F16):
            return self._finite(tensor, raw.view("<f4" if tensor.type == F32 else "<f2"))
        with np.errstate(all="ignore"):  # scales that are no numbers are found below
            return self._finite(tensor, dequantize(raw, tensor.type).astype("<f4", copy=False))

    def _finite(self, tensor: GgufTensor, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not np.isfinite(numbers).all():
            raise self._not_finite(tensor)
        return numbers

    def _not_finite(self, tensor: GgufTensor) -> InputError:
        return InputError(f"{self._header.source}: tensor {tensor.name} contains NaN or infinity", hint=HINT)

    def _raw(self, tensor: GgufTensor, offset: int, size: int) -> npt.NDArray[np.uint8]:
        self._content.seek(offset)
        content = self._content.read(size)
        if len(content) < size:
            raise InputError(f"{self._header.source} was cut off in {tensor.name} while it was read", hint=HINT)
        return np.frombuffer(content, np.uint8)


def _write_texts(header: Header, tokenizer: TokenizerFiles, config: dict[str, Any], sha256: str, folder: Path) -> None:
    content = json.dumps(tokenizer.tokenizer, ensure_ascii=False)
    check_loads(content, tokenizer, header.source)
    licence = header.metadata.get("general.license")
    known = isinstance(licence, str) and re.fullmatch(r"[\w.+ -]{1,80}", licence)
    texts = {
        "config.json": json.dumps(config, indent=2),
        "generation_config.json": json.dumps(token_ids(tokenizer), indent=2),
        "tokenizer.json": content,
        "tokenizer_config.json": json.dumps(
            {**tokenizer.config, "model_max_length": config["max_position_embeddings"]}
        ),
        "README.md": f"---\nlicense: {licence if known else ''}\n---\nMade by fledge of the GGUF file {sha256}.\n",
    }
    if tokenizer.template:
        texts["chat_template.jinja"] = tokenizer.template
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
