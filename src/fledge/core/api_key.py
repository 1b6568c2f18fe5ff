"""API keys: read and check them, and keep OpenAI's out of records."""

import os

from fledge.core.errors import InputError

VARIABLE = "OPENAI_API_KEY"


def api_key(variable: str = VARIABLE) -> str:
    """Return the key in `OPENAI_API_KEY`, stripped, empty without one. Raises `InputError` if a header cannot hold
    it."""
    return clean_key(os.environ.get(variable, ""), variable, variable)


def clean_key(key: str, name: str, variable: str) -> str:
    """Return a key, stripped; `name` is its name in errors. Raises `InputError` if a header cannot hold it."""
    key = key.strip()
    if not key.isascii() or not key.isprintable():
        raise InputError(f"{name} holds a character that no key has", hint=f"export {variable}=...")
    return key


def without_key(text: str) -> str:
    """Return a text, such as an error message, with the key masked."""
    key = os.environ.get(VARIABLE, "").strip()
    return text.replace(key, "***") if len(key) > 3 else text
