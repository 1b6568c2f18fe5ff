import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fledge.cli.prompts import prompts
from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.prompts.markdown import read
from tests.conftest import Run

Shown = Callable[..., str]


@pytest.fixture
def show(workspace: Workspace) -> Shown:
    """Run a command in this process and return its output."""

    def run(command: str, *arguments: str) -> str:
        options = ["--tracking-uri", workspace.tracking]
        done = CliRunner().invoke(prompts, [command, *options, *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout_bytes.decode()  # `stdout` has other line ends

    return run


@pytest.fixture
def ask(show: Shown) -> Callable[..., Any]:
    """Run a command in this process and return its JSON."""
    return lambda *arguments: json.loads(show(*arguments, "--json"))


def _write(**files: str) -> list[str]:
    for name, content in files.items():
        Path(f"{name}.md").write_text(content, newline="")
    return [f"{name}.md" for name in files]


def test_register_marks_new_versions(ask: Callable[..., Any], show: Shown) -> None:
    files = _write(
        qa="---\naliases: [good]\ntags: {team: a}\nsettings: {top_p: 0.5}\nmessage: first\n---\nQ: {{question}}\n",
        chat="---\nmessages: [{role: user, content: '{{question}}'}]\n---\n",
    )
    first = ask("register", *files)
    assert first == [
        {
            "name": "qa",
            "version": 1,
            "uri": "prompts:/qa/1",
            "aliases": ["good"],
            "template": "Q: {{question}}",
            "tags": {"team": "a"},
            "settings": {"top_p": 0.5},
            "format": "auto",
            "system": "",
            "message": "first",
            "new": True,
        },
        {
            "name": "chat",
            "version": 1,
            "uri": "prompts:/chat/1",
            "aliases": [],
            "template": [{"role": "user", "content": "{{question}}"}],
            "tags": {},
            "settings": {},
            "format": "auto",
            "system": "",
            "message": "",
            "new": True,
        },
    ]
    assert [answer["new"] for answer in ask("register", *files)] == [False, False]
    _write(qa="Question: {{question}}\n")
    assert show("register", *files) == "qa/2\nchat/1 (unchanged)\n"


def test_name_requires_a_single_file(ask: Callable[..., Any]) -> None:
    (file,) = _write(qa="---\nname: other\n---\n{{question}}")
    assert ask("register", file, "--name", "mine")[0]["name"] == "mine"


def test_invalid_file_prevents_all_registrations(show: Shown, ask: Callable[..., Any]) -> None:
    files = _write(good="{{question}}", bad="no variable")
    with pytest.raises(InputError, match=r"bad\.md: prompt 'bad' has no variable"):
        show("register", *files)
    with pytest.raises(InputError, match="--name is for one file"):
        show("register", "good.md", "good.md", "--name", "x")
    with pytest.raises(InputError, match="two files for prompt 'good'"):
        show("register", "good.md", "good.md")
    assert ask("list") == []


def test_list_filters_by_tag(ask: Callable[..., Any], show: Shown) -> None:
    ask("register", *_write(a="---\ntags: {team: x, kind: short}\n---\n{{question}}", b="{{question}}"))
    assert [row["name"] for row in ask("list")] == ["a", "b"]
    assert [row["name"] for row in ask("list", "--tag", "team=x", "--tag", "kind=short")] == ["a"]
    assert ask("list", "--tag", "team=y") == []
    assert "team=x, kind=short" in " ".join(show("list").split())
    with pytest.raises(InputError, match="--tag 'team' has no key and value"):
        show("list", "--tag", "team")


def test_show_prints_a_registrable_file(ask: Callable[..., Any], show: Shown) -> None:
    content = "---\nname: qa\ntags:\n  team: x\n---\n\tQ:\r\n {{question}} 😀 \n\n"
    ask("register", *_write(qa=content))
    assert show("show", "qa", "--markdown") == content
    Path("again.md").write_text(show("show", "qa/1", "--markdown"), newline="")
    assert read(Path("again.md")) == read(Path("qa.md"))
    assert show("show", "simple") == "Question: {{question}}\nAnswer:\n"
    assert ask("show", "qa", "--markdown")["template"] == "\tQ:\r\n {{question}} 😀 \n"


def test_diff_shows_changed_words(ask: Callable[..., Any], show: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("Answer the {{question}}.", "Answer each {{question}}.", "Answer each {{question}}!"):
        ask("register", *_write(qa=text))
    assert ask("diff", "qa/1", "qa/2") == {
        "a": "qa/1",
        "b": "qa/2",
        "changed": True,
        "parts": [
            {"op": "equal", "text": "Answer "},
            {"op": "delete", "text": "the"},
            {"op": "insert", "text": "each"},
            {"op": "equal", "text": " {{question}}."},
        ],
        "format": {"a": "auto", "b": "auto"},
        "system": {"a": "", "b": ""},
    }
    assert (ask("diff", "qa")["a"], ask("diff", "qa")["b"]) == ("qa/2", "qa/3")
    assert ask("diff", "qa/2", "qa/2")["changed"] is False
    assert show("diff", "qa/1", "qa/2") == "qa/1 -> qa/2\nAnswer [-the-]{+each+} {{question}}.\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "Answer \x1b[9;31mthe\x1b[0m\x1b[32meach\x1b[0m {{question}}." in show("diff", "qa/1", "qa/2")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "Answer [-the-]{+each+} {{question}}." in show("diff", "qa/1", "qa/2")


def test_format_and_system_text_are_shown(ask: Callable[..., Any], show: Shown) -> None:
    ask("register", *_write(qa="{{question}}\n"))
    content = "---\nname: qa\nformat: chat\nsystem: Be kind.\n---\n{{question}}\n"
    assert ask("register", *_write(qa=content))[0]["version"] == 2
    assert show("show", "qa/1") == "{{question}}\n"
    assert show("show", "qa/2") == "format: chat\nsystem: Be kind.\n{{question}}\n"
    assert show("show", "qa/2", "--markdown") == content
    shown = ask("show", "qa/2")
    assert (shown["format"], shown["system"], shown["tags"]) == ("chat", "Be kind.", {})
    found = ask("diff", "qa")
    assert (found["changed"], found["format"]) == (True, {"a": "auto", "b": "chat"})
    assert found["system"] == {"a": "", "b": "Be kind."}
    lines = "qa/1 -> qa/2\nformat: auto -> chat\nsystem: none -> Be kind.\n{{question}}\n"
    assert show("diff", "qa") == lines


def test_diff_needs_two_versions(show: Shown) -> None:
    show("register", *_write(qa="{{question}}"))
    with pytest.raises(InputError, match="prompt 'qa' has one version"):
        show("diff", "qa")
    with pytest.raises(InputError, match="'qa/1' is one version"):
        show("diff", "qa/1")
    with pytest.raises(InputError, match="one name or two"):
        show("diff", "qa", "qa", "qa")
    with pytest.raises(InputError, match="no prompt 'qa/2'"):
        show("diff", "qa/1", "qa/2")


def test_alias_is_set_and_deleted(ask: Callable[..., Any], show: Shown) -> None:
    for text in ("1 {{question}}", "2 {{question}}"):
        ask("register", *_write(qa=text))
    assert ask("alias", "qa/1", "good") == {"name": "qa", "alias": "good", "from": None, "to": 1}
    assert ask("alias", "qa/2", "good") == {"name": "qa", "alias": "good", "from": 1, "to": 2}
    assert ask("show", "qa@good")["version"] == 2
    assert show("alias", "qa/1", "good") == "qa@good: 2 -> 1\n"
    assert ask("alias", "qa", "good", "--delete") == {"name": "qa", "alias": "good", "from": 1, "to": None}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["qa", "good"], "'qa' names no version"),
        (["qa@other", "good"], "'qa@other' names no version"),
        (["qa/1", "good", "--delete"], "'qa/1' names more than the prompt"),
        (["qa", "good", "--delete"], "prompt 'qa' has no alias 'good'"),
        (["qa/7", "good"], "no prompt 'qa/7'"),
        (["qa/1", "no good"], "cannot be an alias"),
    ],
)
def test_invalid_alias_is_refused(show: Shown, arguments: list[str], expected: str) -> None:
    show("register", *_write(qa="{{question}}"))
    with pytest.raises(InputError, match=expected):
        show("alias", *arguments)


def test_errors_exit_2_with_a_hint(fledge: Run, workspace: Workspace) -> None:
    done = fledge("prompts", "show", "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: no prompt 'nothing' in" in done.stderr
    assert "try: fledge prompts list" in done.stderr
