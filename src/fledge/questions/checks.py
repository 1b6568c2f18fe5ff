"""What is odd about questions that can be read: warnings, none of which stops anything."""

import itertools
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA

from fledge.core.errors import InputError
from fledge.questions.layout import column_flags
from fledge.questions.question_set import Question, QuestionSet
from fledge.questions.rows import Problem, Reading, content_of, derived_id, lookalike

LONG_CHARACTERS = 4000  # about 1,000 tokens of English, all that a small model takes
UNEVEN = 10  # times as many questions in the largest topic as in the median one
NEIGHBOURS = 3
SHORTEST_WORD = 4

# Between words, in many scripts; signs that tell one sum or one programming language from another are not among them.
_BETWEEN_WORDS = re.compile(
    r"""[\s.,;:!?"'`()\[\]{}\u00a1\u00ab\u00b7\u00bb\u00bf\u060c\u061b\u061f\u0964"""
    r"""\u2018-\u201f\u2026\u2039\u203a\u3001\u3002\u3008-\u300f\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f]+"""
)


def warnings(reading: Reading) -> list[Problem]:
    """All that looks wrong, rows first; in time that grows with n log n."""
    found = itertools.chain(
        _odd_rows(reading), _alike(reading), _one_letter_apart(reading), _columns(reading), _topics(reading)
    )
    return sorted(found, key=lambda problem: (problem.line is None, problem.line or 0))


def clean(reading: Reading) -> QuestionSet:
    """The questions without those that repeat an earlier one in all columns but the id.

    Raises `InputError` if there are errors of another kind.
    """
    worse = [error for error in reading.errors if error.kind != "duplicate"]
    if worse:
        raise InputError(
            f"{reading.where(worse[0])}: {worse[0].message}; only rows that are there twice can be left out",
            hint=worse[0].hint,
        )
    first: dict[tuple[Any, ...], Question] = {}
    for item in reading.questions:
        first.setdefault(content_of(item), item)
    return QuestionSet(reading.source, tuple(first.values()))


def _odd_rows(reading: Reading) -> Iterator[Problem]:
    for line, item in zip(reading.lines, reading.questions, strict=True):
        reference = item.reference or ""
        if reference.strip().casefold() == item.question.strip().casefold():
            what = "the reference is the question itself"
            yield Problem("reference", line, what, "write the answer, or leave it out")
        if len(item.question) > LONG_CHARACTERS:
            what = f"the question has {len(item.question):,} characters, which small models cannot take"
            yield Problem("long", line, what, "shorten it, or see that the model's context is large enough")
        if "\ufffd" in item.question or "\ufffd" in reference:
            what = "a replacement character, for a letter that was lost when the text was saved"
            yield Problem("characters", line, what, "write the letter, and save as UTF-8")


def _alike(reading: Reading) -> Iterator[Problem]:
    """Questions of the same words: the same split, or, worse, two splits."""
    groups: dict[str, list[int]] = {}
    for place, item in enumerate(reading.questions):
        groups.setdefault(_words(item.question), []).append(place)
    groups.pop("", None)
    for places in groups.values():
        first_of: dict[str, int] = {}
        for place in places:
            split = reading.questions[place].split
            others = [first for name, first in first_of.items() if split and name and name != split]
            if others:
                yield _leak(reading, place, min(others), "the same question as on")
            elif first_of:
                yield _repeated(reading, place, places[0])
            first_of.setdefault(split, place)


def _leak(reading: Reading, place: int, other: int, how: str) -> Problem:
    where, split = f"{reading.unit} {reading.lines[other]}", reading.questions[other].split
    what = f"{how} {where}, which is in the split {split!r}"
    return Problem("leak", reading.lines[place], what, "keep it in one split: what was trained on is no test")


def _repeated(reading: Reading, place: int, first: int) -> Problem:
    line, where = reading.lines[place], f"{reading.unit} {reading.lines[first]}"
    one, other = reading.questions[place], reading.questions[first]
    if content_of(one) == content_of(other):
        return Problem("duplicate", line, f"the same row as on {where}", "write a copy without it with --fix OUT")
    if one.question == other.question:
        what = f"the same question as on {where}, with other columns"
        return Problem("repeated", line, what, "keep one of the two, unless both are meant")
    return Problem("near-duplicate", line, f"the same words as on {where}", "keep one of the two")


