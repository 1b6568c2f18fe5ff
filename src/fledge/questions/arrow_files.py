"""Question sets as Parquet files, or as saved by Hugging Face `datasets`."""

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

SHARD = re.compile(r"-\d{5}-of-\d{5}\.parquet$")  # follows the split name, as on the Hub


def read_arrow(path: Path, layout: QuestionLayout) -> Reading:
    """Read a Parquet file, a folder of them, or a folder written by `Dataset.save_to_disk`.

    Raises `InputError` for any other folder, and for several splits.
    """
    try:
        tables = [_read_table(file) for file in _list_files(path)]
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} does not exist", hint="check the path") from None
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read: {reason}", hint="save it again as Parquet or JSONL") from None
    return collect(str(path), "row", _read_rows(tables), layout=layout)


def _list_files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise _several_splits(path, splits, f"give the folder of one split: {path / splits[0]}")
    if (path / "state.json").is_file():
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return [path / Path(file["filename"]).name for file in state["_data_files"]]
    found = sorted(path.glob("*.parquet"))
    splits = sorted({SHARD.sub("", file.name) for file in found if SHARD.search(file.name)})
    if len(splits) > 1:
        raise _several_splits(path, splits, f"give a file, as {found[0]}, or move one split into its own folder")
    if not found:
        raise InputError(
            f"no question files in {path}",
            hint="give a file, a folder of .parquet files, or one written by Dataset.save_to_disk",
        )
    return found


def _several_splits(path: Path, splits: Sequence[str], hint: str) -> InputError:
    return InputError(f"{path} has several splits: {', '.join(splits)}", hint=hint)


def _read_table(file: Path) -> Any:
    if file.suffix == ".parquet":
        return parquet.ParquetFile(file).read()
    with pa.OSFile(str(file)) as stream:
        return pa.ipc.open_stream(stream).read_all()


def _read_rows(tables: Sequence[Any]) -> Iterator[Row | Problem]:
    line = 0
    for table in tables:
        names = table.column_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield Problem("column", None, f"two columns are called {twice[0]!r}", "give each column a unique name")
            return
        for batch in table.to_batches(max_chunksize=10_000):
            for values in batch.to_pylist():
                line += 1
                yield Row(line, values)
