"""Questions, question sets, and the default set."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fledge.core.texts import counted
from fledge.models.embedded.corpus import load_corpus

KNOWN = ("id", "question", "reference", "topic", "split")


@dataclass(frozen=True)
class Question:
    """One question; `columns` are extra columns that a prompt can use as variables."""

    id: str
    question: str
    reference: str | None = None
    topic: str = ""
    split: str = ""
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """Variables for a prompt template."""
        return {**self.columns, "question": self.question}

    def as_row(self) -> dict[str, str]:
        """Return the columns as written to a file, without empty known columns."""
        known = {"id": self.id, "question": self.question, "reference": self.reference}
        known |= {"topic": self.topic, "split": self.split}
        return {**{name: text for name, text in known.items() if text}, **self.columns}


def non_empty(columns: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the non-empty columns, sorted by name."""
    return sorted((name, text) for name, text in columns.items() if text)


@dataclass(frozen=True)
class QuestionSet:
    """Questions in order, and their source."""

    source: str
    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)

    def __repr__(self) -> str:
        return f"<QuestionSet {self.source!r}: {counted(len(self), 'question')}>"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all columns of all questions in order; empty columns are ignored."""
        return self._digest(non_empty)

    def has_digest(self, digest: str) -> bool:
        """Return whether `digest` matches, also in the older form that includes empty columns."""
        return digest in (self.digest, self._digest(lambda columns: sorted(columns.items())))

    def _digest(self, counted: Callable[[Mapping[str, str]], list[tuple[str, str]]]) -> str:
        rows = [
            (item.id, item.question, item.reference or None, item.topic, item.split, counted(item.columns))
            for item in self.questions
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def only(self, split: str = "", *, topic: str = "") -> "QuestionSet":
        """Return the questions of one split, one topic, or both."""
        return self._filter(lambda item: item.split == (split or item.split) and item.topic == (topic or item.topic))

    def sample(self, size: int, seed: int = 0) -> "QuestionSet":
        """Draw `size` questions evenly over topics; all of them if there are fewer."""
        shuffled = list(self.questions)
        random.Random(seed).shuffle(shuffled)
        rank: dict[str, int] = {}
        keyed = []
        for item in shuffled:
            rank[item.topic] = rank.get(item.topic, 0) + 1
            keyed.append((rank[item.topic], item))
        chosen = {item.id for _, item in sorted(keyed, key=lambda pair: pair[0])[:size]}
        return self._filter(lambda item: item.id in chosen)

    def _filter(self, keep: Callable[[Question], bool]) -> "QuestionSet":
        return QuestionSet(self.source, tuple(filter(keep, self.questions)))


def default_questions() -> QuestionSet:
    """Return the embedded model's questions: splits `train`, its training data, and `test`, held out."""
    rows = []
    for entry in load_corpus():
        for split, texts in (("train", entry.phrasings), ("test", entry.held_out)):
            for number, text in enumerate(texts, 1):
                rows.append(Question(f"{entry.id}-{split}-{number}", text, entry.answer, entry.topic, split))
    return QuestionSet("default", tuple(rows))
