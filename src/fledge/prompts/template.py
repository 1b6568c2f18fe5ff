"""Templates: `{{name}}` filled in one pass; nothing is evaluated, and a value that contains `{{x}}` stays as it is."""

import re
from collections.abc import Mapping

from fledge.core.errors import InputError

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def variables(template: str) -> tuple[str, ...]:
    """Names of the variables, in order of first use."""
    return tuple(dict.fromkeys(_VARIABLE.findall(template)))


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each `{{name}}` replaced by its value. Raises `InputError` for a name without a value."""
    missing = [name for name in variables(template) if name not in values]
    if missing:
        raise InputError(
            f"the prompt needs {', '.join(missing)}, which the question does not have",
            hint="add the column to the question set, or use another prompt",
        )
    return _VARIABLE.sub(lambda match: values[match[1]], template)


def check(name: str, template: str) -> None:
    """Raise `InputError` unless the template has at least one variable and every `{{...}}` is a plain name."""
    for part in re.findall(r"\{\{(.*?)\}\}", template, flags=re.DOTALL):
        if not _VARIABLE.fullmatch("{{" + part + "}}"):
            raise InputError(
                f"prompt {name!r}: '{{{{{part}}}}}' is not a plain name; templates fill in names, they do not compute",
                hint="write {{question}}",
            )
    if not variables(template):
        raise InputError(f"prompt {name!r} has no variable", hint="put {{question}} where the question belongs")
