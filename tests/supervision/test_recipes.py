"""What others are given to run an endpoint by."""

import configparser
import json
import re
import shlex
from pathlib import Path

from tests.conftest import Run


def test_a_unit_serves_with_the_same_words(fledge: Run, tmp_path: Path) -> None:
    words = ["chat@champion", "--port", "5002", "--drain-s", "12", "--no-record"]
    done = fledge("serve", *words, "--print-unit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(done.stdout)
    command = shlex.split(unit["Service"]["ExecStart"])
    assert command[1:4] == ["-m", "fledge", "serve"]
    assert set(command[4:]) == {*words, "12.0"} - {"12"}
    assert unit["Service"]["TimeoutStopSec"] == "42"
    assert unit["Service"]["WorkingDirectory"] == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_image_serves_on_all_addresses_whatever_was_given(fledge: Run, tmp_path: Path) -> None:
    done = fledge("serve", "chat", "--host", "127.0.0.1", "--port", "5002", "--print-dockerfile", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", done.stdout, flags=re.MULTILINE)
    assert json.loads(entry) == ["fledge", "serve", "chat", "--port", "5002", "--host", "0.0.0.0"]
    assert "EXPOSE 5002" in done.stdout
