import random
import string

import pytest

from fledge.core.errors import InputError
from fledge.models.embedded.templates import TEMPLATES
from fledge.prompts.template import check, fill, variables


def test_fills_every_occurrence() -> None:
    assert fill("{{a}} and {{ a }}, {{b}}", {"a": "x", "b": "y"}) == "x and x, y"


def test_a_value_that_looks_like_a_variable_stays() -> None:
    assert fill("{{a}}{{b}}", {"a": "{{b}}", "b": "{a} {{a}} %s {0.__class__}"}) == "{{b}}{a} {{a}} %s {0.__class__}"


def test_missing_value_is_named() -> None:
    with pytest.raises(InputError, match="the prompt needs topic"):
        fill("{{question}} on {{topic}}", {"question": "?"})


@pytest.mark.parametrize("template", ["{{a.b}}", "{{a[0]}}", "{{a|upper}}", "{{ 1 + 1 }}", "{{a!r}}", "{{}}"])
def test_only_plain_names(template: str) -> None:
    with pytest.raises(InputError, match="is not a plain name"):
        check("mine", template)


def test_a_template_needs_a_variable() -> None:
    with pytest.raises(InputError, match="has no variable"):
        check("mine", "{question}")


def test_defaults_are_valid() -> None:
    assert list(TEMPLATES) == ["simple", "conversational", "expert", "educational"]
    for name, template in TEMPLATES.items():
        check(name, template)
        assert variables(template) == ("question",)


def test_filling_is_one_pass_over_random_templates() -> None:
    source = random.Random(1)
    alphabet = string.ascii_letters + "{}% \n"
    for _ in range(500):
        values = {name: "".join(source.choices(alphabet, k=12)) for name in "abc"}
        parts = ["".join(source.choices(string.ascii_letters + " \n", k=5)) for _ in range(4)]
        template = f"{parts[0]}{{{{a}}}}{parts[1]}{{{{b}}}}{parts[2]}{{{{c}}}}{parts[3]}"
        expected = parts[0] + values["a"] + parts[1] + values["b"] + parts[2] + values["c"] + parts[3]
        assert fill(template, values) == expected
