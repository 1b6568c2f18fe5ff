"""`fledge chat`."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from fledge.chat.lines import read_entry
from fledge.chat.session import ChatConfig, Session, open_partner
from fledge.cli.options import command, settings
from fledge.cli.output import emit, emit_piece, json_option, message
from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.interrupts import shield_from_interrupts

HISTORY_LINES = 1000


class TerminatedError(KeyboardInterrupt):
    """Raised on SIGTERM: it ends the session even during an answer, which Ctrl-C only stops."""


@command()
@settings(ChatConfig)
@click.argument("target")
@json_option
def chat(target: str, as_json: bool, **flags: Any) -> None:
    """Talk to TARGET: the URL of an endpoint, or a model: embedded, smollm2, a folder, a GGUF file, a Hub id,
    NAME@alias, models:/NAME/3.

    Questions are read from stdin by line; answers are streamed to stdout. /help lists the commands. FLEDGE_API_KEY is
    the key of a fledge endpoint, OPENAI_API_KEY that of any other server.
    """
    config = ChatConfig.load(flags)
    talk = Talk(as_json)
    with _handle_sigterm(), contextlib.closing(open_partner(config, target, message)) as partner:
        session = Session(config, target, partner, talk.show, message, talk.hint)
        talk.hint(f"{partner.description}; /help lists the commands, Ctrl-D exits")
        try:
            with _edit_lines(talk, config.state_dir / "chat_history" if config.chat_history else None):
                talk.run(session)
        finally:
            if as_json:
                emit(as_json, {**session.as_dict(), "failed": talk.failed})
    if talk.failed and not talk.interactive:
        count = f"{talk.failed} entries" if talk.failed > 1 else "one entry"
        raise FledgeError(f"{count} failed", hint="see the messages above")


class Talk:
    """Input and output of a session. Prompts and hints are shown on a terminal only."""

    def __init__(self, as_json: bool) -> None:
        self.interactive = bool(sys.stdin) and sys.stdin.isatty()
        self.edits_lines = self.interactive and sys.stdout.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # an invalid byte fails its own line only
        self.failed = 0
        self._silent = as_json and not self.interactive  # the JSON document contains the answers

    def run(self, session: Session) -> None:
        """Read and handle entries until the input ends. Raises `KeyboardInterrupt` if Ctrl-C ends the session."""
        idle, warned = True, False
        while True:
            try:
                idle = True
                entry = read_entry(self._read)
                idle = warned = False
                if not session.handle(entry):
                    return
            except EOFError:
                self.hint("")
                return
            except FledgeError as error:
                self.failed += 1
                message(_format_line(error))
            except TerminatedError:
                raise
            except KeyboardInterrupt:
                if not self.interactive or (idle and warned):
                    raise
                with shield_from_interrupts():  # a second Ctrl-C right after stops the same answer
                    warned = idle
                    self.hint("\npress Ctrl-C again or Ctrl-D to exit" if idle else "(stopped)")

    def show(self, text: str) -> None:
        if text and not self._silent:
            emit_piece(text)

    def hint(self, text: str) -> None:
        if self.interactive and sys.stderr.isatty():
            message(text)

    def _read(self, continued: bool) -> str:
        prompt = "... " if continued else "> "
        if self.edits_lines:
            return input(prompt)
        if self.interactive and sys.stderr.isatty():
            emit_piece(prompt, to_stderr=True)
        line = sys.stdin.readline() if sys.stdin else ""
        if not line:
            raise EOFError
        return line.removesuffix("\n")


def _format_line(error: FledgeError) -> str:
    hint = f" (try: {error.hint})" if error.hint else ""
    return f"error: {' '.join(error.message.split())}{hint}"


@contextlib.contextmanager
def _handle_sigterm() -> Iterator[None]:
    def end(*_: Any) -> NoReturn:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _edit_lines(talk: Talk, history: Path | None) -> Iterator[None]:
    """Enable line editing and load and save `history`, if stdin and stdout are terminals."""
    if not talk.edits_lines:
        yield
        return
    try:
        import readline
    except ImportError:  # not on every system
        yield
        return
    readline.parse_and_bind("set enable-bracketed-paste on")  # several pasted lines are one question
    for line in _read_history(history)[-HISTORY_LINES:]:
        readline.add_history(line)
    try:
        yield
    finally:
        if history is not None:
            count = readline.get_current_history_length()
            _write_history(history, [readline.get_history_item(number + 1) for number in range(count)])


def _read_history(history: Path | None) -> list[str]:
    try:
        return history.read_text(encoding="utf-8").splitlines() if history else []
    except (OSError, ValueError):  # an unreadable history must not prevent the session
        return []


def _write_history(history: Path, lines: list[str]) -> None:
    kept = [line for line in lines if line and line.isprintable()][-HISTORY_LINES:]
    temporary = history.with_name(f".{history.name}.{os.getpid()}")
    try:
        state.ensure(history.parent)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in kept))
        temporary.replace(history)
    except (OSError, FledgeError):  # an unwritable history must not prevent the exit
        temporary.unlink(missing_ok=True)
