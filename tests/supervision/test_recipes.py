"""The systemd unit and Dockerfile of an endpoint."""

import configparser
import json
import re
from pathlib import Path

from fledge.supervision.recipes import systemd_unit
from tests.conftest import Run


def test_unit_serves_with_the_same_arguments(fledge: Run, tmp_path: Path) -> None:
    words = ["chat@champion", "--port", "5002", "--drain-s", "12", "--no-record"]
    done = fledge("serve", *words, "--print-unit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(done.stdout)
    command = unit["Service"]["ExecStart"].split()
    assert command[1:4] == ["-m", "fledge", "serve"]
    assert set(command[4:]) == {*words, "12.0"} - {"12"}
    assert unit["Service"]["TimeoutStopSec"] == "42"
    assert unit["Service"]["WorkingDirectory"] == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_arguments_in_a_unit_are_quoted_for_systemd() -> None:
    unit = systemd_unit("/opt/a b/python", "/srv/50%", ["chat", "--redact", r'regex:\b$"x', "--steps", "5,25"], 30)
    assert r'ExecStart="/opt/a b/python" -m fledge serve chat --redact "regex:\\b$$\"x" --steps 5,25' in unit
    assert "WorkingDirectory=/srv/50%%" in unit


def test_image_serves_on_all_addresses(fledge: Run, tmp_path: Path) -> None:
    done = fledge("serve", "chat", "--host", "127.0.0.1", "--port", "5002", "--print-dockerfile", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", done.stdout, flags=re.MULTILINE)
    assert json.loads(entry) == ["fledge", "serve", "chat", "--port", "5002", "--host", "0.0.0.0"]
    assert "EXPOSE 5002" in done.stdout
    assert done.stdout.index("mkdir --mode 700 .fledge") < done.stdout.index("VOLUME")  # else root would own it
