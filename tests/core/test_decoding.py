"""Decoding of dataclasses from JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from fledge.core.decoding import DecodeError, decode, read_json


@dataclass(frozen=True)
class _Arm:
    alias: str
    weight: float = 1.0


@dataclass(frozen=True)
class _AllTypes:
    arms: tuple[_Arm, ...]
    folders: Mapping[str, str]
    number: int | float | str
    seconds: float | None
    status: Literal["ready", "none"]
    pair: tuple[str, int]
    shadow: _Arm | None = None
    anything: object = None


GOOD: dict[str, Any] = {
    "arms": [{"alias": "champion"}, {"alias": "challenger", "weight": 2}],
    "folders": {"mine/1": "/one"},
    "number": 3,
    "seconds": 5,
    "status": "ready",
    "pair": ["a", 1],
    "shadow": {"alias": "challenger", "weight": 0.5},
    "anything": [{"x": None}],
}


def test_each_type_is_decoded() -> None:
    found = decode(_AllTypes, GOOD)
    assert found == _AllTypes(
        (_Arm("champion"), _Arm("challenger", 2.0)),
        {"mine/1": "/one"},
        3,
        5.0,
        "ready",
        ("a", 1),
        _Arm("challenger", 0.5),
        [{"x": None}],
    )
    assert isinstance(found.number, int)
    assert isinstance(found.seconds, float)
    assert decode(_AllTypes, {**GOOD, "shadow": None, "seconds": None}).seconds is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": [{"alias": 1}]}, r"field 'arms\.0\.alias' must be str, not 1"),
        ({"arms": [{}]}, r"missing field 'arms\.0\.alias'"),
        ({"arms": [{"alias": "a", "share": 1}]}, r"unknown field 'arms\.0\.share'"),
        ({"arms": {}}, r"field 'arms' must be list"),
        ({"folders": {"mine/1": None}}, r"field 'folders\.mine/1' must be str, not None"),
        ({"folders": []}, "field 'folders' must be object"),
        ({"number": True}, "field 'number' must be int or float or str, not True"),
        ({"seconds": "5"}, "field 'seconds' must be float or null, not '5'"),
        ({"seconds": False}, "field 'seconds' must be float or null, not False"),
        ({"status": "done"}, "field 'status' must be 'ready' or 'none', not 'done'"),
        ({"status": []}, "field 'status' must be"),
        ({"pair": ["a"]}, "field 'pair' must be list of 2"),
        ({"shadow": 1}, "field 'shadow' must be object"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_invalid_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(_AllTypes, {**GOOD, **changes})


def test_invalid_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "arm.json"
    path.write_text('{"alias": "champion", "weight": "1"}')
    with pytest.raises(DecodeError, match=r"arm\.json: field 'weight' must be float, not '1'"):
        read_json(_Arm, path)
    path.write_text("{")
    with pytest.raises(DecodeError, match=r"arm\.json: Expecting"):
        read_json(_Arm, path)
    path.write_text('{"alias": "champion"}')
    assert read_json(_Arm, path) == _Arm("champion")
