"""References to runs by a prefix of their ids."""

import pytest

from fledge.core.errors import InputError
from fledge.experiments.run_ids import match_run, short_id

IDS = ("abcd" + "0" * 28, "abcd" + "1" * 28, "ef" * 16)


@pytest.mark.parametrize(
    ("name", "found"),
    [(IDS[0], IDS[0]), ("abcd0", IDS[0]), ("efef", IDS[2]), ("efe", None), ("", None), ("fefe", None), ("ABCD0", None)],
)
def test_run_is_matched_by_four_or_more_characters_of_its_id(name: str, found: str | None) -> None:
    assert match_run(name, IDS) == found


def test_ambiguous_prefix_is_refused_with_the_matching_ids() -> None:
    with pytest.raises(InputError, match=f"2 runs begin with 'abcd': {IDS[0]}, {IDS[1]}"):
        match_run("abcd", IDS)
    many = [f"abcd{number:028d}" for number in range(13)]
    with pytest.raises(InputError, match=r"13 runs begin with 'abcd'.* and 3 more"):
        match_run("abcd", many)


def test_short_id_is_unique_among_the_runs() -> None:
    run, close = "a" * 32, "a" * 12 + "b" * 20
    assert short_id(run) == "a" * 8
    assert short_id(run, [run, "c" * 32]) == "a" * 8
    assert short_id(run, [run, close]) == "a" * 13
    assert match_run(short_id(run, [run, close]), [run, close]) == run
