"""Routes as plain values: what an alias that moves changes, and what it does not."""

from typing import Any

import pytest

from fledge.core.errors import InputError
from fledge.models.kept import Reference
from fledge.supervision.route_plan import plan_routes
from fledge.supervision.routes import moved, releases_of


def _routes(*targets: str, split: tuple[str, ...] = (), shadow: str = "") -> list[dict[str, Any]]:
    plan = plan_routes(targets, split, shadow)
    versions = {"champion": 1, "challenger": 2}
    return plan.routes({item: f"{item.name}/{item.version or versions[item.alias]}" for item in plan.references})


def test_a_moved_alias_moves_its_arm_and_its_name_and_nothing_else() -> None:
    before = _routes("chat", "other/7", split=("champion=90", "challenger=10"), shadow="challenger=5%")
    after = moved(before, "chat", "challenger", "chat/3")
    assert [arm["release"] for arm in after[0]["arms"]] == ["chat/1", "chat/3"]
    assert after[0]["aliases"] == {"champion": "chat/1", "challenger": "chat/3"}
    assert after[0]["shadow"]["release"] == "chat/3"
    assert after[1] == before[1]
    assert releases_of(before) == {"chat/1", "chat/2", "other/7"}
    assert releases_of(after) == {"chat/1", "chat/3", "other/7"}
    assert moved(before, "chat", "unknown", "chat/9") == before


def test_what_a_user_wants_served() -> None:
    plan = plan_routes(["models:/chat@champion", "chat/2"], [], "")
    assert plan.references == (Reference("chat", "champion", ""), Reference("chat", "", "2"))
    (route,) = _routes("chat", split=("champion=1", "challenger=3"))
    assert [(arm["alias"], arm["weight"]) for arm in route["arms"]] == [("champion", 1.0), ("challenger", 3.0)]
    assert _routes("chat", shadow="challenger=10%")[0]["shadow_share"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("targets", "split", "shadow", "message"),
    [
        (["chat/x"], [], "", "no release 'chat/x'"),
        (["@champion"], [], "", "no release '@champion'"),
        (["chat"], ["champion"], "", "'champion' is no alias with its share"),
        (["chat"], ["champion=0"], "", "'champion=0' is no alias"),
        (["chat"], ["a=1", "a=2"], "", "names an alias twice"),
        (["chat"], [], "challenger=150%", "at most 100 %"),
    ],
)
def test_what_cannot_be_read_is_told(targets: list[str], split: list[str], shadow: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_routes(targets, split, shadow)
