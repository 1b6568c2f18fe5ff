"""Routing: stable assignments, shares of arms and shadows, and names of models."""

import collections
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fledge.core.routes import Route, RouteArm
from fledge.serving.routing import RoutedRequest, Routes, assign, hash_unit
from tests.serving.harness import client, create_workspace, served

UNITS = [f"user {number}" for number in range(10_000)]
WEIGHTS = [(90, 10), (50, 50), (1, 1, 1), (50, 30, 20), (99, 1), (0.5, 0.25, 0.25), (5, 10, 20, 65)]
NAMES = ("champion", "challenger", "third", "fourth")


def _arms(weights: tuple[float, ...]) -> list[RouteArm]:
    pairs = enumerate(zip(NAMES, weights, strict=False), start=1)
    return [RouteArm(alias, f"mine/{number}", weight) for number, (alias, weight) in pairs]


def _assigned(weights: tuple[float, ...], salt: str = "mine") -> list[str]:
    arms = _arms(weights)
    return [assign(salt, unit, arms).alias for unit in UNITS]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_match_the_weights(weights: tuple[float, ...]) -> None:
    counts = collections.Counter(_assigned(weights))
    expected = [weight / sum(weights) * len(UNITS) for weight in weights]
    seen = [counts[alias] for alias in NAMES[: len(weights)]]
    assert stats.chisquare(seen, expected).pvalue > 0.001
    assert _assigned(weights) == _assigned(tuple(3.7 * weight for weight in weights))  # only the ratios matter


@pytest.mark.parametrize("weights", WEIGHTS)
def test_growing_share_moves_units_only_to_its_arm(weights: tuple[float, ...]) -> None:
    before = _assigned(weights)
    for grown in range(len(weights)):
        changed = tuple(weight * (1.8 if place == grown else 1) for place, weight in enumerate(weights))
        moved = {new for old, new in zip(before, _assigned(changed), strict=True) if old != new}
        assert moved == {NAMES[grown]}


def test_growing_canary_keeps_its_units() -> None:
    had: set[str] = set()
    for share in (1, 5, 25, 50, 99):
        pairs = zip(UNITS, _assigned((100 - share, share)), strict=True)
        has = {unit for unit, alias in pairs if alias == "challenger"}
        assert had < has
        had = has


def test_assignment_ignores_the_order_and_releases_of_arms() -> None:
    arms = _arms((50, 30, 20))
    other = [RouteArm(arm.alias, "mine/9", arm.weight) for arm in reversed(arms)]
    assert all(assign("mine", unit, arms).alias == assign("mine", unit, other).alias for unit in UNITS[:2000])


def test_assignments_of_two_models_are_independent() -> None:
    pairs = zip(_assigned((50, 50), "mine"), _assigned((50, 50), "other"), strict=True)
    table = collections.Counter(pairs)
    seen = [[table[one, two] for two in NAMES[:2]] for one in NAMES[:2]]
    assert stats.chi2_contingency(seen).pvalue > 0.001


@given(st.text(max_size=50), st.text(max_size=50))
def test_hash_is_stable_and_within_the_unit_interval(salt: str, unit: str) -> None:
    assert 0 <= hash_unit(salt, unit) < 1
    assert hash_unit(salt, unit) == hash_unit(salt, unit)


def test_units_keep_their_places_after_an_upgrade() -> None:
    """The first 53 bits of SHA-256, as `printf 'mine\\0user 1' | sha256sum` prints them."""
    assert hash_unit("mine", "user 1") == (0x461358214BD106E2 >> 11) / 2**53


def test_unit_with_half_of_a_surrogate_pair_has_an_arm() -> None:
    assert assign("mine", "\ud83d", _arms((1.0,))).alias == "champion"  # JSON allows it as a user


@given(st.text(), st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=4))
@settings(max_examples=200)
def test_every_unit_has_an_arm(unit: str, weights: list[float]) -> None:
    arms = _arms(tuple(weights))
    assert assign("mine", unit, arms) in arms


ROUTES = Routes(
    (
        Route(
            "mine",
            (RouteArm("champion", "mine/1", 90.0), RouteArm("challenger", "mine/2", 10.0)),
            {"champion": "mine/1", "challenger": "mine/2", "old": "mine/3"},
            RouteArm("shade", "mine/4"),
            0.1,
        ),
        Route("other", (RouteArm("", "other/7"),)),
    )
)


@pytest.mark.parametrize(
    ("model", "release", "arm"),
    [
        ("mine@champion", "mine/1", "champion"),
        ("mine@challenger", "mine/2", "challenger"),
        ("mine@old", "mine/3", "old"),
        ("mine/2", "mine/2", ""),
        ("mine/4", "mine/4", ""),
        ("other", "other/7", ""),
        ("other/7", "other/7", ""),
    ],
)
def test_alias_and_version_names_select_a_release(model: str, release: str, arm: str) -> None:
    assert {ROUTES.find(model, unit) for unit in UNITS[:200]} == {RoutedRequest(release, arm, None)}


