"""A chat session: ask questions and run commands; output goes to the callbacks of the caller."""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fledge.chat.commands import ChatCommand, help_text, parse
from fledge.chat.dialogue import Dialogue, Reply, as_jsonl, as_markdown
from fledge.chat.lines import Entry
from fledge.chat.partner import EnginePartner, Partner
from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.settings import load, option
from fledge.core.types import Say, silent
from fledge.engines import selection
from fledge.engines.selection import is_release, release_folder
from fledge.engines.settings import EngineSettings
from fledge.experiments.arms import PROMPT_SETTINGS, resolve_generation
from fledge.prompts.format import apply_format, prompt_of
from fledge.prompts.prompt import PromptStore
from fledge.prompts.store import open_prompts
from fledge.releases.manifest import load_manifest

OVERWRITE = "--overwrite "


@dataclass(frozen=True)
class ChatConfig(EngineSettings):
    """Settings of a session. Those not in `chosen` are not sent, so an endpoint uses its own."""

    generation: GenerationParams = field(default_factory=GenerationParams)
    system: str = option("", "system text before the conversation")
    chat_history: bool = option(True, "keep the input history of the terminal in the state folder")
    chosen: tuple[str, ...] = ()

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None) -> "ChatConfig":
        """Load from all sources of settings."""
        resolved = load(cls, flags)
        configured = {name for name, origin in resolved.origins.items() if origin != "default"}
        chosen = tuple(item.name for item in fields(GenerationParams) if item.name in configured)
        return replace(resolved.value, chosen=chosen)

    @property
    def settings(self) -> dict[str, Any]:
        """Generation settings that were chosen or differ from the default, by name."""
        defaults = GenerationParams()
        values = {item.name: getattr(self.generation, item.name) for item in fields(GenerationParams)}
        return {
            name: value for name, value in values.items() if name in self.chosen or value != getattr(defaults, name)
        }


def open_partner(config: ChatConfig, target: str, say: Say = silent) -> Partner:
    """Return the partner for a target: the endpoint at a URL, or a model in this process.

    `say` receives the progress. Raises `FledgeError` if the endpoint does not respond or the model cannot run.
    """
    try:
        found = selection.find(target, config)
    except InputError:
        raise
    except ValueError as error:  # from urllib
        raise InputError(f"{target}: {error}", hint="fledge chat http://127.0.0.1:5001") from None
    if isinstance(found, selection.RemoteModel):
        if config.engine not in ("auto", "remote"):
            raise InputError(f"the engine {config.engine} cannot run a URL", hint="--engine remote, or name a model")
        from fledge.chat.endpoint_partner import EndpointPartner

        return EndpointPartner(found.source)
    prompt = prompt_of(load_manifest(release_folder(target, config))) if is_release(target) else None
    return EnginePartner(selection.start(config, found, say), target, prompt)


