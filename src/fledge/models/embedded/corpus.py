"""The questions and answers that the embedded model was trained on (`corpus.jsonl`, one entry a line)."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class CorpusEntry:
    """One fact: `phrasings` were trained on, `held_out` were not; all have the same `answer`."""

    id: str
    topic: str
    answer: str
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]


@cache
def load_corpus() -> tuple[CorpusEntry, ...]:
    """All entries, in the order of the file."""
    text = files(__package__).joinpath("corpus.jsonl").read_text(encoding="utf-8")
    rows = (json.loads(line) for line in text.splitlines())
    return tuple(
        CorpusEntry(row["id"], row["topic"], row["answer"], tuple(row["phrasings"]), tuple(row["held_out"]))
        for row in rows
    )
