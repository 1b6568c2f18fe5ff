"""Base class of local engines: all answers advance together, and one failure does not affect others."""

import abc
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from fledge.core.errors import FledgeError, InputError, StructureError
from fledge.core.generation import GenerationParams
from fledge.core.messages import TokenScore
from fledge.core.types import EngineInfo
from fledge.engines.engine import PromptInput, refuse_unsupported
from fledge.engines.guarded_child import GuardedChild
from fledge.engines.prompt_encoder import PromptEncoder, encode_prompt
from fledge.engines.stream import Chunk, FinishReason, Stream, Usage
from fledge.engines.text import (
    DECODE_ERROR,
    Decoder,
    Encoded,
    TextConfig,
    open_tokenizer,
    token_bytes,
    translate_errors,
)


@dataclass(eq=False)
class GeneratedAnswer:
    """One running answer. `handle` belongs to the engine."""

    prompt_ids: list[int]
    params: GenerationParams
    stream: Stream
    index: int
    decoder: Decoder
    handle: Any = None
    generated: list[int] = field(default_factory=list)
    ended: bool = False
    held: list[Chunk] = field(default_factory=list)  # of an answer that is sent at its end

    @property
    def token_ids(self) -> list[int]:
        """The prompt and the tokens generated before a failed step."""
        return [*self.prompt_ids, *self.generated]

    @property
    def remaining(self) -> int:
        """The number of tokens that may still be generated."""
        return self.params.max_tokens - len(self.generated)


class _EchoedPrompt(NamedTuple):
    """A prompt whose answers begin with its own tokens."""

    token_ids: list[int]
    params: GenerationParams
    stream: Stream


