"""What the engines of this machine share: one thread that advances all answers, and no answer that harms another."""

import abc
import itertools
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fledge.core.errors import FledgeError
from fledge.engines.engine import EngineInfo, FinishReason, GenerationParams, Prompt, Stats, Stream, Usage
from fledge.engines.text import Decoder, Text


@dataclass(eq=False)
class Answer:
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
    """An engine of one thread. A subclass starts answers and advances them in `_turn`; `_release` ends one early."""

    def __init__(self, info: EngineInfo, text: Text) -> None:
        self.info = info
        self._text = text
        self._work = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._suspects: deque[list[Answer]] = deque()  # groups, one of which runs at a time
        self._running: list[Answer] = []
        self._prompt_tokens = self._generated_tokens = 0
        self._draining = self._closed = False
        self._thread = threading.Thread(target=self._loop, name=f"{info.name}-engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        encoded = self._text.encode(prompt, room=params.max_tokens)
        stream = Stream(len(encoded.token_ids), params.n, encoded.turns_left_out)
        answers = [
            Answer(
                encoded.token_ids,
                replace(params, n=1, seed=(params.seed + index) % 2**63),
                stream,
                index,
                Decoder(self._text, params.stop),
            )
            for index in range(params.n)
        ]
        with self._work:
            if self._closed or self._draining:
                raise FledgeError("the engine is closed" if self._closed else "the engine takes no more requests")
            self._waiting.extend(answers)
            self._work.notify_all()
        return stream

    def stats(self) -> Stats:
        with self._work:
            waiting = len(self._waiting) + sum(map(len, self._suspects))
            running = sum(not answer.ended for answer in self._running)
            return Stats(running, waiting, self._prompt_tokens, self._generated_tokens)

    def drain(self, timeout_s: float) -> bool:
        with self._work:
            self._draining = True
            return self._work.wait_for(lambda: not self._busy(), timeout_s)

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify_all()
        self._thread.join()

    @abc.abstractmethod
    def _turn(self) -> None:
        """Start what `_take` gives, and advance what runs by one step; `_deliver` each answer's new tokens."""

    @abc.abstractmethod
    def _release(self, answer: Answer) -> None:
        """Free what the engine holds for an answer that ended before it was done."""

    def _shut(self) -> None:
        """Free what the engine holds; called once, in its thread."""
        self._text.close()

    def _take(self, limit: int) -> list[Answer]:
        """The next answers to start, now counted as running; at most `limit` run. After a failure, those that ran then
        come in groups."""
        with self._work:
            if self._suspects:
                due = [] if self._running else self._suspects.popleft()
            else:
                due = [self._waiting.popleft() for _ in range(min(limit - len(self._running), len(self._waiting)))]
            taken: list[Answer] = []
            for answer in due:
                if answer.stream.cancelled:
                    self._deliver(answer, (), "cancelled")
                    continue
                taken.append(answer)
                self._running.append(answer)
                self._prompt_tokens += 0 if answer.generated else len(answer.prompt_ids)
            return taken

    def _deliver(
        self, answer: Answer, token_ids: Sequence[int], reason: FinishReason | None, logprobs: Sequence[float] = ()
    ) -> bool:
        """Pass new tokens on; True if the answer has ended with them, by `reason`, a stop text or a cancellation."""
        answer.generated.extend(token_ids)
        self._generated_tokens += len(token_ids)
        if not reason and answer.stream.cancelled:
            reason = "cancelled"
        try:
            chunk = answer.decoder.feed(token_ids, reason)
            tokens = tuple(map(self._text.token, token_ids)) if answer.params.logprobs else ()
        except FledgeError as error:  # of this answer's text alone
            self._fail(answer, error)
            return True
        if chunk.finish_reason:
            answer.ended = True
            usage = Usage(answer.stream.prompt_tokens, len(answer.generated))
            chunk = replace(chunk, usage=usage)
        answer.stream.put(replace(chunk, index=answer.index, logprobs=tuple(logprobs), tokens=tokens))
        return answer.ended

    def _busy(self) -> bool:
        return bool(self._waiting or self._suspects or self._running)

    def _loop(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._busy() or self._closed)
                if self._closed:
                    break
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 (whatever it was, those who wait must hear of it)
                self._isolate(error)
            with self._work:
                self._running = [answer for answer in self._running if not answer.ended]
                self._work.notify_all()
        for answer in self._running:
            self._release(answer)
        for answer in [*self._running, *itertools.chain(*self._suspects), *self._waiting]:
            answer.stream.fail(FledgeError("the engine was closed"))
        self._shut()

    def _fail(self, answer: Answer, error: Exception) -> None:
        answer.ended = True
        answer.stream.fail(FledgeError(f"the {self.info.name} engine failed: {error}"))

    def _isolate(self, error: Exception) -> None:
        """A step failed: let go of all that ran, and try each half of it, from where it was, for itself. Who fails
        alone is the cause."""
        with self._work:
            failed, self._running = [answer for answer in self._running if not answer.ended], []
        for answer in failed:
            self._release(answer)
            answer.handle = None
        if len(failed) == 1:
            self._fail(failed[0], error)
        else:
            half = len(failed) // 2
            with self._work:
                self._suspects.extendleft((failed[half:], failed[:half]))
