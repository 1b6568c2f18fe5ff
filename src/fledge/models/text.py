"""Between text and tokens: prompt shapes, incremental decoding, stop texts."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from fledge.core.errors import InputError
from fledge.models.engine import Chunk, FinishReason, Message, Prompt


class Text:
    """A snapshot's tokenizer with what fledge needs of it; `context` is the model's window in tokens."""

    def __init__(self, folder: Path, *, end_token: int, context: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # A user's text that spells a special token is text, not the token.
        self.tokenizer.encode_special_tokens = True
        self.end_token = end_token
        self.context = context

    def encode(self, prompt: Prompt, room: int) -> list[int]:
        """Token ids of a prompt; `room` tokens of the window are kept free for the answer.

        A conversation becomes turns that each end in the end-of-text token, as DialoGPT was trained; the oldest turns
        are left out until it fits. Raises `InputError` if the prompt, or its last turn alone, does not fit.
        """
        limit = self.context - room
        ids = self._ids(prompt) if isinstance(prompt, str) else self._turns(prompt, limit)
        if not ids:
            raise InputError("the prompt is empty")
        if len(ids) > limit:
            raise InputError(
                f"the prompt has {len(ids)} tokens; the model takes {self.context}, and {room} are kept for the answer",
                hint="shorten the prompt, or ask for fewer tokens with --max-tokens",
            )
        return ids

    def _ids(self, text: str) -> list[int]:
        try:
            return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        except (TypeError, UnicodeEncodeError):
            raise InputError("the prompt is not valid Unicode text") from None

    def _turns(self, messages: Sequence[Message], limit: int) -> list[int]:
        turns = [[*self._ids(message.content), self.end_token] for message in messages]
        while len(turns) > 1 and sum(map(len, turns)) > limit:
            turns.pop(0)
        return [token for turn in turns for token in turn]


class Decoder:
    """Turns the tokens of one answer into chunks: only whole characters, nothing of a stop text."""

    def __init__(self, text: Text, stop: Sequence[str]) -> None:
        self._text = text
        self._stop = stop
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held = ""

    def feed(self, token_ids: Sequence[int], finish_reason: FinishReason | None) -> Chunk:
        """The chunk for the next tokens; its finish reason is `stop` when a stop text was met."""
        new = "".join(self._stream.step(self._text.tokenizer, token) or "" for token in token_ids)
        text = self._held + new
        found = [text.index(stop) for stop in self._stop if stop in text]
        if found:
            self._held = ""
            return Chunk(text[: min(found)], tuple(token_ids), "stop")
        keep = 0 if finish_reason else self._longest_start(text)
        self._held = text[len(text) - keep :]
        return Chunk(text[: len(text) - keep], tuple(token_ids), finish_reason)

    def _longest_start(self, text: str) -> int:
        """How many characters at the end of `text` may be the start of a stop text."""
        lengths = range(min(len(text), max(map(len, self._stop), default=1) - 1), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stop)), 0)
