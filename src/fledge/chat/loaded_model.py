"""`load_model`: use a model in a program. Nothing is recorded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeAlias, get_args, overload

from fledge.core.errors import InputError
from fledge.core.generation import REQUEST_SETTINGS, GenerationParams, draw_seed
from fledge.core.texts import strip_stream
from fledge.core.types import Message, Role, Say, silent
from fledge.engines import selection
from fledge.engines.engine import Engine, generate
from fledge.engines.selection import RemoteModel, is_release, release_folder
from fledge.engines.stream import Stream
from fledge.experiments.arms import default_generation
from fledge.experiments.config import ExperimentConfig
from fledge.prompts.format import fill_conversation, prompt_of
from fledge.prompts.prompt import Prompt
from fledge.releases.manifest import load_manifest

Conversation: TypeAlias = Sequence[Message] | Sequence[Mapping[str, str]]
"""Turns with a role (system, user or assistant) and a content."""

ROLES = get_args(Role)


class LoadedModel:
    """A loaded model. Close it, or use it in a `with` block.

    A text is the question of a release's prompt, a turn of the user for a model with a chat template, and a text to
    complete for any other model. `settings` are fields of `GenerationParams`; `generation` has their defaults. Each
    call draws a new seed unless the model is `seeded`.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        generation: GenerationParams,
        *,
        prompt: Prompt | None,
        chats: bool,
        seeded: bool = False,
    ) -> None:
        self.name = name
        self.generation = generation
        self._engine = engine
        self._prompt = prompt
        self._chats = chats
        self._seeded = seeded

    @overload
    def generate(self, prompt: list[str] | tuple[str, ...], **settings: Any) -> list[str]: ...

    @overload
    def generate(self, prompt: str | Conversation, **settings: Any) -> str: ...

    def generate(self, prompt: str | Conversation | Sequence[str], **settings: Any) -> str | list[str]:
        """Return the answer to a text or a conversation, or those to a list of texts, which are computed as a batch.

        Raises `InputError` for a prompt that does not fit, and for invalid settings.
        """
        params = _override(self.generation, {**self._new_seed(), **settings})
        several = not isinstance(prompt, str) and all(isinstance(item, str) for item in prompt)
        prompts: Sequence[Any] = prompt if several else [prompt]
        answers = generate(self._engine, [self._to_engine_prompt(item) for item in prompts], params)
        texts = [answer.text.strip() for answer in answers]
        return texts if several else texts[0]

    def stream(self, prompt: str | Conversation, **settings: Any) -> Iterator[str]:
        """Yield the pieces of an answer as they are generated; closing the iterator stops it.

        Raises `InputError` as `generate` does, also during the iteration.
        """
        answer = self._engine.submit(
            self._to_engine_prompt(prompt), _override(self.generation, {**self._new_seed(), **settings})
        )
        return strip_stream(_iterate_text(answer))

    def close(self) -> None:
        """Stop running answers and free the model."""
        self._engine.close()

    def __enter__(self) -> "LoadedModel":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LoadedModel {self.name!r} on {self._engine.info.name} ({self._engine.info.device})>"

    def _new_seed(self) -> dict[str, int]:
        return {} if self._seeded else {"seed": draw_seed()}

    def _to_engine_prompt(self, prompt: str | Conversation) -> str | list[Message]:
        turns = [Message("user", prompt)] if isinstance(prompt, str) else [_parse_turn(item) for item in prompt]
        if self._prompt is not None:
            filled = fill_conversation(self._prompt, turns, {})
            if filled is not None:
                return filled if isinstance(filled, str) else list(filled)
        return prompt if isinstance(prompt, str) and not self._chats else turns


def load_model(model: str | None = None, *, config: ExperimentConfig | None = None, say: Say = silent) -> LoadedModel:
    """Start the engine of a model, by default `config.model`, and return the loaded model.

    `model` is `embedded`, `smollm2`, a folder, a Hub id, a release or a URL; a release has its own prompt and
    generation settings. `say` receives progress messages. Raises `FledgeError` for a model that cannot run here.
    """
    config = config or ExperimentConfig()
    name = model or config.model
    found = selection.find(name, config)
    generation, prompt = default_generation(config, found), None
    if is_release(name):
        manifest = load_manifest(release_folder(name, config))
        own = {
            item: value
            for item, value in manifest.generation.items()
            if item in REQUEST_SETTINGS and not config.sets(item)
        }
        generation, prompt = _override(generation, own), prompt_of(manifest)
    chats = isinstance(found, RemoteModel) or found.has_chat_template
    return LoadedModel(
        name, selection.start(config, found, say), generation, prompt=prompt, chats=chats, seeded=config.sets("seed")
    )


def _override(generation: GenerationParams, settings: Mapping[str, Any]) -> GenerationParams:
    unknown = sorted(settings.keys() - set(REQUEST_SETTINGS))
    if unknown:
        raise InputError(f"unknown generation setting {unknown[0]!r}", hint=f"one of: {', '.join(REQUEST_SETTINGS)}")
    stop = settings.get("stop", generation.stop)
    try:
        return replace(generation, **{**settings, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})
    except (TypeError, ValueError) as error:
        raise InputError(f"invalid generation settings: {error}", hint="see fledge.GenerationParams") from None


def _parse_turn(given: object) -> Message:
    if isinstance(given, Message):
        return given
    if isinstance(given, Mapping) and given.get("role") in ROLES and isinstance(given.get("content"), str):
        return Message(given["role"], given["content"])
    hint = '{"role": "user", "content": "..."}, where the role is one of: ' + ", ".join(ROLES)
    raise InputError(f"invalid turn of a conversation: {given!r}", hint=hint)


def _iterate_text(answer: Stream) -> Iterator[str]:
    try:
        for chunk in answer:
            yield chunk.text
    finally:
        answer.cancel()
