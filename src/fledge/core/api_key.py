"""The key of OpenAI's protocol: read in one place, and kept out of what is recorded."""

import os

from fledge.core.errors import InputError

VARIABLE = "OPENAI_API_KEY"


def api_key() -> str:
    """The key without blanks around it, empty where there is none. Raises `InputError` for what no header takes."""
    key = os.environ.get(VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():
        raise InputError(f"{VARIABLE} holds a character that no key has", hint=f"export {VARIABLE}=sk-...")
    return key


def without_key(text: str) -> str:
    """A text, as of an error, with the key made unreadable."""
    key = os.environ.get(VARIABLE, "").strip()
    return text.replace(key, "***") if len(key) > 3 else text
