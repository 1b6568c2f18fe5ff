"""The commands of a session, and parsing of entries."""

import difflib
from typing import NamedTuple

from fledge.chat.lines import MARK, Entry
from fledge.core.errors import InputError


class ChatCommand(NamedTuple):
    """A command without its slash, and its argument."""

    name: str
    argument: str


class _Form(NamedTuple):
    argument: str
    help: str


# What stands in brackets may be left out; a form without an argument takes none.
FORMS = {
    "system": _Form("[TEXT]", "tell the model TEXT before the conversation; alone: nothing any more"),
    "prompt": _Form(
        "[NAME]",
        "fill each question into a prompt, NAME, NAME/3 or NAME@alias, instead of a release's own; "
        "alone: no prompt any more",
    ),
    "reset": _Form("", "forget the conversation; system text and prompt stay"),
    "save": _Form(
        "[--overwrite] FILE", "write the conversation: messages as JSONL, or Markdown where FILE ends in .md"
    ),
    "good": _Form("[COMMENT]", "the last answer was good (needs a fledge endpoint)"),
    "bad": _Form("[COMMENT]", "the last answer was bad (needs a fledge endpoint)"),
    "help": _Form("", "this list"),
    "exit": _Form("", "leave; so does Ctrl-D"),
}


def parse(entry: Entry) -> ChatCommand | str:
    """Parse an entry into a command or a question. `//` at the start stands for a slash of the question.

    Raises `InputError` for an unknown command, a missing or superfluous argument, and invalid text.
    """
    if any("\ud800" <= character <= "\udfff" for character in entry.text):
        raise InputError("what was entered is not valid text", hint="check the encoding of the terminal or file: UTF-8")
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
            f"there is no command /{name}{meant}", hint=f"{hint}, or //{name} for a question that begins so"
        )
    form = FORMS[name].argument
    if argument and not form:
        raise InputError(f"/{name} takes nothing after it", hint=f"/{name}")
    if not argument and form and not form.endswith("]"):
        raise InputError(f"/{name} needs {form.split()[-1]}", hint=f"/{name} {form}")
    return ChatCommand(name, argument)


def help_text() -> str:
    """Return the commands, one per line, and how to enter several lines."""
    rows = [(f"/{name} {form.argument}".rstrip(), form.help) for name, form in FORMS.items()]
    width = max(len(left) for left, _ in rows)
    lines = [f"{left:{width}}  {text}" for left, text in rows]
    return "\n".join(
        [*lines, f"A line that ends in a backslash goes on; so does everything between two lines of {MARK}."]
    )
