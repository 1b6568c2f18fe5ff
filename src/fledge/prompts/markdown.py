"""Prompts as Markdown files: YAML between two `---` lines, then the template.

The final line end belongs to the file; all else is part of the template. A conversation is `messages` in the YAML,
without a template after it. A file without YAML is only a template.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.prompts.prompt import FORMATS, Draft, Prompt
from fledge.prompts.template import Template

KEYS = ("name", "message", "tags", "aliases", "settings", "format", "system", "messages")

_OPENING = re.compile(r"---[ \t]*(\r?\n)")
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # PyYAML reads them as spaces unless they are escaped
_CLOSING = re.compile(r"^---[ \t]*(?:\r?\n|\Z)", re.MULTILINE)


def read(path: Path, name: str = "") -> Draft:
    """Read a prompt file. Its name is `name` if given, else the one in the YAML, else the stem of the file name.

    Raises `InputError` that names the file and line.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: {reason}", hint="give an existing text file in UTF-8") from None
    try:
        front, template = _parse(content)
        return Draft(
            name or front.get("name", path.stem),
            template,
            tuple(front.get("aliases", ())),
            front.get("tags", {}),
            front.get("settings", {}),
            front.get("message", ""),
            front.get("format", "auto"),
            front.get("system", ""),
        )
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None


def write(prompt: Prompt) -> str:
    """Format a prompt as a file for `read`, with everything but the version."""
    front: dict[str, Any] = {
        "name": prompt.name,
        "message": prompt.message,
        "tags": dict(prompt.tags),
        "aliases": list(prompt.aliases),
        "settings": dict(prompt.settings),
        "format": prompt.format if prompt.format != "auto" else "",
        "system": prompt.system,
    }
    body = ""
    if isinstance(prompt.template, str):
        body = prompt.template + "\n"
    else:
        front["messages"] = [vars(turn) for turn in prompt.template]
    kept = {key: value for key, value in front.items() if value}
    return f"---\n{yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)}---\n{body}"


def _parse(content: str) -> tuple[dict[str, Any], Template]:
    opening = _OPENING.match(content)
    if opening is None:
        return {}, re.sub(r"\r?\n\Z", "", content)
    closing = _CLOSING.search(content, opening.end())
    if closing is None:
        raise InputError("line 1: '---' starts YAML that is not closed", hint="close it with a line of '---'")
    front = _parse_front_matter(content[opening.end() : closing.start()])
    body = content[closing.end() :]
    if "messages" not in front:
        return front, body.removesuffix(opening[1])  # may be a Windows line end
    if body.strip():
        line = content.count("\n", 0, closing.end()) + 1
        raise InputError(f"line {line}: a template after messages", hint="give one of the two")
    return front, tuple(Message(turn["role"], turn["content"]) for turn in front["messages"])


def _parse_front_matter(text: str) -> dict[str, Any]:
    """Parse the YAML and check the type of each value."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 2 if error.problem_mark else 1
        raise InputError(f"line {line}: {error.problem or 'not YAML'}", hint="put text in quotes") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"not YAML: {str(error).splitlines()[0]}", hint="put text in quotes") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise InputError("line 2: not a list of keys and values", hint=f"keys: {', '.join(KEYS)}")
    seen: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 2
        if key.value not in KEYS:
            raise InputError(f"line {line}: unknown key {key.value!r}", hint=f"keys: {', '.join(KEYS)}")
        if key.value in seen:
            raise InputError(f"line {line}: duplicate key {key.value!r}")
        seen.add(key.value)
        expected = _expected_type(key.value, values[key.value])
        if expected:
            hint = "" if key.value == "format" else "put text in quotes"
            raise InputError(f"line {line}: {key.value} must be {expected}", hint=hint)
    return dict(values)


def _expected_type(key: str, value: Any) -> str:
    """Describe the type that the value should have; an empty string if it has it."""
    if key in ("name", "message", "system"):
        return "" if isinstance(value, str) else "text"
    if key == "format":
        return "" if value in FORMATS else f"one of {', '.join(FORMATS)}, not {value!r}"
    if key == "aliases":
        return "" if isinstance(value, list) and all(isinstance(item, str) for item in value) else "a list of text"
    if key == "tags":
        return "" if _is_text_to_text(value) else "names and text"
    if key == "settings":
        return "" if isinstance(value, dict) and _is_json(value) else "names and plain values"
    fitting = isinstance(value, list) and all(
        _is_text_to_text(turn) and turn.keys() == {"role", "content"} for turn in value
    )
    return "" if fitting else "a list of role and content"


def _is_text_to_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair)


def _is_json(value: dict[Any, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


class _Dumper(yaml.SafeDumper):
    """Writes multi-line text as a literal block if YAML allows it."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if _LINE_ENDS.search(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
