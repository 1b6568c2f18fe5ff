"""Installation commands by origin."""

import json
from pathlib import Path
from typing import Any

import pytest

from fledge.core.installation import install_command, wheel_name


@pytest.mark.parametrize(
    ("origin", "command", "wheel"),
    [
        (None, 'pip install "fledge[serve,sign]"', ""),
        (
            {"url": "file:///home/me/my%20fledge", "dir_info": {"editable": True}},
            'pip install -e "/home/me/my fledge[serve,sign]"',
            "fledge-9.0-py3-none-any.whl",
        ),
        (
            {"url": "file:///home/me/fledge", "dir_info": {}},
            'pip install "/home/me/fledge[serve,sign]"',
            "fledge-9.0-py3-none-any.whl",
        ),
        (
            {"url": "file:///tmp/fledge-9.0-py3-none-any.whl", "archive_info": {}},
            'pip install "fledge[serve,sign] @ file:///tmp/fledge-9.0-py3-none-any.whl"',
            "fledge-9.0-py3-none-any.whl",
        ),
    ],
)
def test_command_uses_the_origin_of_the_installation(
    origin: dict[str, Any] | None, command: str, wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "fledge-9.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.4\nName: fledge\nVersion: 9.0\n")
    if origin is not None:
        (about / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path)
    assert install_command("serve,sign") == command
    assert wheel_name() == wheel
