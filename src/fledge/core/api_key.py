"""Keys of endpoints: read in one place, and that of OpenAI's protocol kept out of what is recorded."""

import os

from fledge.core.errors import InputError

VARIABLE = "OPENAI_API_KEY"


def api_key(variable: str = VARIABLE) -> str:
    """The key without blanks around it, empty where there is none. Raises `InputError` for what no header takes."""
    return clean_key(os.environ.get(variable, ""), variable, variable)


def clean_key(key: str, name: str, variable: str) -> str:
    """A key called `name` without blanks around it. Raises `InputError` for what no header takes."""
    key = key.strip()
    if not key.isascii() or not key.isprintable():
        raise InputError(f"{name} holds a character that no key has", hint=f"export {variable}=...")
    return key


def without_key(text: str) -> str:
    """A text, as of an error, with the key made unreadable."""
    key = os.environ.get(VARIABLE, "").strip()
    return text.replace(key, "***") if len(key) > 3 else text
