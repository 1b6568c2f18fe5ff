"""Parquet files for tests, honest ones and such that lie of their size."""

import io
from typing import Any

import pyarrow as pa
from pyarrow import parquet

FOOTER_BYTES = 8  # the footer's length and the magic bytes stand at the end


def written(columns: dict[str, Any], **options: Any) -> bytes:
    """A table as a file."""
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def claiming(content: bytes, real: int, claimed: int, count: int = -1) -> bytes:
    """The same file with another number in its footer; the first `count` of them, all by default."""
    start = len(content) - FOOTER_BYTES - int.from_bytes(content[-FOOTER_BYTES:-4], "little")
    footer, number = content[start:], _number(real)
    assert number in footer
    return content[:start] + footer.replace(number, _number(claimed, len(number)), count)


def _number(value: int, length: int = 0) -> bytes:
    """As Thrift's compact protocol writes it: 7 bits a byte, zigzag; drawn out to `length` bytes."""
    value <<= 1
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F)
    parts += [0] * (length - len(parts))
    return bytes([part | 0x80 for part in parts[:-1]] + parts[-1:])
