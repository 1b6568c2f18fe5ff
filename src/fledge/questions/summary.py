"""Statistics of a question set."""

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fledge.questions.question_set import QuestionSet


@dataclass(frozen=True)
class Length:
    """Median and maximum of a count."""

    median: float
    max: int

    @classmethod
    def of(cls, counts: Iterable[int]) -> "Length | None":
        """Return None without counts."""
        found = list(counts)
        return cls(statistics.median(found), max(found)) if found else None


@dataclass(frozen=True)
class Topic:
    """Number of questions of a topic, in total and by split."""

    topic: str
    questions: int
    splits: dict[str, int]


@dataclass(frozen=True)
class QuestionSummary:
    """Summary of a question set; `references` counts questions with a reference; words are separated by white space."""

    source: str
    digest: str
    questions: int
    references: int
    columns: tuple[str, ...]
    splits: dict[str, int]
    topics: tuple[Topic, ...]
    question_words: Length | None
    question_characters: Length | None
    reference_words: Length | None
    reference_characters: Length | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarize(questions: QuestionSet) -> QuestionSummary:
    """Summarize a question set, largest topics first; a missing topic or split is the empty string."""
    items = questions.questions
    asked = [item.question for item in items]
    references = [item.reference for item in items if item.reference]
    splits: dict[str, Counter[str]] = {}
    for item in items:
        splits.setdefault(item.topic, Counter())[item.split] += 1
    topics = (Topic(name, counts.total(), dict(sorted(counts.items()))) for name, counts in splits.items())
    return QuestionSummary(
        questions.source,
        questions.digest,
        len(items),
        len(references),
        tuple(dict.fromkeys(name for item in items for name in item.columns)),
        dict(sorted(Counter(item.split for item in items).items())),
        tuple(sorted(topics, key=lambda topic: (-topic.questions, topic.topic))),
        Length.of(len(text.split()) for text in asked),
        Length.of(map(len, asked)),
        Length.of(len(text.split()) for text in references),
        Length.of(map(len, references)),
    )
