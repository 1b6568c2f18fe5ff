"""Grammars of regular expressions, of one of several texts, and of the user's own."""

import re
from collections.abc import Sequence
from typing import Any

from fledge.core.errors import StructureError
from fledge.engines.grammars.expressions import AMBIGUOUS, MAX_CHARACTERS, any_text
from fledge.engines.grammars.regex import whole_match

MAX_CHOICES = 1_000


_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|\[(?:[^\]\\\n]|\\.)*\]|#[^\n]*|.', re.DOTALL)


def regex_grammar(pattern: str) -> str:
    """Return the grammar of the texts that a regular expression matches whole. Raises `StructureError`."""
    return _grammar(whole_match(pattern))


def choice_grammar(texts: Sequence[str]) -> str:
    """Return the grammar of any one of the texts. Raises `StructureError` for none, or an empty one."""
    if not texts or len(texts) > MAX_CHOICES or not all(texts):
        raise StructureError(f"choices must be 1 to {MAX_CHOICES} texts that are not empty")
    return _grammar(any_text(texts))


def own_grammar(text: Any) -> str:
    """Return a grammar in the syntax of xgrammar and llama.cpp. Raises `StructureError` if it is too long."""
    return _TOKEN.sub(_separate, _limited(text))


def _separate(token: re.Match[str]) -> str:
    """Return a literal in parts where xgrammar would misread it."""
    text = token[0]
    if text[0] not in '"[' or not AMBIGUOUS.search(text):
        return text
    if text[0] == "[":
        raise StructureError(f"in the set {text[:50]} put letters from U+0080 to U+00FF last")
    return "(" + AMBIGUOUS.sub(r'\1" "', text) + ")"


def _grammar(root: str) -> str:
    return _limited(f"root ::= {root}\n")


def _limited(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise StructureError(f"the grammar has {len(text)} characters; at most {MAX_CHARACTERS}")
    return text
