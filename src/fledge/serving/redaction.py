"""What is taken out of texts before anything but the engine sees them. Fails closed: on any error no text is kept."""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import regex

from fledge.core.errors import InputError

TIMEOUT_S = 0.5
DROPPED = "[dropped]"
PATTERNS = {
    "email": r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",
    "phone": r"(?<![\w.])\+?\d{1,3}[ .-]?\(?\d{2,4}\)?(?:[ .-]?\d{2,4}){2,4}(?!\w)",
    "card": r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)",
    "ip": r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "secret": r"\b(?:sk|pk|ghp|gho|hf|xox[abp]|AKIA|eyJ)[-_A-Za-z0-9.]{16,}",
}

Rule = Callable[[str], str]


class Redactor:
    """Applies rules, in order, to every text of a value."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules

    def __call__(self, value: Any) -> Any:
        """The same value with its texts rewritten; `[dropped]` in place of all of it where a rule fails."""
        if not self._rules:
            return value
        try:
            return self._clean(value)
        except Exception as error:  # noqa: BLE001 (whatever a user's rule raises, the text must not get out)
            sys.stderr.write(f"fledge: a redaction rule failed ({type(error).__name__}); the text is dropped\n")
            return DROPPED

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            for rule in self._rules:
                value = rule(value)
                if not isinstance(value, str):
                    raise TypeError("a redaction rule gives a text")
            return value
        if isinstance(value, dict):
            return {self._clean(key): self._clean(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._clean(item) for item in value]
        return value


def make_redactor(rules: Sequence[str]) -> Redactor:
    """Rules by name: one of `PATTERNS`, `regex:EXPRESSION`, or a function of one's own as `module:function`.

    Raises `InputError` for a rule that there is not.
    """
    return Redactor([_rule(name) for name in rules])


def _rule(name: str) -> Rule:
    if name in PATTERNS:
        return _substitution(name, PATTERNS[name])
    kind, _, rest = name.partition(":")
    if kind == "regex" and rest:
        return _substitution("redacted", rest)
    hint = f"{', '.join(PATTERNS)}, regex:EXPRESSION, or module:function"
    if not rest:
        raise InputError(f"no redaction rule {name!r}", hint=hint)
    try:
        found: Any = getattr(importlib.import_module(kind), rest)
    except (ImportError, AttributeError) as error:
        raise InputError(f"redaction rule {name!r}: {error}", hint=hint) from None
    if not callable(found):
        raise InputError(f"redaction rule {name!r} is no function", hint=hint)
    rule: Rule = found
    return rule


def _substitution(name: str, expression: str) -> Rule:
    try:
        pattern = regex.compile(expression)
    except regex.error as error:
        raise InputError(f"redaction rule regex:{expression}: {error}", hint="mend the regular expression") from None

    def rule(text: str) -> str:
        return str(pattern.sub(f"[{name}]", text, timeout=TIMEOUT_S))

    return rule
