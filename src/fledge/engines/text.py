"""Between text and tokens: prompt shapes, incremental decoding, stop sequences."""

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Message
from fledge.engines.engine import Chunk, FinishReason, Prompt
from fledge.models.chat_template import ChatTemplate, read_template
from fledge.models.snapshot import Snapshot

# Stand for special tokens that a user's text spells, while a chat template is filled: of Unicode's private use.
_STAND_IN = 0xF0000


class Encoded(NamedTuple):
    """A prompt's tokens, and how many of its oldest turns the window had no room for."""

    token_ids: list[int]
    turns_left_out: int


@dataclass(frozen=True)
class TextConfig:
    """What tokens are made by: the text of a `tokenizer.json`, a chat template with the names of its special tokens,
    the end tokens, and the sizes of the model's window and vocabulary."""

    tokenizer: str
    template: str | None
    special_tokens: dict[str, str]
    end_tokens: tuple[int, ...]
    context: int
    vocabulary: int

    @classmethod
    def of(cls, model: Snapshot, tokenizer: str) -> "TextConfig":
        """With the chat template of the snapshot, if it has one."""
        found = read_template(model.path)
        source, tokens = found or (None, {})
        return cls(tokenizer, source, tokens, model.end_tokens, model.context, model.vocabulary)


class Text:
    """A tokenizer with what fledge needs of it.

    A conversation takes the shape of the model's chat template; a model that has none gets turns that each end in
    its end-of-text token, as DialoGPT was trained. Text that spells a special token stays text.
    """

    def __init__(self, config: TextConfig) -> None:
        self.tokenizer = open_tokenizer(config.tokenizer)
        self.tokenizer.encode_special_tokens = True
        self._template = ChatTemplate(config.template, config.special_tokens) if config.template else None
        # For what the template itself writes: there a special token is meant.
        self._for_template = open_tokenizer(config.tokenizer) if self._template else self.tokenizer
        self._config = config
        added = self.tokenizer.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special and token.content]

    def encode(self, prompt: Prompt, room: int) -> Encoded:
        """Token ids of a prompt; `room` tokens of the window are kept free for the answer.

        The oldest turns of a conversation are left out until it fits, a system text never. Raises `InputError` if the
        prompt, or what must stay of it, does not fit.
        """
        limit = self._config.context - room
        if isinstance(prompt, str):
            encoded = Encoded(_ids(self.tokenizer, prompt, start=True), 0)
        elif not prompt:
            raise InputError("the prompt is empty")
        elif isinstance(prompt[0], int):
            encoded = Encoded([int(token) for token in prompt], 0)  # type: ignore[arg-type]
        else:
            encoded = self._conversation(list(prompt), limit)  # type: ignore[arg-type]
        token_ids = encoded.token_ids
        check_tokens(token_ids, room, self._config)
        return encoded

    def _conversation(self, messages: list[Message], limit: int) -> Encoded:
        system = [message for message in messages[:1] if message.role == "system"]
        turns = messages[len(system) :]
        token_ids = self._shape([*system, *turns])
        if len(token_ids) <= limit:
            return Encoded(token_ids, 0)
        last = len(turns) - 1
        # Templates want a conversation to begin with the user.
        starts = [at for at in range(1, last) if turns[at].role != "assistant"] + [max(0, last)]

        def fits(start: int) -> bool:
            return len(self._shape([*system, *turns[start:]])) <= limit

        found = bisect_left(starts, True, hi=len(starts) - 1, key=fits)  # the last is taken whether it fits or not
        return Encoded(self._shape([*system, *turns[starts[found] :]]), starts[found])

    def _shape(self, messages: Sequence[Message]) -> list[int]:
        if self._template is None:
            end = self._config.end_tokens[:1]
            return [token for item in messages for token in (*_ids(self.tokenizer, item.content), *end)]
        stand_ins = {chr(_STAND_IN + number): text for number, text in enumerate(self._special)}
        text = self._template.render([Message(item.role, _replace(item.content, stand_ins)) for item in messages])
        parts = re.split(f"([{''.join(stand_ins)}])", text) if stand_ins else [text]
        token_ids: list[int] = []
        for part in parts:
            spelled = stand_ins.get(part)
            token_ids += _ids(self.tokenizer, spelled) if spelled else _ids(self._for_template, part)
        return token_ids