def _one_letter_apart(reading: Reading) -> Iterator[Problem]:
    """Of questions that stand near each other in order, read forwards or backwards."""
    places: dict[str, int] = {}
    for place, item in enumerate(reading.questions):
        places.setdefault(_words(item.question), place)
    places.pop("", None)
    pairs = set()
    for order in (sorted(places), sorted(places, key=lambda text: text[::-1])):
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            distances = process.cpdist(order[:-step], order[step:], scorer=OSA.distance, score_cutoff=1)
            pairs |= {(order[index], order[index + step]) for index in np.flatnonzero(distances == 1)}
    for one, other in pairs:
        if _is_slip(one, other):
            first, place = sorted((places[one], places[other]))
            splits = {reading.questions[first].split, reading.questions[place].split} - {""}
            if len(splits) > 1:
                yield _leak(reading, place, first, "one letter apart from that on")
            else:
                what = f"one letter apart from that on {reading.unit} {reading.lines[first]}"
                yield Problem("near-duplicate", reading.lines[place], what, "keep one, if they mean the same")


def _is_slip(one: str, other: str) -> bool:
    """Whether what differs is a space, or a longer word of letters that have a case.

    `top-k` and `top-p`, 12 and 13, or one sign in a Chinese sentence are meant to be different.
    """
    words, others = one.split(), other.split()
    if len(words) != len(others):
        return _is_cased("".join(words + others))
    pairs = [(a, b) for a, b in zip(words, others, strict=True) if a != b]
    return all(_is_cased(a + b) and min(len(a), len(b)) >= SHORTEST_WORD for a, b in pairs)


def _is_cased(text: str) -> bool:
    return all(letter.upper() != letter for letter in text)


def _words(text: str) -> str:
    return _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFC", text.casefold())).strip()


def _columns(reading: Reading) -> Iterator[Problem]:
    """Known columns that are missing, in some rows or under another name; values that are spelled in two ways."""
    questions = reading.questions
    further = dict.fromkeys(name for item in questions for name in item.columns)
    for name in ("reference", "topic", "split"):
        values = [getattr(item, name) for item in questions]
        empty = [line for line, value in zip(reading.lines, values, strict=True) if not value]
        if 0 < len(empty) < len(values):
            what = f"{len(empty):,} of {len(values):,} questions have no {name}, the first on {reading.unit} {empty[0]}"
            yield Problem("missing", None, what, f"fill in the column {name!r}, or leave the rows out")
        if len(empty) == len(values):
            yield from _otherwise_called(name, further, reading.layout.sources)
    if all(item.id == derived_id(item.question) for item in questions):
        yield from _otherwise_called("id", further, reading.layout.sources)
    for name in ("topic", "split"):
        yield from _spelled_in_two_ways(name, [getattr(item, name) for item in questions])


def _otherwise_called(name: str, columns: Iterable[str], sources: Mapping[str, str]) -> Iterator[Problem]:
    meant = lookalike(name, columns)
    if meant:
        hint = f"{column_flags({**sources, name: meant})}, if that is what it is"
        yield Problem("column", None, f"no column {name!r}, but one that is called {meant!r}", hint)


def _spelled_in_two_ways(name: str, values: Sequence[str]) -> Iterator[Problem]:
    spellings: dict[str, str] = {}
    for value in dict.fromkeys(values):
        first = spellings.setdefault(" ".join(value.split()).casefold(), value)
        if first != value:
            what = f"the {name}s {first!r} and {value!r} differ in case or spaces only"
            yield Problem("spelling", None, what, "spell them alike")


def _topics(reading: Reading) -> Iterator[Problem]:
    counts = Counter(item.topic for item in reading.questions if item.topic)
    if len(counts) == 1 and len(reading.questions) > 1:
        what = f"{next(iter(counts))!r} is the only topic"
        yield Problem(
            "topics", None, what, "name several, or leave the column out: questions of a topic count as alike"
        )
    if len(counts) > 1:
        (largest, most), median = counts.most_common(1)[0], statistics.median_low(counts.values())
        if most > UNEVEN * median:
            what = f"the topic {largest!r} has {most:,} questions, the median one {median:,}"
            yield Problem("topics", None, what, "fledge questions sample draws evenly over topics")
