from pathlib import Path

import pytest

from fledge.core.atomic_folder import build, digests, is_whole


def build_folder(folder: Path, text: str = "content") -> bool:
    """Return whether the folder was built now."""
    with build(folder) as (working, _):
        if working:
            (working / "inner").mkdir(parents=True)
            (working / "inner" / "file.txt").write_text(text)
    return working is not None


def test_folder_is_built_once(tmp_path: Path) -> None:
    assert build_folder(tmp_path / "a")
    assert not build_folder(tmp_path / "a", "other")
    assert digests(tmp_path / "a").keys() == {"inner/file.txt"}


@pytest.mark.parametrize("damage", ["changed", "removed", "added"])
def test_damaged_folder_is_rebuilt(damage: str, tmp_path: Path) -> None:
    build_folder(tmp_path / "a")
    file = tmp_path / "a" / "inner" / "file.txt"
    if damage == "removed":
        file.unlink()
    else:
        (file if damage == "changed" else file.with_name("more.txt")).write_text("damage")
    assert not is_whole(tmp_path / "a")
    assert build_folder(tmp_path / "a")
    assert is_whole(tmp_path / "a")
    assert file.read_text() == "content"


def test_failed_build_leaves_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with build(tmp_path / "a") as (working, _):
            assert working
            working.mkdir()
            (working / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
