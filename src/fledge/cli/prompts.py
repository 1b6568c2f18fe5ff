"""`fledge prompts`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from fledge.cli.options import group, settings
from fledge.cli.output import emit, emit_exactly, json_option, message, table
from fledge.core.errors import InputError
from fledge.core.settings import Workspace, load
from fledge.prompts import markdown
from fledge.prompts.base_store import DEFAULTS
from fledge.prompts.diff import DiffPart, word_diff
from fledge.prompts.prompt import Draft, Prompt, PromptStore, parse_reference
from fledge.prompts.store import open_store
from fledge.tracking.connection import connect


@group()
def prompts() -> None:
    """Manage prompts in MLflow's registry."""


@prompts.command("list")
@settings(Workspace)
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only prompts with this tag; repeatable.")
@json_option
def list_(tags: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """List the newest version of every prompt; a built-in one gets a version at its first use."""
    wanted = dict(_parse_tag(tag) for tag in tags)
    found = _open_store(flags).list(wanted)
    rows: list[list[Any]] = [
        [prompt.name, prompt.version, ", ".join(prompt.aliases), _format_tags(prompt), prompt.text] for prompt in found
    ]
    there = {prompt.name for prompt in found}
    rows += [[name, "built in", "", "", text] for name, text in DEFAULTS.items() if not wanted and name not in there]
    emit(
        as_json,
        [_as_dict(prompt) for prompt in found],
        table("prompts", ["name", "version", "aliases", "tags", "template"], rows),
    )


@prompts.command()
@settings(Workspace)
@click.argument("name")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print it as a file for `prompts register`.")
@json_option
def show(name: str, as_markdown: bool, as_json: bool, **flags: Any) -> None:
    """Show one version of a prompt: NAME, NAME/3 or NAME@alias."""
    found = _open_store(flags).load(name)
    if as_markdown and not as_json:
        emit_exactly(markdown.write(found))
        return
    front = [f"format: {found.format}"] if found.format != "auto" else []
    front += [f"system: {found.system}"] if found.system else []
    emit(as_json, _as_dict(found), *front, found.text)


@prompts.command()
@settings(Workspace)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--name", default="", help="Name of the prompt, for one file. [default: from the file, or the file's name]"
)
@json_option
def register(files: tuple[Path, ...], name: str, as_json: bool, **flags: Any) -> None:
    """Register Markdown or text FILES as new versions; an unchanged text makes no new version.

    A Markdown file may begin with YAML between two lines of ---: name, message, tags, aliases, settings, format, system
    and, for a conversation, messages. If one file is invalid, none is registered.
    """
    if name and len(files) > 1:
        raise InputError("--name is for one file", hint="give the name in each file")
    drafts = [markdown.read(file, name) for file in files]
    _check_distinct(drafts)
    store = _open_store(flags)
    answers = []
    for draft in drafts:
        newest = _find_newest_version(store, draft.name)
        found = store.register(draft)
        answers.append({**_as_dict(found), "new": found.version > newest})
    lines = [f"{answer['name']}/{answer['version']}{'' if answer['new'] else ' (unchanged)'}" for answer in answers]
    emit(as_json, answers, *lines)


@prompts.command()
@settings(Workspace)
@click.argument("names", nargs=-1, required=True, metavar="A [B]")
@json_option
def diff(names: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Show a word diff of two prompts, or of the two newest versions of one NAME."""
    if len(names) > 2:
        raise InputError("diff takes one name or two", hint="fledge prompts diff qa/1 qa/2")
    store = _open_store(flags)
    before, after = _find_newest_two(store, names[0]) if len(names) == 1 else (store.load(name) for name in names)
    parts = word_diff(before.text, after.text)
    front = {name: (getattr(before, name), getattr(after, name)) for name in ("format", "system")}
    value = {
        "a": before.label,
        "b": after.label,
        "changed": any(was != now for was, now in [(before.template, after.template), *front.values()]),
        "parts": [part._asdict() for part in parts],
        **{name: {"a": was, "b": now} for name, (was, now) in front.items()},
    }
    lines = [f"{name}: {was or 'none'} -> {now or 'none'}" for name, (was, now) in front.items() if was != now]
    emit(as_json, value, f"{before.label} -> {after.label}", *lines, _format_diff(parts))


@prompts.command()
@settings(Workspace)
@click.argument("name")
@click.argument("alias_name", metavar="ALIAS")
@click.option("--delete", is_flag=True, help="Remove the alias.")
@json_option
def alias(name: str, alias_name: str, delete: bool, as_json: bool, **flags: Any) -> None:
    """Set ALIAS to a version (NAME/3 ALIAS), or delete it (NAME ALIAS --delete)."""
    reference = parse_reference(name)
    if delete == bool(reference.version) or reference.alias:
        usage = "NAME ALIAS --delete" if delete else "NAME/VERSION ALIAS"
        raise InputError(f"{name!r} names {'more than the prompt' if delete else 'no version'}", hint=usage)
    store = _open_store(flags)
    to = None if delete else reference.version
    if to is None:
        before = store.delete_alias(reference.name, alias_name)
    else:
        before = store.set_alias(reference.name, alias_name, to)
    value = {"name": reference.name, "alias": alias_name, "from": before, "to": to}
    emit(as_json, value, f"{reference.name}@{alias_name}: {before or 'none'} -> {to or 'none'}")


def _open_store(flags: dict[str, Any]) -> PromptStore:

    return open_store(connect(load(Workspace, flags).value.tracking), message)


def _find_newest_version(store: PromptStore, name: str) -> int:
    try:
        return store.versions(name)[-1].version
    except InputError:
        return 0


def _find_newest_two(store: PromptStore, name: str) -> Sequence[Prompt]:
    reference = parse_reference(name)
    if reference.version or reference.alias:
        raise InputError(f"{name!r} is one version", hint="name two: fledge prompts diff qa/1 qa/2")
    found = store.versions(reference.name)
    if len(found) < 2:
        raise InputError(f"prompt {reference.name!r} has one version", hint="name two: fledge prompts diff A B")
    return found[-2:]


def _format_diff(parts: Sequence[DiffPart]) -> Text:
    """Return the diff in colours on a terminal, else with brackets."""
    console = Console()
    if console.is_terminal and not console.no_color:
        styles = {"equal": "", "delete": "red strike", "insert": "green"}
        return Text.assemble(*((part.text, styles[part.op]) for part in parts))
    forms = {"equal": "{}", "delete": "[-{}-]", "insert": "{{+{}+}}"}
    return Text("".join(forms[part.op].format(part.text) for part in parts))


def _check_distinct(drafts: Sequence[Draft]) -> None:
    names = [draft.name for draft in drafts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two files for prompt {twice[0]!r}", hint="give each prompt once")


def _parse_tag(tag: str) -> tuple[str, str]:
    key, sign, value = tag.partition("=")
    if not (key and sign):
        raise InputError(f"--tag {tag!r} has no key and value", hint="--tag team=support")
    return key, value


def _format_tags(prompt: Prompt) -> str:
    return ", ".join(f"{key}={value}" for key, value in prompt.tags.items())


def _as_dict(prompt: Prompt) -> dict[str, Any]:
    template = prompt.template
    return {
        "name": prompt.name,
        "version": prompt.version,
        "uri": prompt.uri,
        "aliases": list(prompt.aliases),
        "template": template if isinstance(template, str) else [vars(turn) for turn in template],
        "tags": dict(prompt.tags),
        "settings": dict(prompt.settings),
        "format": prompt.format,
        "system": prompt.system,
        "message": prompt.message,
    }
