"""Convert between text and tokens: prompt formats, incremental decoding, stop sequences."""

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from fledge.core.errors import ContextLengthError, FledgeError, InputError
from fledge.core.types import Message
from fledge.engines.engine import PromptInput
from fledge.engines.stream import Chunk, FinishReason
from fledge.models.chat_template import ChatTemplate, read_template
from fledge.models.snapshot import Snapshot

# Private-use characters replace special tokens in a user's text while a chat template is rendered.
_STAND_IN = 0xF0000


class Encoded(NamedTuple):
    """A prompt's tokens, and the number of oldest turns left out to fit the window."""

    token_ids: list[int]
    turns_left_out: int


@dataclass(frozen=True)
class TextConfig:
    """Content of a `tokenizer.json`, a chat template with its special tokens by name, the end tokens, and the sizes of
    context window and vocabulary."""

    tokenizer: str
    template: str | None
    special_tokens: dict[str, str]
    end_tokens: tuple[int, ...]
    context: int
    vocabulary: int

    @classmethod
    def of(cls, model: Snapshot, tokenizer: str) -> "TextConfig":
        """Return the config with the snapshot's chat template, if it has one."""
        found = read_template(model.path)
        source, tokens = found or (None, {})
        return cls(tokenizer, source, tokens, model.end_tokens, model.context, model.vocabulary)


class Text:
    """Encodes prompts and conversations.

    A conversation is rendered by the model's chat template. Without one, each turn ends with the end-of-text token, as
    in DialoGPT's training. Special tokens spelled in a user's text are encoded as text.
    """

    def __init__(self, config: TextConfig) -> None:
        self.tokenizer = open_tokenizer(config.tokenizer)
        self.tokenizer.encode_special_tokens = True
        self._template = ChatTemplate(config.template, config.special_tokens) if config.template else None
        # For a template's own text, and with `parse_special`.
        self._with_special = open_tokenizer(config.tokenizer)
        self._config = config
        added = self.tokenizer.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special and token.content]

    def encode(self, prompt: PromptInput, room: int, *, parse_special: bool = False) -> Encoded:
        """Return the token ids of a prompt; `room` tokens of the window stay free for the answer.

        With `parse_special` a text's special tokens are special.

        Leaves out the oldest turns of a conversation until it fits, but never a system message. Raises `InputError` if
        it still does not fit.
        """
        limit = self._config.context - room
        if isinstance(prompt, str):
            tokenizer = self._with_special if parse_special else self.tokenizer
            encoded = Encoded(_tokenize(tokenizer, prompt, start=True), 0)
        elif not prompt:
            raise InputError("the prompt is empty")
        elif isinstance(prompt[0], int):
            encoded = Encoded([int(token) for token in prompt], 0)  # type: ignore[arg-type]
        else:
            encoded = self._encode_conversation(list(prompt), limit)  # type: ignore[arg-type]
        token_ids = encoded.token_ids
        check_tokens(token_ids, room, self._config)
        return encoded

    def _encode_conversation(self, messages: list[Message], limit: int) -> Encoded:
        system = [message for message in messages[:1] if message.role == "system"]
        turns = messages[len(system) :]
        token_ids = self._encode_turns([*system, *turns])
        if len(token_ids) <= limit:
            return Encoded(token_ids, 0)
        last = len(turns) - 1
        # Templates expect a conversation to start with the user.
        starts = [at for at in range(1, last) if turns[at].role != "assistant"] + [max(0, last)]

        def fits(start: int) -> bool:
            return len(self._encode_turns([*system, *turns[start:]])) <= limit

        found = bisect_left(starts, True, hi=len(starts) - 1, key=fits)  # the last start is the fallback
        return Encoded(self._encode_turns([*system, *turns[starts[found] :]]), starts[found])

    def _encode_turns(self, messages: Sequence[Message]) -> list[int]:
        if self._template is None:
            end = self._config.end_tokens[:1]
            return [token for item in messages for token in (*_tokenize(self.tokenizer, item.content), *end)]
        stand_ins = {chr(_STAND_IN + number): text for number, text in enumerate(self._special)}
        text = self._template.render([Message(item.role, _replace_all(item.content, stand_ins)) for item in messages])
        parts = re.split(f"([{''.join(stand_ins)}])", text) if stand_ins else [text]
        token_ids: list[int] = []
        for part in parts:
            spelled = stand_ins.get(part)
            token_ids += _tokenize(self.tokenizer, spelled) if spelled else _tokenize(self._with_special, part)
        return token_ids


