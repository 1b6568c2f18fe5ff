"""Grammars of regular expressions, of one of several texts, and of the user's own."""

from collections.abc import Sequence
from typing import Any

from fledge.core.errors import StructureError
from fledge.engines.grammars.expressions import MAX_CHARACTERS, alternatives, literal
from fledge.engines.grammars.regex import whole_match

MAX_CHOICES = 1_000


def regex_grammar(pattern: str) -> str:
    """Return the grammar of the texts that a regular expression matches whole. Raises `StructureError`."""
    return _grammar(whole_match(pattern))


def choice_grammar(texts: Sequence[str]) -> str:
    """Return the grammar of any one of the texts. Raises `StructureError` for none, or an empty one."""
    if not texts or len(texts) > MAX_CHOICES or not all(texts):
        raise StructureError(f"choices must be 1 to {MAX_CHOICES} texts that are not empty")
    return _grammar(alternatives(map(literal, texts)))


def own_grammar(text: Any) -> str:
    """Return a grammar in the syntax of xgrammar and llama.cpp. Raises `StructureError` if it is too long."""
    if len(text) > MAX_CHARACTERS:
        raise StructureError(f"the grammar has {len(text)} characters; at most {MAX_CHARACTERS}")
    return str(text)


def _grammar(root: str) -> str:
    text = f"root ::= {root}\n"
    if len(text) > MAX_CHARACTERS:
        raise StructureError(f"the grammar has {len(text)} characters; at most {MAX_CHARACTERS}")
    return text
