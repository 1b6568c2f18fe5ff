"""Named keys, and a key file that changes, becomes invalid or is deleted."""

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


def _change(change: Callable[[], object]) -> None:
    change()
    time.sleep(2 * RELOAD_S)


def test_only_exact_keys_have_a_name(file: Path) -> None:
    keys = Keys(OWN, file, RELOAD_S)
    assert keys.needed
    assert _names(keys, ALICE, BOB, OWN) == ["alice", "bob", "default"]
    wrong = ["", " ", "a" * 31, "a" * 33, ALICE.upper(), f" {ALICE}", "alice", f"alice {ALICE}", BOB[:32]]
    assert _names(keys, *wrong) == [None] * len(wrong)
    assert keys.name_of(b"\xff\xfe" * 20) is None


def test_no_key_is_required_without_keys() -> None:
    keys = Keys("", None)
    assert not keys.needed
    assert keys.name_of(b"") is None


def test_empty_file_rejects_every_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# nobody yet\n", encoding="utf-8")
    keys = Keys("", tmp_path / "keys")
    assert keys.needed
    assert keys.name_of(b"") is None


def test_name_default_in_the_file_keeps_the_environment_key_valid(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"default {ALICE}\n", encoding="utf-8")
    assert _names(Keys(OWN, tmp_path / "keys"), OWN, ALICE) == ["default", "default"]


def test_non_ascii_keys_are_accepted(tmp_path: Path) -> None:
    key = "ключ" * 8
    (tmp_path / "keys").write_text(f"\ufeffolga {key}\n", encoding="utf-8")
    assert _names(Keys("", tmp_path / "keys"), key, "ключ" * 7) == ["olga", None]


def test_keys_are_added_and_revoked_at_runtime(file: Path) -> None:
    keys = Keys("", file, RELOAD_S)
    _change(lambda: file.write_text(f"carol {'c' * 32}\nbob {BOB}\n", encoding="utf-8"))
    assert _names(keys, ALICE, BOB, "c" * 32) == [None, "bob", "carol"]


def test_key_replaced_by_one_of_the_same_length_is_revoked(file: Path) -> None:
    keys = Keys("", file, RELOAD_S)
    content = file.read_text(encoding="utf-8")
    with file.open("r+", encoding="utf-8") as opened:  # same inode and size
        opened.write(content.replace(ALICE, "z" * 32))
    _change(lambda: None)
    assert _names(keys, ALICE, "z" * 32) == [None, "alice"]


@pytest.mark.parametrize("broken", ["alice short\n", "one two three\n", f"a {ALICE}\na {BOB}\n", "\0\0", "lonely\n"])
def test_keys_of_an_invalid_file_are_rejected_until_it_is_fixed(
    file: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(OWN, file, RELOAD_S)
    good = file.read_text(encoding="utf-8")
    _change(lambda: file.write_text(good + broken, encoding="utf-8"))
    assert _names(keys, ALICE, BOB, OWN) == [None, None, "default"]
    assert str(file) in caplog.text
    _change(lambda: file.write_text(good, encoding="utf-8"))
    assert _names(keys, ALICE) == ["alice"]


def test_keys_of_a_deleted_or_binary_file_are_rejected(file: Path) -> None:
    keys = Keys("", file, RELOAD_S)
    _change(file.unlink)
    assert _names(keys, ALICE) == [None]
    assert keys.needed
    _change(lambda: file.write_bytes(b"\xff\xfe\x00" + ALICE.encode()))
    assert _names(keys, ALICE) == [None]
    _change(lambda: file.write_text(f"alice {ALICE}\n", encoding="utf-8"))
    assert _names(keys, ALICE) == ["alice"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [("alice short", "at least 32 bytes"), ("alice", "line 1"), (f"\nx {ALICE}\nx {BOB}", "line 3")],
)
def test_error_of_an_invalid_file_names_the_line_but_no_key(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "keys").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=problem) as caught:
        read_keys(tmp_path / "keys")
    assert not any(key in caught.value.message for key in ("short", ALICE, BOB))
    assert "openssl rand" in caught.value.hint


def test_unreadable_file_is_refused_at_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            Keys("", path)
