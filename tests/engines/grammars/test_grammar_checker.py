"""Grammars that are broken or take too long are refused, and the next ones are checked as before."""

import selectors
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fledge.core.errors import InputError, StructureError
from fledge.engines.grammar_checker import GrammarChecker
from fledge.models.snapshot import Snapshot

GOOD = 'root ::= "a" | "b"'
BOMB = "root ::= " + "(" * 6 + "[a-z]" + "{1,60})" * 6
BROKEN = ["root := a", 'root ::= "a', "root ::= missing", 'start ::= "a"', "", "root ::= (", 'root ::= "a"{3,1}']


@pytest.fixture(scope="module")
def checker(model: Snapshot, exported: Path) -> Iterator[GrammarChecker]:
    with closing(GrammarChecker(exported, model.vocabulary)) as started:
        yield started


def check(checker: GrammarChecker, grammars: list[str]) -> list[InputError | None]:
    """Send all grammars at once and return their results."""
    found: list[InputError | None] = []
    for grammar in grammars:
        checker.check(grammar, found.append)
    while len(found) < len(grammars):
        with selectors.DefaultSelector() as selector:
            selector.register(checker.line, selectors.EVENT_READ | (selectors.EVENT_WRITE if checker.is_full else 0))
            selector.select()
        checker.exchange()
    return found


def test_grammar_that_compiles_is_accepted(checker: GrammarChecker) -> None:
    assert check(checker, [GOOD, GOOD]) == [None, None]


@pytest.mark.parametrize("grammar", BROKEN)
def test_broken_grammar_is_refused_with_the_reason(checker: GrammarChecker, grammar: str) -> None:
    (refused,) = check(checker, [grammar])
    assert isinstance(refused, StructureError)
    assert "invalid grammar: " in refused.message
    assert ".cc" not in refused.message


def test_grammar_that_takes_too_long_is_refused_and_the_next_one_is_not(checker: GrammarChecker) -> None:
    before, bomb, after = check(checker, [GOOD + " ", BOMB, GOOD + "  "])
    assert isinstance(bomb, StructureError)
    assert "to compile" in bomb.message
    assert before is after is None


def test_result_is_remembered(checker: GrammarChecker) -> None:
    (first,) = check(checker, [BOMB + " "])
    found: list[InputError | None] = []
    checker.check(BOMB + " ", found.append)
    assert found == [first]
