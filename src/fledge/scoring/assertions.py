"""Assertions from columns of the question set: 1 if the answer satisfies them, else 0."""

import json
from functools import cache

import regex

LONGEST_SEARCH_S = 1.0


def contains(answer: str, contains: str) -> float:
    """1 if the answer contains the text in the column `contains`, or every text of a JSON list, else 0; ignores case.
    Higher is better. Source: the question set."""
    folded = answer.casefold()
    return float(all(text.casefold() in folded for text in _texts(contains)))


def not_contains(answer: str, not_contains: str) -> float:
    """1 if the answer contains none of the texts in the column `not_contains`, else 0; as `contains`. Higher is
    better."""
    folded = answer.casefold()
    return float(not any(text.casefold() in folded for text in _texts(not_contains)))


def matches(answer: str, regex: str) -> float:
    """1 if the regular expression in the column `regex` is found in the answer, else 0. Higher is better. A search over
    a second is an error. Source: the question set; the library regex."""
    return float(_compile(regex).search(answer, timeout=LONGEST_SEARCH_S) is not None)


def json_valid(answer: str, json: str) -> float:
    """1 if the answer is JSON of the kind in the column `json` (`object`, `array`; else any), else 0.
    Higher is better. Source: RFC 8259."""
    kinds = {"object": dict, "array": list}
    return float(_is_json(answer, kinds.get(json.strip().lower(), object)))


def _is_json(text: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(text, parse_constant=_refuse), kind)
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _texts(value: str) -> list[str]:
    """Return the texts of a JSON list, or the value itself."""
    if value.lstrip().startswith("["):
        try:
            return [str(item) for item in json.loads(value)]
        except ValueError:
            pass
    return [value]


@cache
def _compile(text: str) -> "regex.Pattern[str]":
    return regex.compile(text)
