"""The llama.cpp engine: runs a GGUF file as it is, with llama.cpp's own batching and prefix reuse (xllamacpp).

llama.cpp's server runs in this process and is called directly. It also opens a socket; its file is removed at once, so
that nobody can connect.
"""

import contextlib
import json
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xllamacpp

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.interrupts import scratch_folder
from fledge.core.types import EngineInfo
from fledge.engines.engine import PromptInput, refuse_unsupported
from fledge.engines.guarded_child import GuardedChild
from fledge.engines.memory import cache_tokens
from fledge.engines.prompt_encoder import PromptEncoder, encode_prompt
from fledge.engines.stream import Chunk, Stream, Usage
from fledge.engines.text import Encoded, TextConfig
from fledge.models.snapshot import Snapshot

SLOTS = 64
WAIT_S = 0.005  # of a turn for the next token
UNKNOWN = -1  # id of a token that ends within a character: llama.cpp counts it, but does not tell which it is
UNTOLD = InputError(
    "llama.cpp reports no log probabilities for tokens that end within a character", hint="--engine openvino"
)
SUPPORTED = ("presence_penalty", "frequency_penalty")
RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's seed for "draw one"
# As transformers: temperature before the others.
SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")


@dataclass(eq=False)
class _Answer:
    """One answer. `need` is the number of cache tokens that it may take."""

    prompt_ids: list[int]
    params: GenerationParams
    stream: Stream
    index: int
    completion_tokens: int = 0
    ended: bool = False

    @property
    def need(self) -> int:
        return len(self.prompt_ids) + self.params.max_tokens + 1


@dataclass
class _Cache:
    """Tokens of the KV cache that the running answers may take. llama.cpp fails all of them when it overflows."""

    size: int
    reserved: int = 0
    running: list[_Answer] = field(default_factory=list)

    def fits(self, answer: _Answer) -> bool:
        return len(self.running) < SLOTS and self.reserved + answer.need <= self.size

    def add(self, answer: _Answer) -> None:
        self.running.append(answer)
        self.reserved += answer.need

    def remove(self, answer: _Answer) -> None:
        self.running.remove(answer)
        self.reserved -= answer.need


