"""Messages sent to a model, and the turns that are kept."""

import json

import pytest

from fledge.chat.dialogue import Dialogue, Reply, as_jsonl, as_markdown
from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.prompts.prompt import Prompt

SIMPLE = Prompt("simple", 2, "Q: {{question}}")
TURNS = Prompt(
    "turns",
    1,
    (
        Message("system", "You explain."),
        Message("user", "What is one?"),
        Message("assistant", "A number."),
        Message("user", "{{q}} In short?"),
    ),
)


def _exchange(dialogue: Dialogue, question: str, answer: str) -> list[tuple[str, str]]:
    sent = dialogue.messages(question)
    dialogue.keep(sent, Reply(answer, "stop", "id-1", 0.25))
    return [(message.role, message.content) for message in sent]


def test_question_is_sent_with_the_conversation_until_reset() -> None:
    dialogue = Dialogue("Be brief.")
    assert _exchange(dialogue, "a?", "A") == [("system", "Be brief."), ("user", "a?")]
    dialogue.system = ""
    assert _exchange(dialogue, "b?", "B") == [("user", "a?"), ("assistant", "A"), ("user", "b?")]
    dialogue.reset()
    assert _exchange(dialogue, "c?", "C") == [("user", "c?")]
    assert [(turn.role, turn.content, turn.conversation) for turn in dialogue.log] == [
        ("system", "Be brief.", 1),
        ("user", "a?", 1),
        ("assistant", "A", 1),
        ("system", "", 1),
        ("user", "b?", 1),
        ("assistant", "B", 1),
        ("user", "c?", 2),
        ("assistant", "C", 2),
    ]
    assert dialogue.last_answer is not None
    assert dialogue.last_answer.as_dict() == {
        "role": "assistant",
        "content": "C",
        "conversation": 2,
        "prompt": None,
        "request_id": "id-1",
        "finish_reason": "stop",
        "seconds": 0.25,
        "turns_left_out": 0,
    }


def test_placeholders_in_a_question_are_not_filled() -> None:
    dialogue = Dialogue()
    dialogue.use(SIMPLE)
    assert _exchange(dialogue, "{{question}}?", "A") == [("user", "Q: {{question}}?")]
    assert [turn.prompt for turn in dialogue.turns] == ["simple/2", None]
    dialogue.use(None)
    assert _exchange(dialogue, "b?", "B")[-1] == ("user", "b?")


def test_prompt_turns_precede_the_conversation_and_its_system_text_replaces_the_sessions() -> None:
    dialogue = Dialogue("Mine.")
    _exchange(dialogue, "a?", "A")
    dialogue.use(TURNS)
    assert _exchange(dialogue, "b?", "B") == [
        ("system", "You explain."),
        ("user", "What is one?"),
        ("assistant", "A number."),
        ("user", "a?"),
        ("assistant", "A"),
        ("user", "b? In short?"),
    ]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            Prompt("two", 1, "{{topic}}: {{question}}"),
            "prompt two/1 has the variables topic, question; a session fills",
        ),
        (
            Prompt("end", 3, (Message("user", "{{q}}"), Message("assistant", "So"))),
            "prompt end/3 ends with a turn of the",
        ),
    ],
)
def test_prompt_that_a_question_cannot_fill_is_refused(prompt: Prompt, message: str) -> None:
    dialogue = Dialogue()
    dialogue.use(SIMPLE)
    with pytest.raises(InputError) as caught:
        dialogue.use(prompt)
    assert caught.value.message.startswith(message)
    assert dialogue.prompt is SIMPLE


def test_transcripts_as_jsonl_and_markdown() -> None:
    dialogue = Dialogue("Kurz.")
    dialogue.use(SIMPLE)
    _exchange(dialogue, "ä?", "Ja.\n")
    assert [json.loads(line) for line in as_jsonl(dialogue.turns).splitlines()] == [
        {"role": "system", "content": "Kurz."},
        {"role": "user", "content": "Q: ä?"},
        {"role": "assistant", "content": "Ja.\n"},
    ]
    assert as_markdown("Talk", dialogue.turns) == (
        "# Talk\n\n### system\n\nKurz.\n\n### user (simple/2)\n\nQ: ä?\n\n### assistant\n\nJa.\n"
    )
