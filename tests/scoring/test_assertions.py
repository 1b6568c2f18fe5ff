import time

import pytest

from fledge.scoring.assertions import contains, json_valid, matches, not_contains


def test_contains() -> None:
    assert contains("It is Paris.", "paris") == 1
    assert contains("It is Rome.", "paris") == 0
    assert contains("Paris and Rome", '["paris", "ROME"]') == 1
    assert contains("Paris alone", '["paris", "ROME"]') == 0
    assert contains("a [list", "[list") == 1  # invalid JSON is used as text
    assert contains("STRASSE", "straße") == 1


def test_not_contains() -> None:
    assert not_contains("It is Paris.", "Rome") == 1
    assert not_contains("It is Paris.", '["Rome", "paris"]') == 0


def test_matches() -> None:
    assert matches("It was in 1999.", r"\b\d{4}\b") == 1
    assert matches("It was then.", r"\b\d{4}\b") == 0


def test_invalid_and_slow_patterns_are_errors() -> None:
    with pytest.raises(Exception, match="missing"):
        matches("x", "(")
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        matches("a" * 60 + "!", "(a|aa)+$")
    assert time.monotonic() - started < 60


def test_json_valid() -> None:
    assert json_valid('{"a": [1, 2]}', "object") == 1
    assert json_valid("[1, 2]", "array") == 1
    assert json_valid("[1, 2]", "object") == 0
    assert json_valid("17", "any") == 1
    assert json_valid('{"a": ', "any") == 0
    assert json_valid('{"a": NaN}', "any") == json_valid("-Infinity", "any") == 0
    assert json_valid("[" * 100_000, "any") == 0
