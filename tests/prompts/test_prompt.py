import pytest

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.prompts.prompt import Draft, Prompt, PromptRef, check_alias, parse_reference

CHAT = (Message("system", "You know {{topic}}."), Message("user", "{{question}} about {{topic}}?"))


def test_text_prompt() -> None:
    prompt = Prompt("qa", 3, "Q: {{question}}")
    assert (prompt.uri, prompt.label, prompt.variables) == ("prompts:/qa/3", "qa/3", ("question",))
    assert prompt.text == "Q: {{question}}"
    assert prompt.fill({"question": "{{question}}"}) == "Q: {{question}}"


def test_conversation_prompt() -> None:
    prompt = Prompt("qa", 1, CHAT)
    assert prompt.variables == ("topic", "question")
    assert prompt.text == "system: You know {{topic}}.\nuser: {{question}} about {{topic}}?"
    filled = prompt.fill({"topic": "{{question}}", "question": "What"})
    assert filled == (Message("system", "You know {{question}}."), Message("user", "What about {{question}}?"))


def test_missing_value_in_a_conversation_is_an_error() -> None:
    with pytest.raises(InputError, match="the prompt needs question"):
        Prompt("qa", 1, CHAT).fill({"topic": "x"})


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../up", ".hidden", "-x", "a\n", "ä", "x" * 201])
def test_invalid_names_are_rejected(name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a prompt"):
        Draft(name, "{{question}}")


def test_too_long_templates_are_rejected() -> None:
    Draft("qa", "{{question}}" + "x" * 99_988)
    for template in ("{{question}}" + "x" * 99_989, (Message("user", "{{question}}"), Message("user", "x" * 99_989))):
        with pytest.raises(InputError, match="has 100,001 characters"):
            Draft("qa", template)


@pytest.mark.parametrize("alias", ["", "a b", "a.b", "latest", "Latest", "3", "v3", "V12", "a\n"])
def test_invalid_aliases_are_rejected(alias: str) -> None:
    with pytest.raises(InputError, match="cannot be an alias"):
        check_alias(alias)
    with pytest.raises(InputError, match="cannot be an alias"):
        Draft("qa", "{{question}}", aliases=("good", alias))


@pytest.mark.parametrize("key", ["mlflow.prompt.text", "_mlflow_prompt_type"])
def test_mlflow_tags_are_reserved(key: str) -> None:
    with pytest.raises(InputError, match="is reserved by MLflow"):
        Draft("qa", "{{question}}", tags={key: "x"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("qa", PromptRef("qa", None, None)),
        ("qa/12", PromptRef("qa", 12, None)),
        ("qa@good", PromptRef("qa", None, "good")),
        ("prompts:/qa.v2/1", PromptRef("qa.v2", 1, None)),
    ],
)
def test_references_are_parsed(text: str, expected: PromptRef) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a b", "qa/", "qa/0", "qa/x", "qa@", "qa/1@good", "qa/1/2", "qa/-1", "models:/qa/1"]
)
def test_invalid_references_are_rejected(text: str) -> None:
    with pytest.raises(InputError, match=": invalid name"):
        parse_reference(text)
