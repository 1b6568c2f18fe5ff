"""Question sets as Parquet, and as Hugging Face's `datasets` save them."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from fledge.core.errors import InputError
from fledge.questions.layout import QuestionLayout
from fledge.questions.rows import Problem, Reading, Row, collect

SHARD = re.compile(r"-\d{5}-of-\d{5}\.parquet$")  # behind the name of a split, as on the Hub


def read_arrow(path: Path, layout: QuestionLayout) -> Reading:
    """The rows of a Parquet file, of a folder of them, or of a folder that `Dataset.save_to_disk` wrote.

    Raises `InputError` for a folder of something else, and for several splits.
    """
    try:
        tables = [_table(file) for file in _files(path)]
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path}: there is no such file", hint="check the path") from None
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read: {reason}", hint="write it again, as Parquet or as JSONL") from None
    return collect(str(path), "row", _rows(tables), layout=layout)


def _files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise _several(path, splits, f"name the folder of one: {path / splits[0]}")
    if (path / "state.json").is_file():
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return [path / Path(file["filename"]).name for file in state["_data_files"]]
    found = sorted(path.glob("*.parquet"))
    splits = sorted({SHARD.sub("", file.name) for file in found if SHARD.search(file.name)})
    if len(splits) > 1:
        raise _several(path, splits, f"name a file, as {found[0]}, or move one split into a folder of its own")
    if not found:
        raise InputError(
            f"no question files in {path}",
            hint="name a file, a folder of .parquet files, or one that Dataset.save_to_disk wrote",
        )
    return found


def _several(path: Path, splits: Sequence[str], hint: str) -> InputError:
    return InputError(f"{path} has several splits: {', '.join(splits)}", hint=hint)


def _table(file: Path) -> Any:
    if file.suffix == ".parquet":
        return parquet.ParquetFile(file).read()
    with pa.OSFile(str(file)) as stream:
        return pa.ipc.open_stream(stream).read_all()


def _rows(tables: Sequence[Any]) -> Iterator[Row | Problem]:
    line = 0
    for table in tables:
        names = table.column_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield Problem("column", None, f"two columns are called {twice[0]!r}", "give each column a name of its own")
            return
        for batch in table.to_batches(max_chunksize=10_000):
            for values in batch.to_pylist():
                line += 1
                yield Row(line, values)
