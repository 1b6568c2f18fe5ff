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
        """None where there is nothing to count."""
        found = list(counts)
        return cls(statistics.median(found), max(found)) if found else None


@dataclass(frozen=True)
class Topic:
    """How many questions a topic has, in all and in each split."""

    topic: str
    questions: int
    splits: dict[str, int]


@dataclass(frozen=True)
class QuestionSummary:
    """What is in a question set; `references` is how many questions have one, a word is what stands between spaces."""

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
    """Topics with most questions first; a topic or split that is not given is the empty text."""
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