def check_tokens(token_ids: Sequence[int], room: int, config: TextConfig) -> None:
    """Raise `InputError` for tokens that the model does not have, or more than its window takes beside an answer of
    `room` tokens."""
    if not token_ids:
        raise InputError("the prompt is empty")
    if not 0 <= min(token_ids) <= max(token_ids) < config.vocabulary:
        raise InputError(f"the prompt has token ids beyond the model's {config.vocabulary}")
    if len(token_ids) > config.context - room:
        raise InputError(
            f"the prompt has {len(token_ids)} tokens; the model takes {config.context}, "
            f"and {room} are kept for the answer",
            hint="shorten the prompt, or ask for fewer tokens with --max-tokens",
        )


def _ids(tokenizer: Tokenizer, text: str, *, start: bool = False) -> list[int]:
    """Tokens of a text; with `start`, after what the model wants before any text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("the prompt is not valid Unicode text") from None
    return list(translate_errors(lambda: tokenizer.encode(text, add_special_tokens=start), _NOT_READ).ids)


def open_tokenizer(content: str) -> Tokenizer:
    """The tokenizer of the text of a `tokenizer.json`, that neither pads nor cuts. Raises `InputError` where it is
    broken."""
    tokenizer = translate_errors(lambda: Tokenizer.from_str(content), InputError("tokenizer.json cannot be loaded"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


_NOT_READ = InputError("the model's tokenizer fails on this text", hint="ask with another text, or another model")
NOT_WRITTEN = FledgeError("the model's tokenizer fails on a token of the answer", hint="use another model")


def translate_errors(call: Callable[[], Any], failed: FledgeError) -> Any:
    """The result of `call`; raises an error like `failed`, with the reason, for any error of a library.

    A panic of a Rust library is not an `Exception`, and would end the thread. It leaves the tokenizer usable.
    """
    try:
        return call()
    except (FledgeError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        name = "" if type(error).__name__ in ("Exception", "PanicException") else f"{type(error).__name__}: "
        reason = f"{name}{' '.join(str(error).split())[:300]}"
    raise type(failed)(f"{failed.message}: {reason}", hint=failed.hint)


def _replace(content: str, stand_ins: dict[str, str]) -> str:
    for character, text in sorted(stand_ins.items(), key=lambda item: -len(item[1])):
        content = content.replace(text, character)
    return content


class Decoder:
    """Turns the tokens of one answer into chunks: only whole characters, no special or end token, nothing of a stop
    sequence."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], end_tokens: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._stop = stop
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held = ""

    def feed(self, token_ids: Sequence[int], finish_reason: FinishReason | None) -> Chunk:
        """The chunk for the next tokens; its finish reason is `stop` when a stop sequence was met."""
        shown = [token for token in token_ids if token not in self._end_tokens]  # not all are marked special
        new = "".join(map(self._step, shown))
        text = self._held + new
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stop if stop in text]
        if found:  # the one that was whole first, however the text was cut
            self._held = ""
            return Chunk(text[: min(found)[1]], tuple(token_ids), "stop")
        keep = 0 if finish_reason else self._longest_start(text)
        self._held = text[len(text) - keep :]
        return Chunk(text[: len(text) - keep], tuple(token_ids), finish_reason)

    def _step(self, token: int) -> str:
        return translate_errors(lambda: self._stream.step(self._tokenizer, token), NOT_WRITTEN) or ""

    def _longest_start(self, text: str) -> int:
        """How many characters at the end of `text` may be the start of a stop sequence."""
        lengths = range(min(len(text), max(map(len, self._stop), default=1) - 1), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stop)), 0)
