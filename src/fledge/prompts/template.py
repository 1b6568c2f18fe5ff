"""Templates: `{{name}}` is replaced in one pass; nothing is evaluated, and `{{x}}` inside a value is kept.

A quoted text in double braces is literal: `{{ "{{" }}` writes two braces, as in Jinja.
"""

import re
from collections.abc import Mapping
from typing import get_args

from fledge.core.errors import InputError
from fledge.core.types import Message

Template = str | tuple[Message, ...]
"""A text to complete, or the turns of a conversation to answer."""

ROLES = get_args(Message.__annotations__["role"])

_PART = re.compile(r"""\{\{\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|"(?P<double>[^"]*)"|'(?P<single>[^']*)')\s*\}\}""")
_BRACES = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_OPENING = re.compile(r"\{[{%#]|\\\{|\{(?=[A-Za-z_]\w*\})")
_TRIPLE = re.compile(r"\{\{\{\s*([A-Za-z_]\w*)\s*\}\}\}")
_BACKSLASHES = re.compile(r"\\\{\\?\{\s*[A-Za-z_]\w*\s*\\?\}\\?\}")
AS_TEXT = 'for braces as text write {{ "{{" }}'
_JINJA = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_SINGLE_BRACES = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_UNSUPPORTED = re.compile("[\0\ud800-\udfff]")


def variables(template: str) -> tuple[str, ...]:
    """Return the names of the variables, in order of first use."""
    return tuple(dict.fromkeys(part["name"] for part in _PART.finditer(template) if part["name"]))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each `{{name}}` by its value. Raises `InputError` for a name without a value."""
    missing = [name for name in variables(template) if name not in values]
    if missing:
        raise InputError(
            f"the prompt needs {', '.join(missing)}, which the question does not have",
            hint="add the column to the question set, or use another prompt",
        )
    return _PART.sub(
        lambda part: values[part["name"]] if part["name"] else part["double"] or part["single"] or "", template
    )


def escape(text: str) -> str:
    """Escape a text so that `fill` returns it unchanged."""
    return _OPENING.sub(lambda braces: f'{{{{ "{braces[0]}" }}}}', text)


def check(name: str, template: Template, system: str = "") -> None:
    """Raise `InputError` unless the template has a variable and every `{{...}}`, also in `system`, is a plain name."""
    turns = [Message("user", template)] if isinstance(template, str) else template
    strange = [turn.role for turn in turns if turn.role not in ROLES]
    if strange:
        raise InputError(f"prompt {name!r} has a turn of {strange[0]!r}", hint=f"roles: {', '.join(ROLES)}")
    texts = [turn.content for turn in turns]
    for text in (system, *texts):
        _check_text(name, text)
    if not any(variables(text) for text in texts):
        single = next((found[1] for text in texts if (found := _SINGLE_BRACES.search(text))), None)
        if single:
            raise InputError(
                f"prompt {name!r} has no variable: '{{{single}}}' is plain text", f"write {{{{{single}}}}}"
            )
        raise InputError(f"prompt {name!r} has no variable", hint="put {{question}} where the question belongs")


def _check_text(name: str, text: str) -> None:
    if found := _UNSUPPORTED.search(text):
        raise InputError(
            f"prompt {name!r} has the character U+{ord(found[0]):04X} at {found.start()}, which stores do not accept",
            hint="remove it",
        )
    unquoted = _PART.sub(lambda part: part[0] if part["name"] else " ", text)
    if found := _BACKSLASHES.search(unquoted):
        raise InputError(f"prompt {name!r}: the backslashes in {found[0]!r} escape nothing", hint=AS_TEXT)
    if found := _TRIPLE.search(unquoted):
        raise InputError(
            f"prompt {name!r}: {found[0]!r} has three braces, which is ambiguous",
            hint=f'write {{{{{found[1]}}}}}, or for braces around it {{{{ "{{" }}}}{{{{{found[1]}}}}}{{{{ "}}" }}}}',
        )
    rest = _PART.sub(" ", text)
    if found := _JINJA.search(rest):
        raise InputError(
            f"prompt {name!r}: {found[0]!r} is Jinja; templates only replace names",
            hint=f"write one prompt for each case; {AS_TEXT}",
        )
    if found := _BRACES.search(rest):
        raise InputError(
            f"prompt {name!r}: {found[0]!r} is not a plain name; templates only replace names",
            hint=f"write {{{{question}}}}; {AS_TEXT}",
        )
