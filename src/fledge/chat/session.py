"""A session: turns entries into answers and commands, which its caller shows."""

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
    """Settings of a session. An endpoint receives only the `chosen` ones and supplies the others."""

    generation: GenerationParams = field(default_factory=GenerationParams)
    system: str = option("", "what the model is told before the conversation")
    chat_history: bool = option(True, "keep the lines typed in a terminal for the next session, in the state folder")
    chosen: tuple[str, ...] = ()

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None) -> "ChatConfig":
        """Load the settings from all sources."""
        resolved = load(cls, flags)
        given = {name for name, origin in resolved.origins.items() if origin != "default"}
        chosen = tuple(item.name for item in fields(GenerationParams) if item.name in given)
        return replace(resolved.value, chosen=chosen)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the generation settings that were chosen or differ from their defaults, by name."""
        usual = GenerationParams()
        values = {item.name: getattr(self.generation, item.name) for item in fields(GenerationParams)}
        return {name: value for name, value in values.items() if name in self.chosen or value != getattr(usual, name)}


def open_partner(config: ChatConfig, target: str, say: Say = silent) -> Partner:
    """Return the partner for a name: the endpoint at a URL, else the model's engine.

    `say` receives progress messages. Raises `FledgeError` if it cannot answer.
    """
    try:
        found = selection.find(target, config)
    except InputError:
        raise
    except ValueError as error:  # as urllib says it
        raise InputError(f"{target}: {error}", hint="fledge chat http://127.0.0.1:5001") from None
    if isinstance(found, selection.RemoteModel):
        if config.engine not in ("auto", "remote"):
            raise InputError(f"the engine {config.engine} cannot run a URL", hint="--engine remote, or name a model")
        from fledge.chat.endpoint_partner import EndpointPartner

        return EndpointPartner(found.source)
    prompt = prompt_of(load_manifest(release_folder(target, config))) if is_release(target) else None
    return EnginePartner(selection.start(config, found, say), target, prompt)


class Session:
    """A conversation with a partner. `show` receives an answer's text, `say` messages for the user, `hint` optional
    ones."""

    def __init__(self, config: ChatConfig, target: str, partner: Partner, show: Say, say: Say, hint: Say) -> None:
        self.dialogue = Dialogue(config.system)
        self._config = config
        self._target = target
        self._partner = partner
        self._show = show
        self._say = say
        self._hint = hint
        self._prompts: PromptStore | None = None
        self._plain = False  # whether a release is asked without its own prompt
        self._left_out = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the session as in the command's JSON."""
        return {"target": self._target, "turns": [turn.as_dict() for turn in self.dialogue.log]}

    def handle(self, entry: Entry) -> bool:
        """Ask a question or run a command. Returns False for `/exit`.

        Raises `FledgeError` if it fails; the session can continue, and a failed question is not part of it.
        """
        parsed = parse(entry)
        if isinstance(parsed, str):
            self._ask(parsed)
        elif parsed.name == "exit":
            return False
        else:
            self._run_command(parsed)
        return True

    def _ask(self, question: str) -> None:
        """Ask, and show the answer as it is generated. An interrupted answer is kept as far as it was generated."""
        sent = self.dialogue.messages(question)
        settings = self._settings()
        text = reason = identity = prompt = ""
        left_out = 0
        started = time.perf_counter()
        try:
            with contextlib.closing(self._partner.ask(sent, settings, plain=self._plain)) as parts:
                for part in parts:
                    fresh = part.text if text.strip() else part.text.lstrip()
                    text += part.text  # first: what may have been seen is remembered
                    self._show(fresh)
                    reason = part.finish_reason or reason
                    identity = part.request_id or identity
                    left_out = part.turns_left_out or left_out
                    prompt = part.prompt or prompt
        except KeyboardInterrupt:
            with shield_from_interrupts():
                if text.strip():
                    self._show("\n")
                    self.dialogue.keep(
                        sent, Reply(text, "cancelled", identity, time.perf_counter() - started, prompt, left_out)
                    )
            raise
        except FledgeError:
            if text.strip():
                self._show("\n")
            raise
        self._show("" if text.endswith("\n") and text.strip() else "\n")
        self.dialogue.keep(sent, Reply(text, reason, identity, time.perf_counter() - started, prompt, left_out))
        self._report(text, reason, left_out)

    def _report(self, text: str, reason: str, left_out: int) -> None:
        if not text.strip():
            self._say("(the answer is empty)")
        if reason == "length":
            self._say("(the answer was cut at the token limit; --max-tokens N raises it)")
        if left_out and left_out != self._left_out:
            turns = "oldest turn was" if left_out == 1 else f"{left_out} oldest turns were"
            self._say(f"(the {turns} left out: the model's window is full; /reset starts a new conversation)")
        self._left_out = left_out

    def _settings(self) -> dict[str, Any]:
        """Return the generation settings of the next question; a prompt's own take precedence."""
        prompt = self.dialogue.prompt
        if prompt is None:
            return self._config.settings
        whole = resolve_generation(self._config.generation, prompt)
        own = {name: getattr(whole, name) for key, name in PROMPT_SETTINGS.items() if key in prompt.settings}
        return self._config.settings | own

    def _run_command(self, command: ChatCommand) -> None:
        argument = command.argument
        match command.name:
            case "system":
                self.dialogue.system = argument
                self._hint("system text set" if argument else "no system text")
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
        self._hint(f"questions are filled into {prompt.label}; /prompt alone turns that off")

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
        self._hint(f"{len(turns)} turns are in {path}")

    def _feedback(self, word: str, comment: str) -> None:
        last = self.dialogue.last_answer
        if last is None:
            raise InputError("there is no answer yet", hint="ask something first")
        self._partner.feedback(last.request_id or "", word == "good", comment)
        self._hint(f"noted: {word}")


def _write(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a file with mode 0600. Raises `InputError` if it exists or cannot be written."""
    made: Path | None = None
    try:
        path = path.expanduser()
        place = path.with_name(f".{path.name}.{os.getpid()}") if overwrite else path
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            made = place
            file.write(text)
        if overwrite:
            place.replace(path)
        made = None
    except FileExistsError:
        raise InputError(f"{path} already exists", hint=f"/save {OVERWRITE}{path}") from None
    except (OSError, ValueError, RuntimeError) as error:  # of a disk, a name, or a home that there is not
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path} cannot be written: {reason}", hint="choose another path") from None
    finally:
        if made:
            made.unlink(missing_ok=True)
