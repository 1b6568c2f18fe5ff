"""Parse an entry of a chat session: a question or one of the commands."""

import difflib
from typing import NamedTuple

from fledge.chat.lines import MARK, Entry
from fledge.core.errors import InputError


class ChatCommand(NamedTuple):
    """A command and its argument, without the slash."""

    name: str
    argument: str


class _Form(NamedTuple):
    argument: str
    help: str


# An argument in brackets is optional.
FORMS = {
    "system": _Form("[TEXT]", "set the system text; without TEXT: remove it"),
    "prompt": _Form(
        "[NAME]",
        "fill questions into a prompt (NAME, NAME/3 or NAME@alias) instead of the release's own; "
        "without NAME: send them unchanged",
    ),
    "reset": _Form("", "start a new conversation; keep system text and prompt"),
    "save": _Form("[--overwrite] FILE", "save the conversation as JSONL messages, or as Markdown if FILE ends in .md"),
    "good": _Form("[COMMENT]", "rate the last answer as good (needs a fledge endpoint)"),
    "bad": _Form("[COMMENT]", "rate the last answer as bad (needs a fledge endpoint)"),
    "help": _Form("", "show this list"),
    "exit": _Form("", "leave (also Ctrl-D)"),
}


def parse(entry: Entry) -> ChatCommand | str:
    """Return the command or the question in an entry; a leading `//` escapes the slash of a question.

    Raises `InputError` for an unknown command, an extra or missing argument, and invalid text.
    """
    if any("\ud800" <= character <= "\udfff" for character in entry.text):
        raise InputError("the input is not valid text", hint="check the encoding of the terminal or file: UTF-8")
    text = entry.text.strip()
    if entry.is_block or not text.startswith("/"):
        return entry.text.strip("\n")
    if text.startswith("//"):
        return text[1:]
    name, *rest = text[1:].split(maxsplit=1) or [""]
    argument = rest[0] if rest else ""
    if name == "quit":
        name = "exit"
    if name not in FORMS:
        close = difflib.get_close_matches(name.lower(), FORMS, n=1)
        hint = f"/{close[0]}" if close else "/help"
        meant = f"; did you mean /{close[0]}?" if close else ""
        raise InputError(
            f"unknown command /{name}{meant}", hint=f"{hint}, or //{name} to ask a question that starts so"
        )
    form = FORMS[name].argument
    if argument and not form:
        raise InputError(f"/{name} takes no argument", hint=f"/{name}")
    if not argument and form and not form.endswith("]"):
        raise InputError(f"/{name} needs {form.split()[-1]}", hint=f"/{name} {form}")
    return ChatCommand(name, argument)


def help_text() -> str:
    """Return a line for each command, and how to enter several lines."""
    rows = [(f"/{name} {form.argument}".rstrip(), form.help) for name, form in FORMS.items()]
    width = max(len(left) for left, _ in rows)
    lines = [f"{left:{width}}  {text}" for left, text in rows]
    return "\n".join(
        [*lines, f"To enter several lines, end each with a backslash, or put them between two lines of {MARK}."]
    )
