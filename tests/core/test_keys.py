"""Whose a key is: keys of several names, and a file that changes, breaks and vanishes while it is used."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.core.keys import Keys, read_keys

RELOAD_S = 0.05
ALICE, BOB, OWN = "a" * 32, "b" * 64, "o" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\nalice {ALICE}\n  bob\t{BOB}  \n", encoding="utf-8")
    return path


def _names(keys: Keys, *given: str) -> list[str | None]:
    return [keys.name_of(key.encode()) for key in given]


def _later(change: Callable[[], object]) -> None:
    change()
    time.sleep(2 * RELOAD_S)


def test_each_key_has_its_name_and_nothing_else_has_one(file: Path) -> None:
    keys = Keys(OWN, file, RELOAD_S)
    assert keys.needed
    assert _names(keys, ALICE, BOB, OWN) == ["alice", "bob", "default"]
    wrong = ["", " ", "a" * 31, "a" * 33, ALICE.upper(), f" {ALICE}", "alice", f"alice {ALICE}", BOB[:32]]
    assert _names(keys, *wrong) == [None] * len(wrong)
    assert keys.name_of(b"\xff\xfe" * 20) is None


def test_without_any_key_none_is_needed() -> None:
    keys = Keys("", None)
    assert not keys.needed
    assert keys.name_of(b"") is None


def test_an_empty_file_lets_nobody_in_and_a_key_is_still_needed(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# nobody yet\n", encoding="utf-8")
    keys = Keys("", tmp_path / "keys")
    assert keys.needed
    assert keys.name_of(b"") is None


def test_a_name_default_in_the_file_takes_nothing_from_the_environments_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"default {ALICE}\n", encoding="utf-8")
    assert _names(Keys(OWN, tmp_path / "keys"), OWN, ALICE) == ["default", "default"]


def test_keys_that_are_no_ascii_are_compared_as_bytes(tmp_path: Path) -> None:
    key = "ключ" * 8
    (tmp_path / "keys").write_text(f"\ufeffolga {key}\n", encoding="utf-8")
    assert _names(Keys("", tmp_path / "keys"), key, "ключ" * 7) == ["olga", None]


def test_keys_are_added_and_revoked_while_they_are_used(file: Path) -> None:
    keys = Keys("", file, RELOAD_S)
    _later(lambda: file.write_text(f"carol {'c' * 32}\nbob {BOB}\n", encoding="utf-8"))
    assert _names(keys, ALICE, BOB, "c" * 32) == [None, "bob", "carol"]


def test_a_key_replaced_by_one_of_the_same_length_at_once_is_revoked(file: Path) -> None:
    keys = Keys("", file, RELOAD_S)
    content = file.read_text(encoding="utf-8")
    with file.open("r+", encoding="utf-8") as opened:  # the same file, as long as before
        opened.write(content.replace(ALICE, "z" * 32))
    _later(lambda: None)
    assert _names(keys, ALICE, "z" * 32) == [None, "alice"]


@pytest.mark.parametrize("broken", ["alice short\n", "one two three\n", f"a {ALICE}\na {BOB}\n", "\0\0", "lonely\n"])
def test_a_broken_file_opens_nothing_until_it_is_mended(
    file: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(OWN, file, RELOAD_S)
    good = file.read_text(encoding="utf-8")
    _later(lambda: file.write_text(good + broken, encoding="utf-8"))
    assert _names(keys, ALICE, BOB, OWN) == [None, None, "default"]
    assert str(file) in caplog.text
    _later(lambda: file.write_text(good, encoding="utf-8"))
    assert _names(keys, ALICE) == ["alice"]


def test_a_file_that_vanishes_or_holds_no_text_opens_nothing(file: Path) -> None:
    keys = Keys("", file, RELOAD_S)
    _later(file.unlink)
    assert _names(keys, ALICE) == [None]
    assert keys.needed
    _later(lambda: file.write_bytes(b"\xff\xfe\x00" + ALICE.encode()))
    assert _names(keys, ALICE) == [None]
    _later(lambda: file.write_text(f"alice {ALICE}\n", encoding="utf-8"))
    assert _names(keys, ALICE) == ["alice"]


@pytest.mark.parametrize(
    ("content", "told"),
    [("alice short", "at least 32 bytes"), ("alice", "line 1"), (f"\nx {ALICE}\nx {BOB}", "line 3")],
)
def test_a_bad_file_is_told_by_its_line_and_never_by_its_keys(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "keys").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=told) as caught:
        read_keys(tmp_path / "keys")
    assert not any(key in caught.value.message for key in ("short", ALICE, BOB))
    assert "openssl rand" in caught.value.hint


def test_a_file_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            Keys("", path)
