"""Redaction: rules that remove personal data and secrets from texts before they are recorded."""

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import regex

from fledge.core.errors import InputError

log = logging.getLogger(__name__)

TIMEOUT_S = 0.5
_GAPS = r" \u00a0\u2007\u202f\u2010-\u2015-"  # spaces and dashes that people and programs write between digits
_GAP = f"[{_GAPS}]"
_V4 = r"(?:\d{1,3}\.){3}\d{1,3}"
_H = "[0-9A-Fa-f]{1,4}"
_V6 = (
    rf"(?:(?:{_H}:){{7}}{_H}|(?:{_H}:){{6}}{_V4}"
    rf"|{_H}(?::{_H})*::(?:(?:{_H}:)*(?:{_V4}|{_H}))?|::(?:{_H}:)*(?:{_V4}|{_H}))"
)
_PHONES = (
    rf"\+(?:[./(){_GAPS}]{{0,2}}\d){{8,15}}",  # +49 (0)30 901820
    rf"0\d(?:[./(){_GAPS}]{{0,2}}\d){{7,12}}",  # 020 7946 0958
    rf"\(\d{{2,5}}\){_GAP}?\d{{2,4}}(?:[.{_GAPS}]?\d{{2,4}}){{1,3}}",  # (415) 555-2671
    rf"(?:1[.{_GAPS}])?\d{{3}}[.{_GAPS}]\d{{3}}[.{_GAPS}]\d{{4}}",  # 415.555.2671
    rf"(?=(?:{_GAP}?\d){{9,13}}(?!{_GAP}?\d))\d{{2,4}}(?:{_GAP}\d{{2,4}}){{2,5}}",  # 612 34 56 78
    r"\d{10,11}(?![.,]\d)",  # 4155552671
    r"\d{3}-\d{4}",  # 555-2671
)
_DATE = r"\d{4}[-./]\d\d?[-./]\d\d?(?!\d)|\d\d?[-./]\d\d?[-./]\d{4}(?!\d)"
_LOCAL = r"[\w.+%'!#$&*~-]"
_DOMAIN = r"(?:[\w-]{1,63}(?:\.[\w-]{1,63})+|\[[0-9A-Fa-f:.]+\])"
_SECRETS = (
    r"(?:(?:sk|pk|rk)[-_]|gh[a-z]_|github_pat_|glpat-|xox[a-z]-|npm_|dapi)[-_A-Za-z0-9.]{16,}",
    r"hf_[A-Za-z0-9]{24,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"AIza[-_A-Za-z0-9]{30,}",
    r"eyJ[-_A-Za-z0-9]{10,}(?:\.[-_A-Za-z0-9]*){0,4}",  # a JSON web token
    r"(?i:bearer)[ ]+[-._~+/A-Za-z0-9]{16,}=*",
)
_PEM = r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----|.*)"
PATTERNS = {
    "email": rf'(?<!{_LOCAL})(?:"[^"\n]{{1,64}}"|{_LOCAL}++)@{_DOMAIN}',
    "phone": rf"(?<![\w.-])(?!{_DATE})(?:{'|'.join(_PHONES)})(?!\w|-\d)",
    "card": rf"(?<!\d)(?<!\d\.)(?:\d{_GAP}?){{12,18}}\d(?!\d)",
    "ip": rf"(?<![\w:.]){_V6}(?![\w:]|\.\d)|(?<!\d)(?<!\d\.){_V4}(?!\d|\.\d)",
    "iban": rf"(?i)(?<![A-Z0-9])(?=(?:[A-Z{_GAPS}]{{0,8}}\d){{8}})[A-Z]{{2}}\d{{2}}(?:{_GAP}?[A-Z0-9]{{4}}){{2,7}}"
    rf"(?:[A-Z0-9]{{1,3}}|{_GAP}(?=[A-Z]{{0,2}}\d)[A-Z0-9]{{1,3}})?(?![A-Z0-9])",
    "secret": rf"(?s)(?<![A-Za-z0-9])(?:{'|'.join(_SECRETS)})|{_PEM}",
}

Rule = Callable[[str], str]


class RedactionError(Exception):
    """A rule failed, so the text must not be recorded."""


class Redactor:
    """Applies rules, in order, to every text of a value."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._warned: set[str] = set()

    def __call__(self, value: Any) -> Any:
        """Return the value with redacted texts. Raises `RedactionError` if a rule fails."""
        if not self._rules:
            return value
        try:
            return self._clean(value)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a user's rule can raise anything)
            self._warn_once(type(error).__name__)
            raise RedactionError from None

    def _warn_once(self, kind: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("a redaction rule failed (%s): the texts of such requests are dropped", kind)

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            for rule in self._rules:
                value = rule(value)
                if not isinstance(value, str):
                    raise TypeError("a redaction rule must return a string")
                value.encode()  # raises for an unpaired surrogate, which cannot be written
            return value
        if isinstance(value, dict):
            return {self._clean(key): self._clean(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            if len(value) > 1 and all(
                type(item) is int for item in value
            ):  # probably token ids: rules cannot read them
                return f"[{len(value)} numbers]"
            return [self._clean(item) for item in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):  # may be a card or phone number
            cleaned = self._clean(str(value))
            return value if cleaned == str(value) else cleaned
        return value


def make_redactor(rules: Sequence[str]) -> Redactor:
    """Return a redactor with these rules: names in `PATTERNS`, `regex:EXPRESSION`, or `module:function`.

    Raises `InputError` for an unknown rule.
    """
    return Redactor([_load_rule(name) for name in rules])


def _load_rule(name: str) -> Rule:
    if name in PATTERNS:
        return _make_substitution(name, PATTERNS[name])
    kind, _, rest = name.partition(":")
    if kind == "regex" and rest:
        return _make_substitution("redacted", rest)
    hint = f"{', '.join(PATTERNS)}, regex:EXPRESSION, or module:function"
    if not rest:
        raise InputError(f"unknown redaction rule {name!r}", hint=hint)
    try:
        found: Any = getattr(importlib.import_module(kind), rest)
    except Exception as error:  # noqa: BLE001 (a module can do anything when it is imported)
        raise InputError(f"redaction rule {name!r}: {error}", hint=hint) from None
    if not callable(found):
        raise InputError(f"redaction rule {name!r} is not a function", hint=hint)
    rule: Rule = found
    return rule


def _make_substitution(name: str, expression: str) -> Rule:
    try:
        pattern = regex.compile(expression)
    except regex.error as error:
        raise InputError(f"redaction rule regex:{expression}: {error}", hint="fix the regular expression") from None

    def rule(text: str) -> str:
        # `concurrent` releases the GIL during the search.
        return str(pattern.sub(f"[{name}]", text, timeout=TIMEOUT_S, concurrent=True))

    return rule
