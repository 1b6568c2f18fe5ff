"""What the engines of this machine share: all answers advance together, and none harms another."""

import abc
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fledge.core.errors import FledgeError, InputError
from fledge.core.types import EngineInfo, Message
from fledge.engines.engine import FinishReason, GenerationParams, Prompt, Stream, Usage
from fledge.engines.prompt_encoder import PromptEncoder
from fledge.engines.text import (
    NOT_WRITTEN,
    Decoder,
    Encoded,
    TextConfig,
    check_tokens,
    open_tokenizer,
    translate_errors,
)


@dataclass(eq=False)
class GeneratedAnswer:
    """One answer under way. `handle` is the engine's own."""

    prompt_ids: list[int]
    params: GenerationParams
    stream: Stream
    index: int
    decoder: Decoder
    handle: Any = None
    generated: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def token_ids(self) -> list[int]:
        """What it continues from: the prompt, and what was generated before a failure broke it off."""
        return [*self.prompt_ids, *self.generated]

    @property
    def room(self) -> int:
        """How many tokens may still come."""
        return self.params.max_tokens - len(self.generated)


class WorkerEngine(abc.ABC):
    """A model as it runs in the engine process, whose one thread calls `turn` as long as it is `busy`.

    A subclass starts answers and advances them in `_turn`; `_release` ends one early. One whose `_turn` takes many
    steps calls `between_steps` after each, so that what was made goes out and cancellations come in.
    """

    def __init__(self, info: EngineInfo, text: TextConfig) -> None:
        self.info = info
        self.text = text
        self.encoder = PromptEncoder(text)  # it gets ready while the subclass loads the model
        self.between_steps: Callable[[], None] = lambda: None
        self._tokenizer = open_tokenizer(text.tokenizer)
        self._waiting: deque[GeneratedAnswer] = deque()
        self._suspects: deque[list[GeneratedAnswer]] = deque()  # groups, one of which runs at a time
        self._running: list[GeneratedAnswer] = []

    def take(self, prompt: Prompt, params: GenerationParams, stream: Stream) -> None:
        """Have the answers to a prompt computed in the next turns, once there are tokens of it."""

        def begin(found: Encoded | FledgeError) -> None:
            if isinstance(found, FledgeError):
                stream.fail(found)
            else:
                self._add(found, params, stream)

        try:
            self._check(params)
            if isinstance(prompt, str) or (prompt and isinstance(prompt[0], Message)):
                self.encoder.send(prompt, params.max_tokens, begin)  # type: ignore[arg-type]
            else:
                token_ids = [int(token) for token in prompt]  # type: ignore[arg-type]
                check_tokens(token_ids, params.max_tokens, self.text)
                begin(Encoded(token_ids, 0))
        except InputError as error:
            stream.fail(error)

    def _check(self, params: GenerationParams) -> None:  # noqa: B027 (most engines take all that there is)
        """Raise `InputError` for settings that this engine does not know."""

    def _add(self, prompt: Encoded, params: GenerationParams, stream: Stream) -> None:
        stream.prompt_tokens, stream.turns_left_out = len(prompt.token_ids), prompt.turns_left_out
        self._waiting.extend(
            GeneratedAnswer(
                prompt.token_ids,
                replace(params.for_sample(index), n=1),
                stream,
                index,
                Decoder(self._tokenizer, params.stop, self.text.end_tokens),
            )
            for index in range(params.n)
        )

    @property
    def busy(self) -> bool:
        """Whether there is anything to advance."""
        return bool(self._waiting or self._suspects or self._running)

    def turn(self) -> None:
        """Advance what runs. What fails is told to those who wait for it."""
        try:
            self._turn()
        except Exception as error:  # noqa: BLE001 (whatever it was, those who wait must hear of it)
            self._isolate(error)
        self._running = [answer for answer in self._running if not answer.ended]

    def close(self) -> None:
        """Free what the engine holds."""
        for answer in self._running:
            self._release(answer)
        self.encoder.close()
        self._shut()

    @abc.abstractmethod
    def _turn(self) -> None:
        """Start what `_take` gives, and advance what runs by one step; `_deliver` each answer's new tokens."""

    @abc.abstractmethod
    def _release(self, answer: GeneratedAnswer) -> None:
        """Free what the engine holds for an answer that ended before it was done."""

    def _shut(self) -> None:  # noqa: B027 (most have nothing more)
        """Free what the engine itself holds."""

    def _take(self, limit: int) -> list[GeneratedAnswer]:
        """The next answers to start, now counted as running; at most `limit` run. After a failure, those that ran then
        come in groups."""
        if self._suspects:
            due = [] if self._running else self._suspects.popleft()
        else:
            due = [self._waiting.popleft() for _ in range(min(limit - len(self._running), len(self._waiting)))]
        taken: list[GeneratedAnswer] = []
        for answer in due:
            if answer.stream.cancelled:
                self._deliver(answer, (), "cancelled")
                continue
            taken.append(answer)
            self._running.append(answer)
        return taken

    def _deliver(
        self,
        answer: GeneratedAnswer,
        token_ids: Sequence[int],
        reason: FinishReason | None,
        logprobs: Sequence[float] = (),
    ) -> bool:
        """Pass new tokens on; True if the answer has ended with them, by `reason`, stop sequence or cancellation."""
        answer.generated.extend(token_ids)
        if not reason and answer.stream.cancelled:
            reason = "cancelled"
        try:
            chunk = answer.decoder.feed(token_ids, reason)
            tokens = tuple(map(self._token, token_ids)) if answer.params.logprobs else ()
        except FledgeError as error:  # of this answer's text alone
            self._fail(answer, error)
            return True
        if chunk.finish_reason:
            answer.ended = True
            usage = Usage(answer.stream.prompt_tokens, len(answer.generated))
            chunk = replace(chunk, usage=usage)
        answer.stream.put(replace(chunk, index=answer.index, logprobs=tuple(logprobs), tokens=tokens))
        return answer.ended

    def _token(self, token_id: int) -> str:
        """The text of one token; one that is part of a character reads as U+FFFD."""
        return str(translate_errors(lambda: self._tokenizer.decode([token_id], skip_special_tokens=False), NOT_WRITTEN))

    def _fail(self, answer: GeneratedAnswer, error: Exception) -> None:
        answer.ended = True
        answer.stream.fail(FledgeError(f"the {self.info.name} engine failed: {error}"))

    def _isolate(self, error: Exception) -> None:
        """A step failed: let go of all that ran, and try each half of it, from where it was, for itself. Who fails
        alone is the cause."""
        failed, self._running = [answer for answer in self._running if not answer.ended], []
        for answer in failed:
            self._release(answer)
            answer.handle = None
        if len(failed) == 1:
            self._fail(failed[0], error)
        else:
            half = len(failed) // 2
            self._suspects.extendleft((failed[half:], failed[:half]))
