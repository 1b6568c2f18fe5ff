"""Texts drawn from the grammar of a regular expression match it, and choices are met exactly."""

import re

import pytest

from fledge.core.errors import StructureError
from fledge.engines.grammars.regex import MAX_PATTERN
from fledge.engines.grammars.texts import MAX_CHOICES, choice_grammar, own_grammar, regex_grammar
from tests.engines.grammars.sampler import GrammarSampler

DRAWS = 6
PATTERNS = [
    r"(yes|no)",
    r"[0-9]{3}-[0-9]{4}",
    r"^\d{1,3}(\.\d{1,3}){3}$",
    r"[^a-z\s]{2,5}",
    r"\w+@\w+\.(com|org)",
    r"(?:ab|ac)?x{2,}?",
    r"[\]\[\\^-]{3}",
    r"größe=[ä-ü]{2}",
    r"a.c\n?",
    r"(?P<year>20\d\d)",
    r'"[^"]{0,5}"',
]
REFUSED = {
    "(a": "invalid pattern",
    r"(a)\1": "a reference to a group",
    r"a(?=b)": "look-ahead",
    r"(?i)a": "flags",
    r"a\b": "an anchor within",
    r"(?>a)b": "an atomic group",
    r"a*+b": "a possessive repetition",
    "a" * (MAX_PATTERN + 1): "at most 2000",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_drawn_text_matches_the_whole_pattern(pattern: str, sampler: GrammarSampler) -> None:
    grammar = regex_grammar(pattern)
    drawn = [text for seed in range(DRAWS) if (text := sampler.draw(grammar, seed)) is not None]
    assert all(re.fullmatch(pattern, text) for text in drawn)
    assert drawn


@pytest.mark.parametrize("pattern", REFUSED)
def test_pattern_that_no_grammar_can_enforce_is_refused(pattern: str) -> None:
    with pytest.raises(StructureError) as refused:
        regex_grammar(pattern)
    assert REFUSED[pattern] in refused.value.message


def test_drawn_text_is_one_of_the_choices(sampler: GrammarSampler) -> None:
    choices = ["yes", 'no "thanks"', "naïve\n", "a\\b", "[x]"]
    assert {sampler.draw(choice_grammar(choices), seed) for seed in range(4 * DRAWS)} <= set(choices)


@pytest.mark.parametrize("choices", [[], [""], ["a"] * (MAX_CHOICES + 1)])
def test_choices_are_limited(choices: list[str]) -> None:
    with pytest.raises(StructureError, match="choices must be 1 to 1000 texts"):
        choice_grammar(choices)


def test_grammar_of_the_user_is_limited_in_size() -> None:
    assert own_grammar('root ::= "a"') == 'root ::= "a"'
    with pytest.raises(StructureError, match="at most 200000"):
        own_grammar("a" * 200_001)