class LlamaCppEngine:
    """Answers with llama.cpp. Each answer is a call in a thread of its own, whose tokens `turn` hands over."""

    def __init__(self, model: Snapshot, gguf: Path, info: EngineInfo, cache_gb: float) -> None:
        """`gguf` is the file that `model` was made from; `cache_gb` is the size of the KV cache, 0 for the default."""
        self.info = info
        self.text = TextConfig.of(model, (model.path / "tokenizer.json").read_text(encoding="utf-8"))
        self.encoder = PromptEncoder(self.text)
        self.between_steps: Callable[[], None] = lambda: None
        self._cache = _Cache(max(cache_tokens(model, info.mode, cache_gb), model.context + 1))
        self._waiting: deque[_Answer] = deque()
        self._arrived: queue.SimpleQueue[tuple[_Answer, dict[str, Any] | None]] = queue.SimpleQueue()
        self._server = _start_server(gguf, self._cache.size)

    @property
    def children(self) -> Sequence[GuardedChild]:
        return [self.encoder]

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._cache.running)

    def take(self, prompt: PromptInput, params: GenerationParams, stream: Stream) -> None:
        def begin(encoded: Encoded) -> None:
            stream.prompt_tokens, stream.turns_left_out = len(encoded.token_ids), encoded.turns_left_out
            most = min(params.max_tokens, self.text.context - stream.prompt_tokens)
            self._waiting.extend(
                _Answer(encoded.token_ids, replace(params.for_sample(index), n=1, max_tokens=most), stream, index)
                for index in range(params.n)
            )

        try:
            refuse_unsupported(self.info.name, SUPPORTED, params)
            if params.echo:
                raise InputError("the engine llamacpp does not echo prompts", hint="--engine openvino")
        except InputError as error:
            stream.fail(error)
            return
        encode_prompt(self.encoder, self.text, prompt, params, stream, begin)

    def turn(self) -> None:
        """Start the answers that the cache has room for, and hand over what llama.cpp generated."""
        while self._waiting and self._cache.fits(self._waiting[0]):
            answer = self._waiting.popleft()
            if answer.stream.cancelled:
                self._end(answer, "cancelled")
                continue
            self._cache.add(answer)
            threading.Thread(target=self._generate, args=(answer,), daemon=True).start()
        with contextlib.suppress(queue.Empty):
            arrived = self._arrived.get(timeout=WAIT_S)
            while True:
                self._hand_over(*arrived)
                arrived = self._arrived.get_nowait()

    def _generate(self, answer: _Answer) -> None:
        """Call llama.cpp, in a thread of its own."""

        def receive(text: str) -> bool:
            self._arrived.put((answer, json.loads(text)))
            return answer.stream.cancelled  # true ends the call

        try:
            self._server.handle_completions(json.dumps(_request(answer)), receive)
        finally:
            self._arrived.put((answer, None))

    def _hand_over(self, answer: _Answer, item: dict[str, Any] | None) -> None:
        if item is None:
            self._cache.remove(answer)
            if not answer.ended:
                self._end(answer, "cancelled")
            return
        if answer.ended:
            return
        if "error" in item:
            answer.ended = True
            answer.stream.fail(_read_error(item["error"]))
            return
        (choice,) = item["choices"]
        reason, logprobs = choice["finish_reason"], answer.params.logprobs
        tokens = (choice["logprobs"] or {}).get("content") or []
        token_ids = [token["id"] for token in tokens]
        usage = None
        if reason:
            answer.ended = True
            usage = Usage(answer.stream.prompt_tokens, item["usage"]["completion_tokens"])
            untold = usage.completion_tokens - answer.completion_tokens - len(tokens)
            if untold > 0 and logprobs:
                answer.stream.fail(UNTOLD)
                return
            token_ids += [UNKNOWN] * untold
        answer.completion_tokens += len(token_ids)
        answer.stream.put(
            Chunk(
                choice["text"],
                tuple(token_ids),
                reason,
                tuple(token["logprob"] for token in tokens) if logprobs else (),
                answer.index,
                usage,
                tuple(bytes(token["bytes"]) for token in tokens) if logprobs else (),
                top=tuple(map(_likeliest, tokens)) if answer.params.top_logprobs else (),
            )
        )

    def _end(self, answer: _Answer, reason: Any) -> None:
        answer.ended = True
        usage = Usage(answer.stream.prompt_tokens, answer.completion_tokens)
        answer.stream.put(Chunk("", (), reason, (), answer.index, usage))

    def close(self) -> None:
        for answer in self._cache.running:
            answer.stream.cancelled = True
        self.encoder.close()


def _start_server(gguf: Path, cache: int) -> Any:
    """Return llama.cpp's server with the model loaded. Raises `FledgeError` if it cannot load it."""
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.kv_unified = cache, SLOTS, True
    params.ui = params.endpoint_slots = params.endpoint_props = False
    params.cache_ram_mib = 0
    params.fit_params = False  # or it would shrink the context to the memory that is free
    params.verbosity = 0
    threads = len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with scratch_folder() as folder:
            params.hostnames = [str(folder / "llama.sock")]
            return xllamacpp.Server(params)
    except RuntimeError as error:
        raise FledgeError(f"llama.cpp cannot load {gguf.name}: {error}", hint="--engine openvino") from None
    finally:
        for number, handler in handlers.items():  # llama.cpp has set its own
            signal.signal(number, handler)


def _request(answer: _Answer) -> dict[str, Any]:
    params = answer.params
    return {
        "prompt": answer.prompt_ids,
        "max_tokens": params.max_tokens,
        "stream": True,
        "logprobs": max(1, params.top_logprobs),
        "temperature": params.temperature if params.samples else 0,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "samplers": SAMPLERS,
        "repeat_penalty": params.repetition_penalty,
        "repeat_last_n": len(answer.prompt_ids) + params.max_tokens,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "seed": params.seed % RANDOM_SEED,
        "ignore_eos": params.ignore_eos,
        "stop": list(params.stop),
        "cache_prompt": True,
        **({"grammar": params.grammar} if params.grammar else {}),
    }


def _likeliest(token: dict[str, Any]) -> tuple[tuple[bytes, float], ...]:
    return tuple((bytes(other["bytes"]), other["logprob"]) for other in token["top_logprobs"])


def _read_error(error: dict[str, Any]) -> FledgeError:
    kind = InputError if error.get("code") == 400 else FledgeError
    return kind(f"llama.cpp: {error.get('message', error)}")
