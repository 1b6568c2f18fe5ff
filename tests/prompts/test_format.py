"""Prompt formats, and merging prompts with conversations."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from fledge.core.errors import InputError
from fledge.core.types import Format, Message
from fledge.prompts.format import apply_format, fill_conversation, prompt_of, resolve_format
from fledge.prompts.prompt import Prompt, PromptFormat
from fledge.releases.manifest import Manifest

BASE: tuple[Format, ...] = ("completion",)
INSTRUCT: tuple[Format, ...] = ("chat", "completion")
REMOTE: tuple[Format, ...] = ("chat",)

TEXT = Prompt("qa", 2, "Q: {{question}}")
CONVERSATION = Prompt(
    "shots",
    1,
    (
        Message("system", "Be brief."),
        Message("user", "What is two and two?"),
        Message("assistant", "Four."),
        Message("user", "{{question}} In a word:"),
    ),
)


@pytest.mark.parametrize(
    ("own", "requested", "supported", "expected"),
    [
        ("auto", "auto", BASE, "completion"),
        ("auto", "auto", INSTRUCT, "chat"),
        ("auto", "auto", REMOTE, "chat"),
        ("completion", "auto", INSTRUCT, "completion"),
        ("chat", "auto", INSTRUCT, "chat"),
        ("chat", "completion", INSTRUCT, "completion"),
        ("completion", "chat", INSTRUCT, "chat"),
        ("chat", "completion", BASE, "completion"),
    ],
)
def test_format_of_a_text_prompt(
    own: PromptFormat, requested: PromptFormat, supported: tuple[Format, ...], expected: str
) -> None:
    assert resolve_format(Prompt("qa", 2, "Q: {{question}}", format=own), requested, "org/model", supported) == expected


@pytest.mark.parametrize("supported", [BASE, INSTRUCT, REMOTE])
@pytest.mark.parametrize("requested", ["auto", "chat"])
def test_conversations_are_sent_as_chat(requested: PromptFormat, supported: tuple[Format, ...]) -> None:
    assert resolve_format(CONVERSATION, requested, "org/model", supported) == "chat"


@pytest.mark.parametrize(
    ("prompt", "requested", "supported", "problem", "hint"),
    [
        (
            TEXT,
            "chat",
            BASE,
            "prompt qa/2 cannot be sent as chat: org/model has no chat template",
            "instruct",
        ),
        (TEXT, "completion", REMOTE, "prompt qa/2 cannot be sent as a completion to org/model", "--format chat"),
        (
            CONVERSATION,
            "completion",
            INSTRUCT,
            "prompt shots/1 is a conversation, which cannot be sent as a completion",
            "text prompt",
        ),
        (Prompt("qa", 2, "{{q}}", system="Be kind."), "auto", BASE, "prompt qa/2 has a system text, which", "instruct"),
        (
            Prompt("qa", 2, "{{q}}", format="chat"),
            "auto",
            BASE,
            "prompt qa/2 cannot be sent as chat: org/",
            "--form",
        ),
    ],
)
def test_errors_name_prompt_model_and_fix(
    prompt: Prompt, requested: PromptFormat, supported: tuple[Format, ...], problem: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        resolve_format(prompt, requested, "org/model", supported)
    assert problem in caught.value.message
    assert hint in caught.value.hint


def test_text_as_chat_is_a_user_turn_after_the_system_text() -> None:
    prompt = Prompt("qa", 2, "Q: {{question}}", system="You are {{role}}.")
    asked = apply_format(prompt, "chat")
    assert asked.template == (Message("system", "You are {{role}}."), Message("user", "Q: {{question}}"))
    assert (asked.label, asked.variables, asked.system) == ("qa/2", prompt.variables, "")
    assert prompt.variables == ("role", "question")
    assert apply_format(TEXT, "chat").template == (Message("user", "Q: {{question}}"),)
    assert apply_format(TEXT, "completion") == apply_format(TEXT, None) == TEXT
    assert apply_format(CONVERSATION, "chat") == CONVERSATION


def _turns(*texts: str) -> list[Message]:
    """Make alternating user and assistant turns; a text that starts with `system:` is a system turn."""
    found: list[Message] = []
    for text in texts:
        if text.startswith("system:"):
            found.append(Message("system", text.removeprefix("system:")))
        else:
            spoken = sum(turn.role != "system" for turn in found)
            found.append(Message("assistant" if spoken % 2 else "user", text))
    return found


def _fill(prompt: Prompt, *texts: str, values: Mapping[str, str] = MappingProxyType({})) -> list[str] | str | None:
    found = fill_conversation(prompt, _turns(*texts), values)
    if found is None or isinstance(found, str):
        return found
    return [f"{turn.role[0]}:{turn.content}" for turn in found]


def test_last_user_turn_fills_a_text() -> None:
    asked = apply_format(Prompt("qa", 2, "Q: {{question}}", system="Be kind."), "chat")
    assert _fill(asked, "a") == ["s:Be kind.", "u:Q: a"]
    assert _fill(asked, "a", "b", "c") == ["s:Be kind.", "u:a", "a:b", "u:Q: c"]
    assert _fill(asked, "system:Be rude.", "a") == ["s:Be rude.", "u:Q: a"]
    assert _fill(asked, "a", "So") == ["s:Be kind.", "u:Q: a", "a:So"]  # a partial answer stays at the end
    assert _fill(asked, "{{question}}") == ["s:Be kind.", "u:Q: {{question}}"]


def test_prompt_turns_go_before_the_conversation() -> None:
    shots = ["u:What is two and two?", "a:Four."]
    assert _fill(CONVERSATION, "a") == ["s:Be brief.", *shots, "u:a In a word:"]
    assert _fill(CONVERSATION, "a", "b", "c") == ["s:Be brief.", *shots, "u:a", "a:b", "u:c In a word:"]
    assert _fill(CONVERSATION, "system:X", "a", "b", "c") == ["s:X", *shots, "u:a", "a:b", "u:c In a word:"]


def test_system_turn_with_the_question_is_kept() -> None:
    odd = Prompt("odd", 1, (Message("system", "Answer this: {{question}}"),))
    assert _fill(odd, "a") == ["s:Answer this: a"]
    assert _fill(odd, "system:X", "a") == ["s:X", "s:Answer this: a"]


def test_single_turn_to_a_base_model_is_completed() -> None:
    assert _fill(TEXT, "a") == "Q: a"
    assert _fill(TEXT, "a", "b", "c") == ["u:a", "a:b", "u:Q: c"]
    assert _fill(TEXT, "system:Be kind.", "a") == ["s:Be kind.", "u:Q: a"]


@pytest.mark.parametrize("form", ["chat", "completion"])
def test_bare_question_prompt_keeps_the_conversation(form: Format) -> None:
    asked = apply_format(Prompt("question", 1, "{{question}}"), form)
    for texts in (["a"], ["a", "b", "c"], ["system:Be kind.", "a"], ["system:Be kind.", "a", "b"]):
        assert fill_conversation(asked, _turns(*texts), {}) == tuple(_turns(*texts))


def test_conversation_without_a_user_turn_is_not_filled() -> None:
    assert _fill(TEXT, "system:Be kind.") is None


def test_several_variables_without_values_are_an_error() -> None:
    two = Prompt("two", 3, "{{topic}}: {{question}}")
    with pytest.raises(
        InputError, match="prompt two/3 needs values for topic, question, and a conversation provides"
    ) as caught:
        _fill(two, "a")
    assert '"prompt": {"id": "two/3", "variables": {...}}' in caught.value.hint
    assert '"prompt": "none"' in caught.value.hint
    assert _fill(two, "a", values={"topic": "x"}) == "x: a"
    assert _fill(two, "a", "b", "c", values={"topic": "x", "question": "y"}) == ["u:a", "a:b", "u:x: y"]


def test_prompt_of_a_release() -> None:
    manifest = Manifest("mine", "org/model", "", "d", "qa", 2, "Q: {{question}}", {}, format="chat", system="Be kind.")
    asked = prompt_of(manifest)
    assert (asked.label, asked.template) == (
        "qa/2",
        (Message("system", "Be kind."), Message("user", "Q: {{question}}")),
    )
    before = Manifest("mine", "org/model", "", "d", "qa", 2, "Q: {{question}}", {})
    assert prompt_of(before).template == "Q: {{question}}"