class Session:
    """A conversation with a partner. `show` receives the text of answers, `say` messages, and `hint` optional notes."""

    def __init__(self, config: ChatConfig, target: str, partner: Partner, show: Say, say: Say, hint: Say) -> None:
        self.dialogue = Dialogue(config.system)
        self._config = config
        self._target = target
        self._partner = partner
        self._show = show
        self._say = say
        self._hint = hint
        self._prompts: PromptStore | None = None
        self._plain = False  # whether to skip the own prompt of a release
        self._left_out = 0

    def as_dict(self) -> dict[str, Any]:
        """All turns, as in the JSON of the command."""
        return {"target": self._target, "turns": [turn.as_dict() for turn in self.dialogue.log]}

    def handle(self, entry: Entry) -> bool:
        """Ask a question or run a command. Return False if the user leaves.

        Raises `FledgeError` if that failed; the session can continue, without the failed question.
        """
        parsed = parse(entry)
        if isinstance(parsed, str):
            self._ask(parsed)
        elif parsed.name == "exit":
            return False
        else:
            self._run(parsed)
        return True

    def _ask(self, question: str) -> None:
        """Ask and show the answer part by part. The text of an interrupted answer is kept."""
        sent = self.dialogue.messages(question)
        settings = self._settings()
        text = reason = request_id = prompt = ""
        left_out = 0
        started = time.perf_counter()
        try:
            with contextlib.closing(self._partner.ask(sent, settings, plain=self._plain)) as parts:
                for part in parts:
                    fresh = part.text if text.strip() else part.text.lstrip()
                    text += part.text  # before showing it: an interrupt must not lose shown text
                    self._show(fresh)
                    reason = part.finish_reason or reason
                    request_id = part.request_id or request_id
                    left_out = part.turns_left_out or left_out
                    prompt = part.prompt or prompt
        except KeyboardInterrupt:
            with shield_from_interrupts():
                if text.strip():
                    self._show("\n")
                    self.dialogue.keep(
                        sent, Reply(text, "cancelled", request_id, time.perf_counter() - started, prompt, left_out)
                    )
            raise
        except FledgeError:
            if text.strip():
                self._show("\n")
            raise
        self._show("" if text.endswith("\n") and text.strip() else "\n")
        self.dialogue.keep(sent, Reply(text, reason, request_id, time.perf_counter() - started, prompt, left_out))
        self._explain(text, reason, left_out)

    def _explain(self, text: str, reason: str, left_out: int) -> None:
        if not text.strip():
            self._say("(the answer is empty)")
        if reason == "length":
            self._say("(cut off at the maximum number of tokens; --max-tokens N allows more)")
        if left_out and left_out != self._left_out:
            turns = "oldest turn was" if left_out == 1 else f"{left_out} oldest turns were"
            self._say(f"(the {turns} left out: the context window is full; /reset starts a new conversation)")
        self._left_out = left_out

    def _settings(self) -> dict[str, Any]:
        """Return the generation settings of the next question; a prompt's own override those of the session."""
        prompt = self.dialogue.prompt
        if prompt is None:
            return self._config.settings
        resolved = resolve_generation(self._config.generation, prompt)
        own = {name: getattr(resolved, name) for key, name in PROMPT_SETTINGS.items() if key in prompt.settings}
        return self._config.settings | own

    def _run(self, command: ChatCommand) -> None:
        argument = command.argument
        match command.name:
            case "system":
                self.dialogue.system = argument
                self._hint("system text set" if argument else "system text removed")
            case "prompt":
                self._use_prompt(argument)
            case "reset":
                self.dialogue.reset()
                self._left_out = 0
                self._hint("new conversation")
            case "save":
                self._save(argument)
            case "good" | "bad":
                self._feedback(command.name, argument)
            case _:
                self._say(help_text())

    def _use_prompt(self, name: str) -> None:
        if not name:
            self.dialogue.use(None)
            self._plain = True
            self._hint("questions are sent unchanged")
            return
        if self._prompts is None:
            self._hint("opening the prompt registry")
            self._prompts = open_prompts(say=self._say, workspace=self._config)
        prompt = apply_format(self._prompts.load(name), "chat")
        self.dialogue.use(prompt)
        self._plain = True
        self._hint(f"questions are filled into {prompt.label}; /prompt without a name turns that off")

    def _save(self, argument: str) -> None:
        overwrite = f"{argument} ".startswith(OVERWRITE)
        name = f"{argument} ".removeprefix(OVERWRITE).strip()
        if not name:
            raise InputError("/save needs FILE", hint=f"/save {OVERWRITE}FILE")
        path = Path(name)
        turns = self.dialogue.turns
        if not turns:
            raise InputError("the conversation is empty", hint="ask something first")
        title = f"Conversation with {self._target}"
        text = as_markdown(title, turns) if path.suffix.lower() == ".md" else as_jsonl(turns)
        _write(path, text, overwrite=overwrite)
        self._hint(f"saved {len(turns)} turns in {path}")

    def _feedback(self, word: str, comment: str) -> None:
        last = self.dialogue.last_answer
        if last is None:
            raise InputError("there is no answer to rate", hint="ask something first")
        self._partner.feedback(last.request_id or "", word == "good", comment)
        self._hint(f"feedback sent: {word}")


def _write(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a file of mode 0600. Raises `InputError` if it exists, unless `overwrite`, or cannot be written."""
    created: Path | None = None
    try:
        path = path.expanduser()
        target = path.with_name(f".{path.name}.{os.getpid()}") if overwrite else path
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            created = target
            file.write(text)
        if overwrite:
            target.replace(path)
        created = None
    except FileExistsError:
        raise InputError(f"{path} already exists", hint=f"/save {OVERWRITE}{path}") from None
    except (OSError, ValueError, RuntimeError) as error:  # full disk, invalid name, unknown home
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path} cannot be written: {reason}", hint="choose another path") from None
    finally:
        if created:
            created.unlink(missing_ok=True)
