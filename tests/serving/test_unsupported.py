"""Parameters that are refused, accepted or ignored, and their table in the docs."""

import json
import re
from typing import Any

import pytest

from fledge.core.processes import ROOT
from fledge.serving.unsupported import HARMLESS, REFUSED, UnsupportedError, ignored_parameters

DOCS = ROOT.parent / "docs" / "endpoint.md"


def test_docs_list_every_parameter() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("### Unsupported parameters")[2].partition("\n### ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert rows == {
        name: ", ".join(f"`{json.dumps(value)}`" for value in values) or "none" for name, values in REFUSED.items()
    }
    assert set(re.findall(r"`(\w+)`", text.partition("have no effect:")[2].partition(".")[0])) == HARMLESS


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_value_that_asks_for_nothing_is_accepted(name: str) -> None:
    for value in (None, *REFUSED[name]):
        assert ignored_parameters({name: value}) == []
    with pytest.raises(UnsupportedError, match=f"^{name} is not supported"):
        ignored_parameters({name: {"something": "else"}})


@pytest.mark.parametrize(("name", "value"), [("length_penalty", False), ("echo_cancel", 1), ("best_of", True)])
def test_boolean_is_not_a_number(name: str, value: Any) -> None:
    if name in REFUSED:
        with pytest.raises(UnsupportedError):
            ignored_parameters({name: value})
    else:
        assert ignored_parameters({name: value}) == [name]


def test_harmless_parameters_are_not_listed() -> None:
    assert ignored_parameters({**dict.fromkeys(HARMLESS, "x"), "beams": 2}) == ["beams"]
