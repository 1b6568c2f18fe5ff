"""The remote engine: any server with OpenAI's API, named by its URL.

The key is in `OPENAI_API_KEY`. The client retries 429, 5xx and lost connections, with back-off.
"""

import itertools
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import openai

from fledge.core.api_key import api_key
from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import EngineInfo, Message
from fledge.engines.engine import PromptInput, Stats
from fledge.engines.stream import Chunk, FinishReason, Stream, Usage

RETRIES = 5
PENALTIES = ("presence_penalty", "frequency_penalty")
TIMEOUT_S = 600.0
# Parameters outside OpenAI's API that servers of open models accept; sent only if not the default.
EXTENSIONS: Mapping[str, Any] = MappingProxyType(
    {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": False, "min_tokens": 0, "stop_token_ids": ()}
)
GRAMMAR = "guided_grammar"  # as vLLM and fledge name it


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class RemoteEngine:
    """Sends requests to a server, at most `concurrency` at a time. Plain text becomes a conversation of one turn."""

    def __init__(self, url: str, *, reason: str, concurrency: int = 8, prices: Prices | None = None) -> None:
        """`url` is `http(s)://host/v1#model`; without `#model` it is the first model that the server lists."""
        base, _, name = url.partition("#")
        self.info = EngineInfo("remote", urlsplit(base).netloc, "exact", reason)
        self._url = base
        self._prices = prices or Prices()
        self._client = openai.OpenAI(
            base_url=base,
            api_key=api_key() or "none",
            max_retries=RETRIES,
            timeout=TIMEOUT_S,
        )
        self._create: Any = self._client.chat.completions.create
        self._model = name or self._find_first_model()
        self._lock = threading.Lock()
        self._running: dict[Any, Stream] = {}
        self._generated_tokens = 0
        self._closed = False
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="remote-engine")

    def wait_ready(self) -> None:
        """Return immediately: the server has loaded the model."""

    def submit(self, prompt: PromptInput, params: GenerationParams) -> Stream:
        turns = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        messages = [{"role": turn.role, "content": turn.content} for turn in turns if isinstance(turn, Message)]
        if len(messages) != len(turns):
            raise InputError("a remote model takes text or a conversation, not token ids")
        if not messages or not any(str(turn["content"]).strip() for turn in messages):
            raise InputError("the prompt is empty")
        stream = Stream(0, params.n)
        with self._lock:
            if self._closed:
                raise FledgeError("the engine is closed")
            for index in range(params.n):
                settings = replace(params.for_sample(index), n=1)
                self._running[self._pool.submit(self._answer, messages, settings, stream, index)] = stream
        return stream

    def stats(self) -> Stats:
        with self._lock:
            return Stats(sum(not future.done() for future in self._running), self._generated_tokens)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for stream in self._running.values():
                stream.cancel()
        self._pool.shutdown(wait=True)
        self._client.close()

    def _answer(self, messages: list[dict[str, str]], params: GenerationParams, stream: Stream, index: int) -> None:
        with self._lock:
            self._running = {future: other for future, other in self._running.items() if not future.done()}
        try:
            if stream.cancelled:
                stream.put(Chunk("", (), "cancelled", (), index, Usage(0, 0)))
                return
            request = {"model": self._model, "messages": messages, **_request_settings(params)}
            with self._create(**request, stream=True, stream_options={"include_usage": True}) as response:
                self._forward_chunks(response, stream, index)
        except Exception as error:  # noqa: BLE001 (any failure must reach the caller)
            stream.fail(_explain_error(error, self._url, self._model))

    def _forward_chunks(self, response: Iterable[Any], stream: Stream, index: int) -> None:
        reason: FinishReason | None = None
        counted, pieces = None, 0
        for event in response:
            if stream.cancelled:
                reason = "cancelled"
                break
            counted = event.usage or counted
            for choice in event.choices:
                text = choice.delta.content or ""
                values = [item.logprob for item in (choice.logprobs and choice.logprobs.content) or ()]
                if choice.finish_reason:
                    reason = "length" if choice.finish_reason == "length" else "stop"
                if text:
                    pieces += 1
                    stream.put(Chunk(text, (), None, tuple(values), index))
        if reason is None:
            raise FledgeError(
                f"{self._url} closed the stream before the answer was complete", hint="retry; check the server's log"
            )
        prompt_tokens, tokens = (counted.prompt_tokens, counted.completion_tokens) if counted else (0, pieces)
        with self._lock:
            self._generated_tokens += tokens
        usage = Usage(prompt_tokens, tokens, self._prices.cost(prompt_tokens, tokens))
        stream.put(Chunk("", (), reason, (), index, usage))

    def _find_first_model(self) -> str:
        try:
            model = next(itertools.islice(self._client.models.list(), 1), None)
        except Exception as error:  # noqa: BLE001 (of several libraries; each is translated)
            raise _explain_error(error, self._url, "") from None
        if model is None:
            raise InputError(f"{self._url} lists no models", hint=f"name one: {self._url}#NAME")
        return str(model.id)


def _request_settings(params: GenerationParams) -> dict[str, Any]:
    extra = {name: getattr(params, name) for name, plain in EXTENSIONS.items() if getattr(params, name) != plain}
    extra |= {GRAMMAR: params.grammar} if params.grammar else {}
    return {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.seed,
        **({"stop": list(params.stop)} if params.stop else {}),
        **({"logprobs": True} if params.logprobs else {}),
        **{name: getattr(params, name) for name in PENALTIES if getattr(params, name)},
        **({"extra_body": extra} if extra else {}),
    }


def _explain_error(error: Exception, url: str, model: str) -> FledgeError:
    if isinstance(error, FledgeError):
        return error
    text = getattr(error, "message", None) or str(error)
    # On connecting these are bad input; later they may be temporary, such as an expired key.
    kind = FledgeError if model else InputError
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return kind(f"{url} rejected the API key: {text}", hint="export OPENAI_API_KEY=...")
    if isinstance(error, openai.NotFoundError):
        hint = f"list its models with: curl {url}/models, and name one: {url}#NAME"
        return kind(
            f"{url} has no model {model!r}: {text}" if model else f"{url} is not an OpenAI-compatible API: {text}", hint
        )
    if isinstance(error, openai.RateLimitError):
        return FledgeError(
            f"{url} still rate-limits requests after {RETRIES} retries: {text}", hint="lower --remote-concurrency"
        )
    if isinstance(error, openai.APITimeoutError):
        return FledgeError(f"{url} did not answer in {TIMEOUT_S:.0f} s", hint="lower --remote-concurrency")
    if isinstance(error, openai.APIConnectionError):
        return FledgeError(f"{url} cannot be reached: {error.__cause__ or text}", hint=f"curl {url}/models")
    if isinstance(error, openai.BadRequestError):
        return InputError(f"{url} rejected the request: {text}")
    return FledgeError(f"{url}: {text}", hint="retry; check the server's log")
