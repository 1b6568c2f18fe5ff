"""Checks of a readable question set, reported as warnings."""

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
from fledge.questions.rows import Problem, Reading, content_of, derive_id, find_lookalike

LONG_CHARACTERS = 4000  # about 1,000 English tokens, the context of a small model
UNEVEN = 10  # times as many questions in the largest topic as in the median one
NEIGHBOURS = 3
SHORTEST_WORD = 4

# Word separators in many scripts, without signs that carry meaning in formulas and code.
_BETWEEN_WORDS = re.compile(
    r"""[\s.,;:!?"'`()\[\]{}\u00a1\u00ab\u00b7\u00bb\u00bf\u060c\u061b\u061f\u0964"""
    r"""\u2018-\u201f\u2026\u2039\u203a\u3001\u3002\u3008-\u300f\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f]+"""
)


def warnings(reading: Reading) -> list[Problem]:
    """Return all warnings, rows first, in O(n log n)."""
    found = itertools.chain(
        _check_rows(reading),
        _find_repeated(reading),
        _find_misspelled(reading),
        _check_columns(reading),
        _check_topics(reading),
    )
    return sorted(found, key=lambda problem: (problem.line is None, problem.line or 0))


def clean(reading: Reading) -> QuestionSet:
    """Remove questions that repeat an earlier one in all columns but the id.

    Raises `InputError` for any other kind of error.
    """
    worse = [error for error in reading.errors if error.kind != "duplicate"]
    if worse:
        raise InputError(
            f"{reading.where(worse[0])}: {worse[0].message}; only duplicate rows can be removed",
            hint=worse[0].hint,
        )
    first: dict[tuple[Any, ...], Question] = {}
    for item in reading.questions:
        first.setdefault(content_of(item), item)
    return QuestionSet(reading.source, tuple(first.values()))


def _check_rows(reading: Reading) -> Iterator[Problem]:
    for line, item in zip(reading.lines, reading.questions, strict=True):
        reference = item.reference or ""
        if reference.strip().casefold() == item.question.strip().casefold():
            what = "the reference is the question itself"
            yield Problem("reference", line, what, "write the answer, or leave it out")
        if len(item.question) > LONG_CHARACTERS:
            what = f"the question has {len(item.question):,} characters, too long for small models"
            yield Problem("long", line, what, "shorten it, or check the model's context length")
        if "\ufffd" in item.question or "\ufffd" in reference:
            what = "a replacement character, where a letter was lost on saving"
            yield Problem("characters", line, what, "restore the letter, and save as UTF-8")


def _find_repeated(reading: Reading) -> Iterator[Problem]:
    """Find questions with the same words, in one split or across splits."""
    groups: dict[str, list[int]] = {}
    for place, item in enumerate(reading.questions):
        groups.setdefault(_normalize_words(item.question), []).append(place)
    groups.pop("", None)
    for places in groups.values():
        first_of: dict[str, int] = {}
        for place in places:
            split = reading.questions[place].split
            others = [first for name, first in first_of.items() if split and name and name != split]
            if others:
                yield _describe_leak(reading, place, min(others), "the same question as on")
            elif first_of:
                yield _describe_repeated(reading, place, places[0])
            first_of.setdefault(split, place)


def _describe_leak(reading: Reading, place: int, other: int, how: str) -> Problem:
    where, split = f"{reading.unit} {reading.lines[other]}", reading.questions[other].split
    what = f"{how} {where}, which is in the split {split!r}"
    return Problem("leak", reading.lines[place], what, "keep it in one split: training data cannot be used for testing")


def _describe_repeated(reading: Reading, place: int, first: int) -> Problem:
    line, where = reading.lines[place], f"{reading.unit} {reading.lines[first]}"
    one, other = reading.questions[place], reading.questions[first]
    if content_of(one) == content_of(other):
        return Problem("duplicate", line, f"the same row as on {where}", "write a copy without it with --fix OUT")
    if one.question == other.question:
        what = f"the same question as on {where}, with other columns"
        return Problem("repeated", line, what, "keep one of the two, unless both are intended")
    return Problem("near-duplicate", line, f"the same words as on {where}", "keep one of the two")


