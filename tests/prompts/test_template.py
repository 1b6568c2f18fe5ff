import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.models.embedded.templates import TEMPLATES
from fledge.prompts.template import check, escape, fill, variables


def test_fills_every_occurrence() -> None:
    assert fill("{{a}} and {{ a }}, {{b}}", {"a": "x", "b": "y"}) == "x and x, y"


def test_a_value_is_not_expanded() -> None:
    assert fill("{{a}}{{b}}", {"a": "{{b}}", "b": "{a} {{a}} %s {0.__class__}"}) == "{{b}}{a} {{a}} %s {0.__class__}"


def test_error_names_the_missing_value() -> None:
    with pytest.raises(InputError, match="the prompt needs topic"):
        fill("{{question}} on {{topic}}", {"question": "?"})
    with pytest.raises(InputError, match="the prompt needs question, topic, which the question does not have"):
        fill("{{question}} on {{topic}}", {})


@pytest.mark.parametrize("template", ["{{a.b}}", "{{a[0]}}", "{{a|upper}}", "{{ 1 + 1 }}", "{{a!r}}", "{{}}", "{{ä}}"])
def test_only_plain_names_are_variables(template: str) -> None:
    with pytest.raises(InputError) as caught:
        check("mine", template)
    assert caught.value.message.startswith(f"prompt 'mine': {template!r} is not a plain name")


@pytest.mark.parametrize("part", ["{% if a %}", "{% for a in b\n%}", "{#\nnote\n#}"])
def test_jinja_is_rejected(part: str) -> None:
    with pytest.raises(InputError, match="is Jinja"):
        check("mine", f"{{{{question}}}} {part}")
    with pytest.raises(InputError, match="is Jinja"):
        check("mine", (Message("system", part), Message("user", "{{question}}")))


def test_other_braces_are_text() -> None:
    check("mine", 'Answer {{question}} as {"a": {"b": 1}}, in 5% {of} {#1} {%')


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ('{{ "{{literal}}" }} {{question}}', "{{literal}} Q"),
        ("{{'{%'}} raw %} {{question}}", "{% raw %} Q"),
        ('{{ "{" }}{{question}}{{ "}" }}', "{Q}"),
        ('{"q": {{question}}}', '{"q": Q}'),
        ("{{ '\"' }}{{question}}", '"Q'),
        ('a{{ "" }}b {{question}}', "ab Q"),
        (r'{{ "\{\{x\}\}" }} {{question}}', r"\{\{x\}\} Q"),
        ('{{ "{{{x}}}" }} {{question}}', "{{{x}}} Q"),
    ],
)
def test_quoted_text_in_braces_is_literal(template: str, filled: str) -> None:
    check("mine", template)
    assert variables(template) == ("question",)
    assert fill(template, {"question": "Q", "literal": "no"}) == filled


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{{question}}}", "'{{{question}}}' has three braces, which is ambiguous"),
        (r"\{\{x\}\} {{question}}", r"the backslashes in '\\{\\{x\\}\\}' escape nothing"),
        ("{% raw %}{{question}}{% endraw %}", "'{% raw %}' is Jinja; templates only replace names"),
        ("{{x y}} {{question}}", "'{{x y}}' is not a plain name; templates only replace names"),
    ],
)
def test_error_shows_how_to_write_braces(template: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        check("mine", template)
    assert caught.value.message == f"prompt 'mine': {problem}"
    assert '{{ "{' in caught.value.hint
    example = caught.value.hint.rpartition("write ")[2].rpartition("it ")[2]
    check("mine", example + " {{question}}")


@pytest.mark.parametrize(
    "template",
    [
        '{{ "Answer: " + question + "!" }} for {{question}}',
        '{{ "a" if q else "b" }} {{question}}',
    ],
)
def test_expressions_with_quotes_are_rejected(template: str) -> None:
    with pytest.raises(InputError, match="is not a plain name"):
        check("mine", template)


@given(st.text(alphabet="{}%# \"'\\ab\n", max_size=30))
def test_escape_round_trip(text: str) -> None:
    assert fill(escape(text), {}) == text
    check("mine", f"{escape(text)}\n{{{{question}}}}")


def test_a_template_needs_a_variable() -> None:
    with pytest.raises(InputError, match="has no variable") as caught:
        check("mine", "Say something.")
    assert caught.value.hint == "put {{question}} where the question belongs"


def test_single_braces_get_a_hint() -> None:
    with pytest.raises(InputError, match=r"'\{topic\}' is plain text") as caught:
        check("mine", "About {topic}")
    assert caught.value.hint == "write {{topic}}"


def test_one_turn_with_a_variable_is_enough() -> None:
    check("mine", (Message("system", "Be short."), Message("user", "{{question}}")))
    with pytest.raises(InputError, match="has no variable"):
        check("mine", (Message("system", "Be short."), Message("user", "Hello")))


def test_other_roles_are_rejected() -> None:
    with pytest.raises(InputError, match="a turn of 'tool'") as caught:
        check("mine", (Message("tool", "{{question}}"),))  # type: ignore[arg-type]
    assert caught.value.hint == "roles: system, user, assistant"


@pytest.mark.parametrize(("character", "name"), [("\0", "U+0000"), ("\ud800", "U+D800")])
def test_unsupported_characters_are_rejected(character: str, name: str) -> None:
    with pytest.raises(InputError, match=rf"the character U\+{name[2:]} at 13"):
        check("mine", "{{question}} " + character)


def test_default_templates_are_valid() -> None:
    assert list(TEMPLATES) == ["simple", "conversational", "expert", "educational"]
    for name, template in TEMPLATES.items():
        check(name, template)
        assert variables(template) == ("question",)


NAMES = ("a", "b", "question", "_x1")
ODD = st.sampled_from([" { ", " } ", " {a} ", "%s", "{0.__class__} ", " $a", "\\1", "\\g<0>", "\r\n", "{% x %}", "\0"])
TEXT = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=8) | ODD
VALUE = st.text(max_size=12) | st.sampled_from(["{{a}}", "{{ b }}", "{% raise %}", "{question}", "\\g<1>", "}}{{"])
SPACE = st.sampled_from(["", " ", "\n", " \t"])
VARIABLE = st.tuples(st.sampled_from(NAMES), SPACE, SPACE)


@settings(max_examples=10_000, deadline=None, database=None)
@given(st.lists(TEXT | VARIABLE, max_size=8), st.tuples(*[VALUE] * len(NAMES)))
def test_filling_is_one_pass_over_random_templates(
    parts: list[str | tuple[str, str, str]], given_values: tuple[str, ...]
) -> None:
    values = dict(zip(NAMES, given_values, strict=True))
    template = "".join(part if isinstance(part, str) else f"{{{{{part[1]}{part[0]}{part[2]}}}}}" for part in parts)
    expected = "".join(part if isinstance(part, str) else values[part[0]] for part in parts)
    assert fill(template, values) == expected
    assert set(variables(template)) == {part[0] for part in parts if not isinstance(part, str)}
