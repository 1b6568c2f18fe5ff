"""Read API keys and keep them out of records."""

import os

from fledge.core.errors import InputError

VARIABLE = "OPENAI_API_KEY"


def api_key(variable: str = VARIABLE) -> str:
    """Return the stripped key in `variable`, empty if unset. Raises `InputError` for an invalid character."""
    return clean_key(os.environ.get(variable, ""), variable, variable)


def clean_key(key: str, name: str, variable: str) -> str:
    """Return a stripped key. Raises `InputError`, with `name`, for characters that a header cannot contain."""
    key = key.strip()
    if not key.isascii() or not key.isprintable():
        raise InputError(f"{name} contains an invalid character", hint=f"export {variable}=...")
    return key


def without_key(text: str) -> str:
    """Return a text with the key replaced by `***`."""
    key = os.environ.get(VARIABLE, "").strip()
    return text.replace(key, "***") if len(key) > 3 else text
