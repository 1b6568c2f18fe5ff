"""Parquet tables, read in a subprocess with limits: a file of 10 KB can expand to gigabytes, whatever its metadata
say."""

import asyncio
import contextlib
import io
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fledge.core.errors import InputError
from fledge.core.keys import VARIABLE
from fledge.core.processes import module_command
from fledge.serving.admission import BusyError

TIMEOUT_S = 20.0
MAX_MEMORY_BYTES = 512 << 20  # in addition to the process's memory before it reads
MAX_TEXT_BYTES = 12_800_000
MAX_CONCURRENCY, MAX_WAITING = 2, 16
RETRY_S = 5

Cell = str | int | float | bool | None

_slots = asyncio.Semaphore(MAX_CONCURRENCY)
_places = asyncio.Semaphore(MAX_CONCURRENCY + MAX_WAITING)
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class _ReadResult(msgspec.Struct):
    rows: list[dict[str, Cell]] = []
    error: str = ""


async def read_parquet(body: bytes, names: Sequence[str], max_rows: int) -> list[dict[str, Cell]]:
    """Return the columns `names` of a table as rows, with None for missing values.

    Raises `InputError` if the file is invalid, lacks a column or is too large, `BusyError` if too many files wait.
    """
    if _places.locked():
        raise BusyError("too many Parquet files are waiting to be read", RETRY_S)
    environment = {**{name: value for name, value in os.environ.items() if name != VARIABLE}, **_ENVIRONMENT}
    async with _places, _slots:
        process = await asyncio.create_subprocess_exec(
            *module_command("fledge.serving.parquet"),
            str(max_rows),
            *names,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                output, _ = await process.communicate(body)
        except TimeoutError:
            raise InputError(f"the Parquet file took more than {TIMEOUT_S:g} s to read") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if not output:
        raise InputError("the body is not a readable Parquet file")
    found = msgspec.msgpack.decode(output, type=_ReadResult)
    if found.error:
        raise InputError(found.error)
    return found.rows


def _read_rows(body: bytes, names: Sequence[str], max_rows: int) -> list[dict[str, Cell]]:
    import pyarrow as pa
    from pyarrow import parquet

    _limit_memory()
    try:
        file = parquet.ParquetFile(io.BytesIO(body))
        if file.metadata.num_rows > max_rows:
            raise InputError(f"{file.metadata.num_rows} rows; at most {max_rows}")
        for name in names:
            if (count := file.schema_arrow.names.count(name)) != 1:
                raise InputError(f"the table has {'two columns' if count else 'no column'} {name!r}")
        table = file.read(columns=list(names), use_threads=False)
        if table.nbytes > MAX_TEXT_BYTES or table.num_rows > max_rows:
            raise InputError("the table is too large")
        columns = [column.to_pylist() for column in table.select(list(names)).columns]
    except InputError:
        raise
    except MemoryError:
        raise InputError("the table is too large") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"the body is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    _check_types(dict(zip(names, columns, strict=True)))
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _check_types(columns: Mapping[str, Sequence[Any]]) -> None:
    for name, column in columns.items():
        for number, value in enumerate(column):
            if value is not None and not isinstance(value, (str, int, float)):
                kind = type(value).__name__
                raise InputError(f"row {number}: column {name!r} must be a text or a number, not {kind}")


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):  # no limit on systems without /proc
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MAX_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (int(TIMEOUT_S), int(TIMEOUT_S)))


def _main(max_rows: str, *names: str) -> None:
    try:
        found = _ReadResult(_read_rows(sys.stdin.buffer.read(), names, int(max_rows)))
    except InputError as error:
        found = _ReadResult(error=error.message)
    sys.stdout.buffer.write(msgspec.msgpack.encode(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
