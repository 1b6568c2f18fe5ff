"""Question sets as Parquet, and as saved by Hugging Face `datasets`."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from fledge.core.errors import InputError
from fledge.questions.layout import QuestionLayout
from fledge.questions.sources import read_questions

ROWS: list[dict[str, object]] = [
    {"question": "How many eggs?", "answer": {"value": "18"}, "level": 1, "seen": None},
    {"question": "How many bolts?", "answer": {"value": "3"}, "level": None, "seen": None},
]
LAYOUT = QuestionLayout(("reference=answer.value",))


def _write_stream(path: Path, rows: list[dict[str, object]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def _save_to_disk(folder: Path) -> Path:
    """Write a set as `Dataset.save_to_disk` does, in two shards with a leftover of `map`."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-00002.arrow" for number in range(2)]
    for name, row in zip(names, ROWS, strict=True):
        _write_stream(folder / name, [row])
    _write_stream(folder / "cache-1234.arrow", ROWS)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def test_all_formats_give_the_same_set(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, row in enumerate(ROWS):
        parquet.write_table(pa.Table.from_pylist([row]), shards / f"test-{number:05}-of-00002.parquet")
    sources = [tmp_path / "a.jsonl", tmp_path / "a.parquet", shards, _save_to_disk(tmp_path / "saved")]
    sets = [read_questions(source, layout=LAYOUT) for source in sources]
    assert [item.reference for item in sets[0].questions] == ["18", "3"]
    assert [item.columns["level"] for item in sets[1].questions] == ["1", ""]
    assert len({found.digest for found in sets}) == 1


def test_several_splits_are_rejected(tmp_path: Path) -> None:
    saved = _save_to_disk(tmp_path / "saved" / "test").parent
    (saved / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    with pytest.raises(InputError, match=r"saved has several splits: test, train") as caught:
        read_questions(saved)
    assert caught.value.hint == f"give the folder of one split: {saved / 'test'}"
    for split in ("test", "train"):
        parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(InputError, match="has several splits: test, train") as caught:
        read_questions(tmp_path)
    assert f"give a file, as {tmp_path / 'test-00000-of-00001.parquet'}" in caught.value.hint


def test_invalid_paths_and_files_are_rejected(tmp_path: Path) -> None:
    for name, said in (("nowhere.parquet", "does not exist"), ("empty", "no question files in")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=said):
            read_questions(tmp_path / name)
    for name in ("text.parquet", "text.arrow"):
        (tmp_path / name).write_text("question")
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            read_questions(tmp_path / name)
    (_save_to_disk(tmp_path / "damaged") / "state.json").write_text("{}")
    with pytest.raises(InputError, match="damaged: cannot be read"):
        read_questions(tmp_path / "damaged")
    parquet.write_table(pa.table({"question": [b"a?"]}), tmp_path / "bytes.parquet")
    with pytest.raises(InputError, match="row 1: 'question' is bytes, not text"):
        read_questions(tmp_path / "bytes.parquet")
