"""Commands and links in the README and the docs are valid, and every command has a help page."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fledge.cli.main import COMMANDS, app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _commands(page: Path) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("fledge ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_flags_on_the_page_exist(page: Path) -> None:
    for line in _commands(page):
        words = shlex.split(line, comments=True)[1:]
        command: click.Command = app
        with click.Context(app) as context:
            while isinstance(command, click.Group) and words and not words[0].startswith("-"):
                found = command.get_command(context, words.pop(0))
                assert found is not None, line
                command = found
            flags = {flag for param in command.get_params(context) for flag in (*param.opts, *param.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= flags, line


def test_the_readme_starts_with_the_make_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"```console\n(.*?)```", text, flags=re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()][-2:] == ["make demo", "make test"]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_help_page(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert COMMANDS[name][1]
    assert "Usage:" in result.output


def test_no_page_contains_a_machine_path() -> None:
    for page in PAGES:
        assert not re.search(r"/(root|work|home/\w+|tmp)/", page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_on_the_page_point_to_existing_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