class WorkerEngine(abc.ABC):
    """A model in the engine process, whose only thread calls `turn` while it is `busy`.

    A subclass starts and advances answers in `_turn`; `_release` ends one early. If `_turn` takes many steps, it calls
    `between_steps` after each, so that chunks go out and cancellations come in.
    """

    supported: ClassVar[tuple[str, ...]] = ()  # of ENGINE_SETTINGS

    def __init__(self, info: EngineInfo, text: TextConfig) -> None:
        self.info = info
        self.text = text
        self.encoder = PromptEncoder(text)  # starts up while the subclass loads the model
        self.between_steps: Callable[[], None] = lambda: None
        self._tokenizer = open_tokenizer(text.tokenizer)
        self._waiting: deque[GeneratedAnswer] = deque()
        self._echoing: deque[_EchoedPrompt] = deque()
        self._suspects: deque[list[GeneratedAnswer]] = deque()  # groups that run one at a time
        self._running: list[GeneratedAnswer] = []

    def take(self, prompt: PromptInput, params: GenerationParams, stream: Stream) -> None:
        """Queue the answers to a prompt; they start in a later turn, after the prompt is encoded."""

        def encode(refused: InputError | None = None) -> None:
            if refused is not None:
                stream.fail(refused)
                return
            encode_prompt(self.encoder, self.text, prompt, params, stream, lambda it: self._add(it, params, stream))

        try:
            self._check(params)
            if params.grammar:
                self._check_grammar(params.grammar, encode)
            else:
                encode()
        except InputError as error:
            stream.fail(error)

    def _check(self, params: GenerationParams) -> None:
        """Raise `InputError` for settings that this engine does not support."""
        refuse_unsupported(self.info.name, self.supported, params)

    def _check_grammar(self, grammar: str, done: Callable[[InputError | None], None]) -> None:  # noqa: ARG002
        """Call `done` when a grammar is checked, with the error if it cannot be used. Raises `InputError` for an engine
        without grammars."""
        raise StructureError(f"the engine {self.info.name} cannot enforce a grammar", hint="--engine openvino")

    def _add(self, prompt: Encoded, params: GenerationParams, stream: Stream) -> None:
        stream.prompt_tokens, stream.turns_left_out = len(prompt.token_ids), prompt.turns_left_out
        left = self.text.context - stream.prompt_tokens
        params = params if params.max_tokens <= left else replace(params, max_tokens=left)
        if params.echo:
            self._echoing.append(_EchoedPrompt(prompt.token_ids, params, stream))
        else:
            self._queue_answers(prompt.token_ids, params, stream)

    def _queue_answers(self, token_ids: list[int], params: GenerationParams, stream: Stream) -> None:
        self._waiting.extend(
            GeneratedAnswer(
                token_ids,
                replace(params.for_sample(index), n=1),
                stream,
                index,
                Decoder(self._tokenizer, params.stop, self.text.end_tokens),
            )
            for index in range(params.n)
        )

    def _echo(self, prompt: "_EchoedPrompt") -> None:
        """Send the tokens of a prompt, with their log probabilities if requested, and queue its answers."""
        params, stream = prompt.params, prompt.stream
        if stream.cancelled:
            self._queue_answers(prompt.token_ids, params, stream)
            return
        try:
            first = [TokenScore(self._decode_token(prompt.token_ids[0]), None)]
            top = max(1, params.top_logprobs)
            scored = self._score(prompt.token_ids, top) if params.logprobs else self._name_tokens(prompt.token_ids[1:])
            tokens = [*first, *scored]
        except Exception as error:  # noqa: BLE001 (any failure must reach the caller)
            stream.fail(
                error if isinstance(error, FledgeError) else FledgeError(f"the prompt cannot be scored: {error}")
            )
            return
        ends = params.max_tokens == 0
        for index in range(params.n):
            usage = Usage(stream.prompt_tokens, 0) if ends else None
            stream.put(Chunk("", (), "length" if ends else None, index=index, usage=usage, prompt=tuple(tokens)))
        if not ends:
            self._queue_answers(prompt.token_ids, params, stream)

    def _name_tokens(self, token_ids: Sequence[int]) -> list[TokenScore]:
        return [TokenScore(self._decode_token(token), None) for token in token_ids]

    def _score(self, token_ids: Sequence[int], top: int) -> list[TokenScore]:  # noqa: ARG002
        """Return all tokens but the first with their log probabilities, and those of the `top` likeliest tokens.

        Raises `InputError` if the engine computes none.
        """
        raise InputError(
            f"the engine {self.info.name} computes no log probabilities of prompts and of other tokens",
            hint="--engine openvino",
        )

    @property
    def children(self) -> Sequence[GuardedChild]:
        """The child processes to poll."""
        return [self.encoder]

    @property
    def busy(self) -> bool:
        """Whether there are unfinished answers."""
        return bool(self._echoing or self._waiting or self._suspects or self._running)

    def turn(self) -> None:
        """Echo the next prompt, and advance the running answers. A failure is reported on their streams."""
        if self._echoing:
            self._echo(self._echoing.popleft())
        if not (self._waiting or self._suspects or self._running):
            return
        try:
            self._turn()
        except Exception as error:  # noqa: BLE001 (any failure must reach the callers)
            self._isolate(error)
        self._running = [answer for answer in self._running if not answer.ended]

    def close(self) -> None:
        """Release all answers and close the engine."""
        for answer in self._running:
            self._release(answer)
        self.encoder.close()
        self._close()

    @abc.abstractmethod
    def _turn(self) -> None:
        """Start the answers of `_admit`, run one step, and `_deliver` each answer's new tokens."""

    @abc.abstractmethod
    def _release(self, answer: GeneratedAnswer) -> None:
        """Free the engine's resources for an answer that ended early."""

    def _close(self) -> None:  # noqa: B027 (most engines have nothing more to free)
        """Free the engine's other resources."""

    def _admit(self, limit: int) -> list[GeneratedAnswer]:
        """Move the next answers to the running ones, up to `limit`, and return them. After a failure, the answers of
        the failed step come in groups."""
        if self._suspects:
            due = [] if self._running else self._suspects.popleft()
        else:
            due = [self._waiting.popleft() for _ in range(min(limit - len(self._running), len(self._waiting)))]
        admitted: list[GeneratedAnswer] = []
        for answer in due:
            if answer.stream.cancelled:
                self._deliver(answer, (), "cancelled")
                continue
            admitted.append(answer)
            self._running.append(answer)
        return admitted

    def _deliver(
        self,
        answer: GeneratedAnswer,
        token_ids: Sequence[int],
        reason: FinishReason | None,
        logprobs: Sequence[float] = (),
    ) -> bool:
        """Send new tokens to the stream. Returns whether the answer has ended, by `reason`, stop sequence or
        cancellation."""
        answer.generated.extend(token_ids)
        if not reason and answer.stream.cancelled:
            reason = "cancelled"
        try:
            chunk = answer.decoder.feed(token_ids, reason)
            tokens = tuple(map(self._decode_token, token_ids)) if answer.params.logprobs else ()
        except FledgeError as error:  # affects only this answer
            self._fail(answer, error)
            return True
        params = answer.params
        itself = params.top_logprobs == 1 and params.takes_likeliest
        top = tuple(((token, value),) for token, value in zip(tokens, logprobs, strict=True)) if itself else ()
        chunk = replace(chunk, index=answer.index, logprobs=tuple(logprobs), tokens=tokens, top=top)
        if chunk.finish_reason:
            answer.ended = True
            chunk = replace(chunk, usage=Usage(answer.stream.prompt_tokens, len(answer.generated)))
        if params.top_logprobs and not itself:
            answer.held.append(chunk)
            if answer.ended:
                self._send_scored(answer)
        else:
            answer.stream.put(chunk)
        return answer.ended

    def _send_scored(self, answer: GeneratedAnswer) -> None:
        """Send a complete answer with the likeliest tokens in each place, which takes another pass of the model."""
        chunk = replace(answer.held[-1], text="".join(part.text for part in answer.held))
        scores: list[TokenScore] = []
        try:
            if answer.generated and chunk.finish_reason != "cancelled":
                whole = [*answer.prompt_ids, *answer.generated]
                scores = self._score(whole, answer.params.top_logprobs)[-len(answer.generated) :]
        except Exception as error:  # noqa: BLE001 (any failure must reach the caller)
            failed = FledgeError(f"the answer cannot be scored: {error}")
            answer.stream.fail(error if isinstance(error, FledgeError) else failed)
            return
        answer.stream.put(
            replace(
                chunk,
                token_ids=tuple(answer.generated),
                logprobs=tuple(score.logprob or 0.0 for score in scores),
                tokens=tuple(score.token for score in scores),
                top=tuple(score.top for score in scores),
            )
        )

    def _decode_token(self, token_id: int) -> bytes:
        return translate_errors(lambda: token_bytes(self._tokenizer, token_id), DECODE_ERROR)  # type: ignore[no-any-return]

    def _fail(self, answer: GeneratedAnswer, error: Exception) -> None:
        answer.ended = True
        answer.stream.fail(FledgeError(f"the {self.info.name} engine failed: {error}"))

    def _isolate(self, error: Exception) -> None:
        """After a failed step, release all running answers and retry each half separately. One that fails alone is the
        cause."""
        failed, self._running = [answer for answer in self._running if not answer.ended], []
        for answer in failed:
            self._release(answer)
            answer.handle = None
        if len(failed) == 1:
            self._fail(failed[0], error)
        else:
            half = len(failed) // 2
            self._suspects.extendleft((failed[half:], failed[:half]))
