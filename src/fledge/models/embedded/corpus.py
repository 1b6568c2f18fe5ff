"""The training corpus of the embedded model (`corpus.jsonl`, one entry per line)."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class CorpusEntry:
    """One fact with its `answer`; `phrasings` of the question are for training, `held_out` ones for evaluation."""

    id: str
    topic: str
    answer: str
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]


@cache
def load_corpus() -> tuple[CorpusEntry, ...]:
    """Return all entries in file order."""
    text = files(__package__).joinpath("corpus.jsonl").read_text(encoding="utf-8")
    rows = (json.loads(line) for line in text.splitlines())
    return tuple(
        CorpusEntry(row["id"], row["topic"], row["answer"], tuple(row["phrasings"]), tuple(row["held_out"]))
        for row in rows
    )