def _find_misspelled(reading: Reading) -> Iterator[Problem]:
    """Find near-duplicates among neighbours in forward and backward alphabetical order."""
    places: dict[str, int] = {}
    for place, item in enumerate(reading.questions):
        places.setdefault(_normalize_words(item.question), place)
    places.pop("", None)
    pairs = set()
    for order in (sorted(places), sorted(places, key=lambda text: text[::-1])):
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            distances = process.cpdist(order[:-step], order[step:], scorer=OSA.distance, score_cutoff=1)
            pairs |= {(order[index], order[index + step]) for index in np.flatnonzero(distances == 1)}
    for one, other in pairs:
        if _is_typo(one, other):
            first, place = sorted((places[one], places[other]))
            splits = {reading.questions[first].split, reading.questions[place].split} - {""}
            if len(splits) > 1:
                yield _describe_leak(reading, place, first, "one letter apart from that on")
            else:
                what = f"one letter apart from that on {reading.unit} {reading.lines[first]}"
                yield Problem("near-duplicate", reading.lines[place], what, "keep one, if they mean the same")


def _is_typo(one: str, other: str) -> bool:
    """Return whether the texts differ in a space, or in a longer word of a script with case.

    Short words, numbers and scripts without case differ on purpose, as `top-k` and `top-p`, or 12 and 13.
    """
    words, others = one.split(), other.split()
    if len(words) != len(others):
        return _is_cased("".join(words + others))
    pairs = [(a, b) for a, b in zip(words, others, strict=True) if a != b]
    return all(_is_cased(a + b) and min(len(a), len(b)) >= SHORTEST_WORD for a, b in pairs)


def _is_cased(text: str) -> bool:
    return all(letter.upper() != letter for letter in text)


def _normalize_words(text: str) -> str:
    return _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFC", text.casefold())).strip()


def _check_columns(reading: Reading) -> Iterator[Problem]:
    """Find known columns that are missing or have another name, and values with two spellings."""
    questions = reading.questions
    further = dict.fromkeys(name for item in questions for name in item.columns)
    for name in ("reference", "topic", "split"):
        values = [getattr(item, name) for item in questions]
        empty = [line for line, value in zip(reading.lines, values, strict=True) if not value]
        if 0 < len(empty) < len(values):
            what = f"{len(empty):,} of {len(values):,} questions have no {name}, the first on {reading.unit} {empty[0]}"
            yield Problem("missing", None, what, f"fill in the column {name!r}, or leave the rows out")
        if len(empty) == len(values):
            yield from _check_other_names(name, further, reading.layout.sources)
    if all(item.id == derive_id(item.question) for item in questions):
        yield from _check_other_names("id", further, reading.layout.sources)
    for name in ("topic", "split"):
        yield from _check_spelling(name, [getattr(item, name) for item in questions])


def _check_other_names(name: str, columns: Iterable[str], sources: Mapping[str, str]) -> Iterator[Problem]:
    meant = find_lookalike(name, columns)
    if meant:
        hint = f"if it is the {name}: {column_flags({**sources, name: meant})}"
        yield Problem("column", None, f"no column {name!r}, but one called {meant!r}", hint)


def _check_spelling(name: str, values: Sequence[str]) -> Iterator[Problem]:
    spellings: dict[str, str] = {}
    for value in dict.fromkeys(values):
        first = spellings.setdefault(" ".join(value.split()).casefold(), value)
        if first != value:
            what = f"the {name}s {first!r} and {value!r} differ in case or spaces only"
            yield Problem("spelling", None, what, "use one spelling")


def _check_topics(reading: Reading) -> Iterator[Problem]:
    counts = Counter(item.topic for item in reading.questions if item.topic)
    if len(counts) == 1 and len(reading.questions) > 1:
        what = f"{next(iter(counts))!r} is the only topic"
        yield Problem(
            "topics", None, what, "give several, or remove the column: questions of one topic are treated as related"
        )
    if len(counts) > 1:
        (largest, most), median = counts.most_common(1)[0], statistics.median_low(counts.values())
        if most > UNEVEN * median:
            what = f"the topic {largest!r} has {most:,} questions, the median one {median:,}"
            yield Problem("topics", None, what, "fledge questions sample draws evenly over topics")
