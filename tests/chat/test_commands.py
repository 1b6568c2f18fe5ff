"""Parsing of entries."""

import pytest

from fledge.chat.commands import FORMS, ChatCommand, help_text, parse
from fledge.chat.lines import Entry
from fledge.core.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is 1/2?", "What is 1/2?"),
        ("//etc/hosts is what?", "/etc/hosts is what?"),
        ("/system  Be brief.\nAlways. ", ChatCommand("system", "Be brief.\nAlways.")),
        ("/system", ChatCommand("system", "")),
        ("/prompt expert@production", ChatCommand("prompt", "expert@production")),
        ("  /reset ", ChatCommand("reset", "")),
        ("/save my file.md", ChatCommand("save", "my file.md")),
        ("/good", ChatCommand("good", "")),
        ("/bad off the point", ChatCommand("bad", "off the point")),
        ("/quit", ChatCommand("exit", "")),
    ],
)
def test_entry_is_parsed_as_command_or_question(text: str, expected: ChatCommand | str) -> None:
    assert parse(Entry(text)) == expected


def test_block_is_always_a_question() -> None:
    assert parse(Entry("/exit\n", is_block=True)) == "/exit"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("/promt simple", "unknown command /promt; did you mean /prompt?", "/prompt"),
        ("/SAVE x", "unknown command /SAVE; did you mean /save?", "/save"),
        ("/xyzzy", "unknown command /xyzzy", "/help"),
        ("/", "unknown command /", "/help"),
        ("/reset now", "/reset takes no argument", "/reset"),
        ("/save", "/save needs FILE", "/save"),
        ("/system b\udcffd", "the input is not valid text", "check the encoding"),
        ("what is \ud83d?", "the input is not valid text", "check the encoding"),
    ],
)
def test_invalid_command_is_refused_with_a_suggestion(text: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(Entry(text))
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)


def test_help_lists_every_command() -> None:
    lines = help_text().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [f"/{name}" for name in FORMS]
    assert "backslash" in lines[-1]