def reserved_tokens(max_tokens: int, context: int) -> int:
    """Return how many tokens of the window a prompt must leave to an answer: all of it up to a quarter of the window.

    Clients set `max_tokens` as a limit, often far above what an answer takes. A longer answer ends with the window.
    """
    return min(max_tokens, context // 4)


def check_tokens(token_ids: Sequence[int], room: int, config: TextConfig) -> None:
    """Raise `InputError` for tokens outside the vocabulary, or too many to leave `room` tokens for the answer."""
    if not token_ids:
        raise InputError("the prompt is empty")
    if not 0 <= min(token_ids) <= max(token_ids) < config.vocabulary:
        raise InputError(f"the prompt has token ids beyond the model's {config.vocabulary}")
    if len(token_ids) > config.context - room:
        raise ContextLengthError(
            f"the prompt has {len(token_ids)} tokens; the model takes {config.context}, "
            f"and {room} are kept for the answer",
            hint="shorten the prompt, or ask for fewer tokens with --max-tokens",
        )


def _tokenize(tokenizer: Tokenizer, text: str, *, start: bool = False) -> list[int]:
    """Return the tokens of a text; with `start`, including the special tokens that the tokenizer adds."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("the prompt is not valid Unicode text") from None
    return list(translate_errors(lambda: tokenizer.encode(text, add_special_tokens=start), ENCODE_ERROR).ids)


def open_tokenizer(content: str) -> Tokenizer:
    """Return the tokenizer in the content of a `tokenizer.json`, without padding and truncation. Raises `InputError`
    if it is broken."""
    tokenizer = translate_errors(lambda: Tokenizer.from_str(content), InputError("tokenizer.json cannot be loaded"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


ENCODE_ERROR = InputError("the model's tokenizer fails on this text", hint="change the text, or use another model")
DECODE_ERROR = FledgeError("the model's tokenizer fails on a token of the answer", hint="use another model")


def translate_errors(call: Callable[[], Any], failed: FledgeError) -> Any:
    """Return the result of `call`. Any error of a library is raised as `failed`, with the reason.

    A panic of a Rust library is not an `Exception` and would end the thread; the tokenizer stays usable.
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


def _replace_all(content: str, stand_ins: dict[str, str]) -> str:
    for character, text in sorted(stand_ins.items(), key=lambda item: -len(item[1])):
        content = content.replace(text, character)
    return content


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Return the bytes of one token, also of one that is part of a character; empty if they are unknown."""
    text: str = tokenizer.decode([token_id], skip_special_tokens=False)
    if "\ufffd" not in text:
        return text.encode()
    token = tokenizer.id_to_token(token_id) or ""
    if found := re.fullmatch(r"<0x([0-9A-F]{2})>", token):  # SentencePiece's bytes
        return bytes.fromhex(found[1])
    known = _bytes_of_letters()
    return bytes(known[letter] for letter in token) if all(letter in known for letter in token) else b""


@cache
def _bytes_of_letters() -> dict[str, int]:
    """Return the byte of each letter of byte-level BPE: printable bytes stand for themselves, others follow U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(0x100 + place): byte for place, byte in enumerate(others)},
    }


class Decoder:
    """Decodes the tokens of one answer to chunks of whole characters, without special tokens, end tokens and stop
    sequences."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], end_tokens: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._stop = stop
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held = ""

    def feed(self, token_ids: Sequence[int], finish_reason: FinishReason | None) -> Chunk:
        """Return the chunk for the next tokens; its finish reason is `stop` after a stop sequence."""
        shown = [token for token in token_ids if token not in self._end_tokens]  # end tokens may not be special
        new = "".join(map(self._decode_next, shown))
        text = self._held + new
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stop if stop in text]
        if found:  # the stop sequence that ends first, regardless of chunk boundaries
            self._held = ""
            return Chunk(text[: min(found)[1]], tuple(token_ids), "stop")
        keep = 0 if finish_reason else self._stop_prefix_length(text)
        self._held = text[len(text) - keep :]
        return Chunk(text[: len(text) - keep], tuple(token_ids), finish_reason)

    def _decode_next(self, token: int) -> str:
        return translate_errors(lambda: self._stream.step(self._tokenizer, token), DECODE_ERROR) or ""

    def _stop_prefix_length(self, text: str) -> int:
        """Return how many characters at the end of `text` may start a stop sequence."""
        lengths = range(min(len(text), max(map(len, self._stop), default=1) - 1), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stop)), 0)
