"""Routes, and how alias moves change them."""

import pytest

from fledge.core.endpoint_state import CanaryProgress
from fledge.core.errors import InputError
from fledge.core.events import AliasMoved, ReleaseRefused, SharesChanged
from fledge.core.routes import Route, RouteArm
from fledge.releases.release_cache import ReleaseRef
from fledge.rollout.moves import Moves
from fledge.rollout.routes import apply_move, apply_shares, releases_of
from fledge.supervision.route_plan import plan_routes


def _routes(*targets: str, split: tuple[str, ...] = (), shadow: str = "") -> tuple[Route, ...]:
    plan = plan_routes(targets, split, shadow)
    versions = {"champion": 1, "challenger": 2}
    return plan.routes({item: f"{item.name}/{item.version or versions[item.alias]}" for item in plan.references})


def test_alias_move_changes_only_arms_and_aliases_of_its_name() -> None:
    before = _routes("chat", "other/7", split=("champion=90", "challenger=10"), shadow="challenger=5%")
    after = apply_move(before, "chat", "challenger", "chat/3")
    assert [arm.release for arm in after[0].arms] == ["chat/1", "chat/3"]
    assert after[0].aliases == {"champion": "chat/1", "challenger": "chat/3"}
    assert after[0].shadow == RouteArm("challenger", "chat/3")
    assert after[1] == before[1]
    assert releases_of(before) == {"chat/1", "chat/2", "other/7"}
    assert releases_of(after) == {"chat/1", "chat/3", "other/7"}
    assert apply_move(before, "chat", "unknown", "chat/9") == before


def test_moves_and_shares_of_one_name_leave_the_aliases_of_another() -> None:
    before = _routes("chat", "other@champion", split=("champion=90", "challenger=10"))
    assert apply_move(before, "other", "champion", "other/8")[0] == before[0]
    after = apply_shares(before, "chat", {"champion": 0.75, "challenger": 0.25})
    assert after[0].arms == (RouteArm("champion", "chat/1", 0.75), RouteArm("challenger", "chat/2", 0.25))
    assert after[1] == before[1]


def test_aliases_without_a_share_and_unknown_aliases_get_no_requests() -> None:
    before = _routes("chat", split=("champion=90", "challenger=10"))
    after = apply_shares(before, "chat", {"champion": 1.0, "challenger": 0.0, "unknown": 0.5})
    assert after[0].arms == (RouteArm("champion", "chat/1", 1.0),)


def test_targets_become_routes() -> None:
    plan = plan_routes(["models:/chat@champion", "chat/2"], [], "")
    assert plan.references == (ReleaseRef("chat", "champion", ""), ReleaseRef("chat", "", "2"))
    (route,) = _routes("chat", split=("champion=1", "challenger=3"))
    assert [(arm.alias, arm.weight) for arm in route.arms] == [("champion", 1.0), ("challenger", 3.0)]
    assert [route.versions for route in _routes("chat@champion", "chat/2", "other/7")] == [("chat/2",), ("other/7",)]
    assert _routes("chat", shadow="challenger=10%")[0].shadow_share == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("targets", "split", "shadow", "message"),
    [
        (["chat/x"], [], "", "invalid release 'chat/x'"),
        (["@champion"], [], "", "invalid release '@champion'"),
        (["chat"], ["champion"], "", "invalid share 'champion'"),
        (["chat"], ["champion=0"], "", "invalid share 'champion=0'"),
        (["chat"], ["a=1", "a=2"], "", "names an alias twice"),
        (["chat"], [], "challenger=150%", "at most 100 %"),
    ],
)
def test_invalid_arguments_are_refused(targets: list[str], split: list[str], shadow: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_routes(targets, split, shadow)


# Pending moves


def _moves() -> Moves:
    route = Route("mine", (RouteArm("champion", "mine/1"),), {"champion": "mine/1", "challenger": "mine/2"})
    return Moves((route,), {"mine/1": "one", "mine/2": "two"})


def _arms(moves: Moves) -> dict[str, float]:
    return {arm.release: arm.weight for arm in moves.routes[0].arms}


def _move_to(release: str, alias: str = "challenger") -> AliasMoved:
    return AliasMoved("mine", alias, release, folder=release)


def _quarter_share(candidate: str) -> SharesChanged:
    shares, releases = {"champion": 0.75, "challenger": 0.25}, {"champion": "mine/1", "challenger": candidate}
    return SharesChanged("mine", "champion", shares, releases, CanaryProgress(candidate, "running", 0.25, ""))


def test_move_completes_when_its_engine_is_ready() -> None:
    moves = _moves()
    assert moves.begin(_move_to("mine/3")) == set()
    assert moves.finish(set().__contains__) == []
    assert moves.current_release("mine", "challenger") == "mine/2"
    assert [item.release for item in moves.finish({"mine/3"}.__contains__)] == ["mine/3"]
    assert (moves.current_release("mine", "challenger"), sorted(moves.folders)) == ("mine/3", ["mine/1", "mine/3"])


def test_newer_move_replaces_a_pending_one() -> None:
    moves = _moves()
    moves.begin(_move_to("mine/3"))
    assert moves.begin(_move_to("mine/4")) == {"mine/3"}
    assert moves.begin(_move_to("mine/2")) == {"mine/4"}
    assert sorted(moves.folders) == ["mine/1", "mine/2"]


def test_abandoned_release_reports_the_one_kept() -> None:
    moves = _moves()
    moves.begin(_move_to("mine/3", "champion"))
    (refused,) = moves.give_up("mine/3", "it is damaged")
    assert refused == ReleaseRefused("mine", "champion", "mine/3", "mine/1", "it is damaged", old_folder="one")
    assert sorted(moves.folders) == ["mine/1", "mine/2"]


def test_shares_apply_only_to_their_releases() -> None:
    moves = _moves()
    assert moves.share(_quarter_share("mine/2"))
    assert _arms(moves) == {"mine/1": 0.75, "mine/2": 0.25}
    assert not moves.share(_quarter_share("mine/2"))
    moves.begin(_move_to("mine/3"))
    assert moves.share(_quarter_share("mine/3"))  # not ready yet, and the guards do not watch mine/2
    assert _arms(moves) == {"mine/1": 1.0}
    moves.finish({"mine/3"}.__contains__)
    assert _arms(moves) == {"mine/1": 0.75, "mine/3": 0.25}
