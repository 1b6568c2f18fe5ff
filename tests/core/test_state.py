import json
import stat
from pathlib import Path

import pytest

from fledge.core import state
from fledge.core.errors import FledgeError


def test_folder_is_private(tmp_path: Path) -> None:
    assert stat.S_IMODE(state.ensure(tmp_path / "own" / "sub").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(FledgeError, match="cannot create"):
        state.ensure(tmp_path / "file")


def test_json_is_replaced_atomically_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    state.write_json(path, {"a": 1})
    state.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["value.json"]


def test_full_disk_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match="not enough space in"):
        state.check_writable(tmp_path, need_bytes=10**18)


def test_unwritable_folder_is_reported() -> None:
    with pytest.raises(FledgeError, match="cannot create /proc/fledge"):
        state.check_writable(Path("/proc/fledge"))
