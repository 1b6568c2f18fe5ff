"""Chat templates: a model's own Jinja template, rendered in a sandbox in a process of its own with limits.

A sandbox stops code, not work without end: the child ends itself after `TIME_LIMIT_S` of processor time (so
that a busy machine changes nothing), and cannot grow beyond `MEMORY_LIMIT_BYTES`.
"""

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fledge.core.errors import FledgeError, InputError
from fledge.core.processes import module_command
from fledge.core.types import Message
from fledge.models.config_files import FETCH_AGAIN, bad_value

TIME_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 1 << 30
MAX_CHARACTERS = 2_000_000
MAX_TEMPLATE = 200_000


class ChatTemplate:
    """Renders conversations with one template. `tokens` are the names of special tokens, as `eos_token`."""

    def __init__(self, source: str, tokens: dict[str, str]) -> None:
        self._start = json.dumps({"source": source, "tokens": tokens})
        self._lock = threading.Lock()
        self._child = self._spawn()

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text, up to where the answer begins.

        Raises `InputError` where the template refuses the conversation, or takes too much time or memory for it.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        with self._lock:
            reply = self._ask(json.dumps(turns))
            if not reply:
                self._stop()
                self._child = self._spawn()
        if not reply:
            raise InputError(
                f"the model's chat template took more than {TIME_LIMIT_S:g} s, or too much memory",
                hint="shorten the conversation, or send the prompt as plain text",
            )
        answer = json.loads(reply)
        if "error" in answer:
            raise InputError(f"the model's chat template refuses the conversation: {answer['error']}")
        return str(answer["text"])

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _ask(self, line: str) -> str:
        assert self._child.stdin  # noqa: S101 (opened as a pipe)
        assert self._child.stdout  # noqa: S101
        try:
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
            return self._child.stdout.readline()
        except BrokenPipeError:
            return ""

    def _spawn(self) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            module_command(__name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        assert child.stdin  # noqa: S101
        child.stdin.write(self._start + "\n")
        child.stdin.flush()
        return child

    def _stop(self) -> None:
        self._child.kill()
        self._child.communicate()


def read_template(folder: Path) -> ChatTemplate | None:
    """The chat template of a checked snapshot, None where it has none."""
    config = json.loads(_read(folder / "tokenizer_config.json") or "{}")
    source = _read(folder / "chat_template.jinja") or config.get("chat_template")
    if not source and (folder / "chat_template.json").is_file():
        source = json.loads(_read(folder / "chat_template.json")).get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next(
            (item.get("template") for item in source if isinstance(item, dict) and item.get("name") == "default"), None
        )
    if not source:
        return None
    if not isinstance(source, str):
        raise FledgeError(f"{folder}: the chat template is not a text", hint="fetch the model again")
    return ChatTemplate(source, special_tokens(config))


def check_template(value: Any, where: str, field: str) -> None:
    """Raise `InputError` if a chat template, or one of several by name, cannot be parsed. Nothing is rendered."""
    items = value if isinstance(value, list) else [value]
    texts = [item.get("template") if isinstance(item, dict) else item for item in items]
    for text in texts:
        if not isinstance(text, str) or len(text) > MAX_TEMPLATE:
            raise bad_value(where, field, value, f"which is not a text of up to {MAX_TEMPLATE:,} characters")
        try:
            _environment().parse(text)
        except TemplateError as error:
            place = f"{where}: line {getattr(error, 'lineno', 1)} of the chat template"
            raise InputError(f"{place} is broken: {str(error)!a}", hint=FETCH_AGAIN) from None
        except RecursionError:
            raise InputError(f"{where}: the chat template is nested too deeply", hint=FETCH_AGAIN) from None


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The texts of the special tokens that a `tokenizer_config.json` names."""
    named = {name: config.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: value for name, value in texts.items() if isinstance(value, str)}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


class _Generation(Extension):
    """`{% generation %}` marks what to train on; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates written for `transformers.apply_chat_template` expect."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda text: datetime.now().astimezone().strftime(text)
    return environment


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=bool(options.get("ensure_ascii", False)), indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _render(environment: ImmutableSandboxedEnvironment, start: dict[str, Any], messages: Any) -> dict[str, str]:
    try:
        if "template" not in start:
            start["template"] = environment.from_string(start["source"])
        text = start["template"].render(messages=messages, add_generation_prompt=True, **start["tokens"])
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (a template can raise anything; it is told, not run on)
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    if len(text) > MAX_CHARACTERS:
        return {"error": f"its text has {len(text)} characters"}
    return {"text": text}


def main() -> None:
    """The child: the template on the first line of stdin, then a conversation on each, and a rendered text back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; our end is stdin's
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    environment = _environment()
    start = json.loads(sys.stdin.readline() or "{}")
    for line in sys.stdin:
        messages = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S)
        reply = _render(environment, start, messages)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
