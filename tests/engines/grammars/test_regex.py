"""Texts drawn from the grammar of a regular expression match it, and choices are met exactly."""

import random
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
ATOMS = ["[0-9]", "[1-9]", r"\.", "0", "[0-9]?", "(ab|a)"]
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


def test_alternatives_that_start_alike_are_kept_apart(sampler: GrammarSampler) -> None:
    """xgrammar takes "1607" for the first pattern if it is written as it stands."""
    draw = random.Random(2)
    patterns = [r"[1-9][0-9]{5}|[0-9]\.[0-9]|[1-9][0-9]{2}\.[0-9]"]
    for _ in range(60):
        bodies = ["".join(draw.choice(ATOMS) for _ in range(draw.randint(1, 6))) for _ in range(draw.randint(2, 5))]
        patterns.append("|".join(bodies))
    for pattern in patterns:
        drawn = [sampler.draw(regex_grammar(pattern), seed) for seed in range(DRAWS)]
        assert [text for text in drawn if text is not None and not re.fullmatch(pattern, text)] == [], pattern


@pytest.mark.parametrize("pattern", REFUSED)
def test_pattern_that_no_grammar_can_enforce_is_refused(pattern: str) -> None:
    with pytest.raises(StructureError) as refused:
        regex_grammar(pattern)
    assert REFUSED[pattern] in refused.value.message


def test_drawn_text_is_one_of_the_choices(sampler: GrammarSampler) -> None:
    choices = ["yes", "yesterday", 'no "thanks"', "naïve\n", "a\\b", "[x]"]
    assert {sampler.draw(choice_grammar(choices), seed) for seed in range(4 * DRAWS)} <= set(choices)


@pytest.mark.parametrize("choices", [[], [""], ["a"] * (MAX_CHOICES + 1)])
def test_choices_are_limited(choices: list[str]) -> None:
    with pytest.raises(StructureError, match="choices must be 1 to 1000 texts"):
        choice_grammar(choices)


def test_letters_beyond_ascii_before_digits_keep_their_meaning(sampler: GrammarSampler) -> None:
    """xgrammar reads "ße" as the character U+0DFE unless they are apart."""
    assert {sampler.draw(choice_grammar(["größe", "éa 1"]), seed) for seed in range(4 * DRAWS)} == {"größe", "éa 1"}
    assert sampler.draw(regex_grammar("ß1ä{2}e"), 0) == "ß1ääe"
    assert sampler.draw(own_grammar('root ::= "größe"{2} # größe'), 0) == "größegröße"
    assert sampler.draw(own_grammar('root ::= "\\"ä" [aä]'), 0) in ('"äa', '"ää')
    with pytest.raises(StructureError, match="put letters from"):
        own_grammar("root ::= [äa]")


def test_grammar_of_the_user_is_limited_in_size() -> None:
    assert own_grammar('root ::= "a"') == 'root ::= "a"'
    with pytest.raises(StructureError, match="at most 200000"):
        own_grammar("a" * 200_001)
