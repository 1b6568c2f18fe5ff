"""Parquet files for tests, also with forged sizes."""

import io
from typing import Any

import pyarrow as pa
from pyarrow import parquet

FOOTER_BYTES = 8  # the footer's length and the magic bytes at the end


def write_parquet(columns: dict[str, Any], **options: Any) -> bytes:
    """Return a table as a Parquet file."""
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def forge_footer(content: bytes, real: int, claimed: int, count: int = -1) -> bytes:
    """Return the file with a number in its footer replaced: the first `count` occurrences, by default all."""
    start = len(content) - FOOTER_BYTES - int.from_bytes(content[-FOOTER_BYTES:-4], "little")
    footer, number = content[start:], _number(real)
    assert number in footer
    return content[:start] + footer.replace(number, _number(claimed, len(number)), count)


def _number(value: int, length: int = 0) -> bytes:
    """Encode a number in Thrift's compact protocol (7 bits a byte, zigzag), padded to `length` bytes."""
    value <<= 1
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F)
    parts += [0] * (length - len(parts))
    return bytes([part | 0x80 for part in parts[:-1]] + parts[-1:])
