from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.prompts.markdown import read, write
from fledge.prompts.prompt import Draft, Prompt

FILE = """---
name: qa
message: shorter
tags:
  team: support
aliases: [production]
settings: {temperature: 0.5, stop_sequences: [END]}
---
Question: {{question}}
Answer:
"""


def _file(folder: Path, content: str | bytes, name: str = "note.md") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_front_matter_and_template(tmp_path: Path) -> None:
    draft = read(_file(tmp_path, FILE))
    assert draft == Draft(
        "qa",
        "Question: {{question}}\nAnswer:",
        ("production",),
        {"team": "support"},
        {"temperature": 0.5, "stop_sequences": ["END"]},
        "shorter",
    )


def test_conversation_in_front_matter(tmp_path: Path) -> None:
    turns = "- {role: system, content: Be short.}\n- role: user\n  content: |\n    {{question}}\n"
    draft = read(_file(tmp_path, f"---\nmessages:\n{turns}---\n"))
    assert draft.template == (Message("system", "Be short."), Message("user", "{{question}}\n"))
    assert draft.name == "note"


def test_format_and_system_text(tmp_path: Path) -> None:
    draft = read(_file(tmp_path, "---\nformat: chat\nsystem: |\n  Be short.\n  Be kind.\n---\n{{question}}\n"))
    assert draft == Draft("note", "{{question}}", format="chat", system="Be short.\nBe kind.\n")


def test_file_without_yaml_is_a_template(tmp_path: Path) -> None:
    assert read(_file(tmp_path, "Q: {{question}}\n", "short.txt")) == Draft("short", "Q: {{question}}")
    assert read(_file(tmp_path, "Q: {{question}}"), "named") == Draft("named", "Q: {{question}}")
    assert read(_file(tmp_path, "{{question}}\n\n---\n")).template == "{{question}}\n\n---"


def test_given_name_overrides_the_file(tmp_path: Path) -> None:
    assert read(_file(tmp_path, FILE, "no name.md"), "other").name == "other"


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf---\r\nname: qa\r\n---\r\nQ: {{question}}\r\nA:\r\n"
    assert read(_file(tmp_path, content)) == Draft("qa", "Q: {{question}}\r\nA:")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("---\nname: qa\nnme: x\n---\n{{question}}", "line 3: unknown key 'nme'"),
        ("---\nname: qa\nname: qb\n---\n{{question}}", "line 3: duplicate key 'name'"),
        ("---\nname: [qa\n---\n{{question}}", "line 3: "),
        ("---\nname: qa\n{{question}}", "line 1: '---' starts YAML that is not closed"),
        ("---\n- qa\n---\n{{question}}", "line 2: not a list of keys and values"),
        ("---\nname: 3\n---\n{{question}}", "line 2: name must be text"),
        ("---\ntags: {version: 3}\n---\n{{question}}", "line 2: tags must be names and text"),
        ("---\naliases: good\n---\n{{question}}", "line 2: aliases must be a list of text"),
        ("---\nsettings: {since: 2024-01-01}\n---\n{{question}}", "line 2: settings must be names and plain values"),
        ("---\nsettings: {top_p: .nan}\n---\n{{question}}", "line 2: settings must be names and plain values"),
        ("---\nmessages: [{role: user}]\n---\n", "line 2: messages must be a list of role and content"),
        ("---\nmessages: [{role: user, content: a}]\n---\n{{question}}", "line 4: a template after messages"),
        ("---\nmessages: [{role: tool, content: '{{a}}'}]\n---\n", "has a turn of 'tool'"),
        ("---\nformat: chatty\n---\n{{q}}", "line 2: format must be one of auto, chat, completion, not 'chatty'"),
        ("---\nformat: [chat]\n---\n{{question}}", "line 2: format must be one of auto, chat, completion"),
        ("---\nsystem: 3\n---\n{{question}}", "line 2: system must be text"),
        ("---\nsystem: '{% if a %}'\n---\n{{question}}", "is Jinja"),
        ("---\nsystem: Hi\nformat: completion\n---\n{{question}}", "has a system text, which format: completion"),
        (
            "---\nsystem: Hi\nmessages: [{role: user, content: '{{a}}'}]\n---\n",
            "is a conversation with a separate system",
        ),
        ("---\nformat: completion\nmessages: [{role: user, content: '{{a}}'}]\n---\n", "cannot have format: complet"),
        ("---\nname: !!python/object:os.system x\n---\n{{question}}", "line 2: could not determine a constructor"),
        ("---\nname: a\x01b\n---\n{{question}}", "not YAML"),
        ("---\nsettings: " + "[" * 5000 + "\n---\n{{question}}", ""),
        ("---\nname: a b\n---\n{{question}}", "cannot be the name of a prompt"),
        ("nothing to fill in", "has no variable"),
        (b"\xff{{question}}", "utf-8"),
    ],
)
def test_invalid_files_are_rejected(tmp_path: Path, content: str | bytes, expected: str) -> None:
    path = _file(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert expected in caught.value.message


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.md: .*no such file"):
        read(tmp_path / "nothing.md")


ALLOWED = st.characters(exclude_categories=["Cs"], exclude_characters="\0{}")
PIECES = st.sampled_from(["---\n", "\n---\n", "\r\n", "\r", " ", "\n\n", "😀", "\ufeff", "{a}", "\t", "\x85", "\u2028"])
CONTENT = st.lists(st.text(ALLOWED, max_size=10) | PIECES, max_size=6).map("".join)
TEMPLATE = st.tuples(CONTENT, CONTENT).map(lambda sides: f"{sides[0]} {{{{question}}}} {sides[1]}".strip(" "))
TURN = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), CONTENT)
CHAT = st.lists(TURN, max_size=3).map(lambda turns: (*turns, Message("user", "{{question}}")))
PLAIN = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | CONTENT
NAME = st.text("abcXYZ019_", min_size=1, max_size=8)
PROMPT: Any = st.builds(
    Prompt,
    NAME,
    st.just(1),
    TEMPLATE | CHAT,
    st.lists(NAME.map(lambda name: f"is-{name}"), max_size=2).map(tuple),
    st.dictionaries(NAME, CONTENT, max_size=2),
    st.dictionaries(CONTENT, PLAIN | st.lists(PLAIN, max_size=2), max_size=2),
    CONTENT,
)
SYSTEM_PROMPT: Any = st.builds(
    Prompt,
    NAME,
    st.just(1),
    TEMPLATE,
    format=st.sampled_from(["auto", "chat"]),
    system=CONTENT,
)


@settings(deadline=None, database=None, max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=PROMPT | SYSTEM_PROMPT)
def test_round_trip_through_a_file(tmp_path: Path, prompt: Prompt) -> None:
    found = read(_file(tmp_path, write(prompt)))
    kept = {name: value for name, value in vars(prompt).items() if name != "version"}
    assert found == Draft(**kept)