@pytest.mark.parametrize(
    "model",
    ["theirs", "mine@", "mine/", "mine/9", "mine/01", "mine/2/", "mine/2@champion", "mine@champion/1", "mine@nobody",
     "other/1", "other@champion", "MINE", " mine", "mine ", "@champion", "/1", "mine@champion@champion", "mine:1"],
)  # fmt: skip
def test_unknown_names_have_no_route(model: str) -> None:
    assert ROUTES.find(model, "somebody") is None


@given(st.text())
def test_any_text_finds_a_served_release_or_none(model: str) -> None:
    choice = ROUTES.find(model, "somebody")
    assert choice is None or choice.release in ROUTES.routes[0].releases | ROUTES.routes[1].releases


def test_empty_name_is_routed_like_the_first_name() -> None:
    for unit in UNITS[:500]:
        assert ROUTES.find("", unit) == ROUTES.find("mine", unit)


def test_shadow_share_is_independent_of_the_arm() -> None:
    choices = [choice for unit in UNITS if (choice := ROUTES.find("mine", unit))]
    assert len(choices) == len(UNITS)
    table = collections.Counter((choice.arm, choice.shadow is not None) for choice in choices)
    shadowed = table["champion", True] + table["challenger", True]
    assert stats.binomtest(shadowed, len(UNITS), 0.1).pvalue > 0.001
    seen = [[table[arm, shade] for shade in (True, False)] for arm in ("champion", "challenger")]
    assert stats.chi2_contingency(seen).pvalue > 0.001  # independent of the arm


def test_two_names_assign_and_shadow_independently() -> None:
    arms, shadow = tuple(_arms((50, 50))), RouteArm("shade", "mine/9")
    routes = Routes(tuple(Route(name, arms, shadow=shadow, shadow_share=0.5) for name in ("mine", "other")))
    found = [(routes.find("mine", unit), routes.find("other", unit)) for unit in UNITS]
    of_arms = collections.Counter((one.arm, two.arm) for one, two in found if one and two)
    of_shadows = collections.Counter((one.shadow is None, two.shadow is None) for one, two in found if one and two)
    for table, keys in ((of_arms, NAMES[:2]), (of_shadows, (False, True))):
        seen = [[table[one, two] for two in keys] for one in keys]  # type: ignore[index]
        assert stats.chi2_contingency(seen).pvalue > 0.001


def test_served_names_with_and_without_versions() -> None:
    names = ["mine", "mine@champion", "mine@challenger", "mine@old", "other"]
    assert ROUTES.names() == names
    versions = ["mine/1", "mine/2", "mine/3", "mine/4"]
    assert ROUTES.names(versions=True) == [*names[:4], *versions, "other", "other/7"]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 10_000)])
def test_shadow_share_of_zero_and_one(share: float, expected: int) -> None:
    route = Route("mine", (RouteArm("champion", "mine/1"),), shadow=RouteArm("shade", "mine/2"), shadow_share=share)
    choices = [Routes((route,)).find("", unit) for unit in UNITS]
    assert sum(choice is not None and choice.shadow is not None for choice in choices) == expected


def test_additional_version_is_served_by_name() -> None:
    arms, shadow = (RouteArm("champion", "mine/1"),), RouteArm("challenger", "mine/2")
    route = Route("mine", arms, {"champion": "mine/1"}, shadow, shadow_share=0.5, versions=("mine/7",))
    assert route.releases == {"mine/1", "mine/2", "mine/7"}
    assert Routes((route,)).find("mine/7", "") == RoutedRequest("mine/7", "", None)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> list[dict[str, str]]:
    """The arm and release that answered each of some users, for two starts of one endpoint."""
    config = create_workspace(tmp_path_factory.mktemp("split"), engine_cache, versions=2)
    found = []
    for _ in range(2):
        with (
            served(config, engine="scripted", split=("champion=70", "challenger=30")) as endpoint,
            client(endpoint) as http,
        ):
            found.append({user: _arm(http, user) for user in UNITS[:60]})
            found[-1] |= {f"session {user}": _arm(http, "", {"x-session-id": user}) for user in UNITS[:20]}
    return found


def _arm(http: Any, user: str, headers: dict[str, str] | None = None) -> str:
    body = {"messages": [{"role": "user", "content": "x"}], **({"user": user} if user else {})}
    answer = http.post("/v1/chat/completions", json=body, headers=headers)
    return f"{answer.headers['x-fledge-arm']} {answer.headers['x-fledge-release']}"


@pytest.mark.slow
def test_assignment_survives_a_restart(starts: list[dict[str, str]]) -> None:
    first, second = starts
    assert first == second
    assert set(first.values()) == {"champion mine/1", "challenger mine/2"}
    assert all(first[f"session {user}"] == first[user] for user in UNITS[:20])


@pytest.mark.slow
def test_running_endpoint_assigns_like_the_function(starts: list[dict[str, str]]) -> None:
    arms = _arms((70, 30))
    assert {user: arm.split()[0] for user, arm in starts[0].items() if user in UNITS} == {
        user: assign("mine", user, arms).alias for user in UNITS[:60]
    }
