"""`Client` and `AsyncClient`: call an endpoint from Python. They share everything but the I/O."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

import httpx

from fledge.client import calls
from fledge.client.address import Address
from fledge.client.answers import (
    DONE,
    EndpointAnswer,
    HttpReply,
    Predictions,
    StreamReader,
    event_source,
    is_error_message_complete,
)
from fledge.client.calls import Call, GenerationOptions, InvocationRows, Messages

CONNECT_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 600.0

T = TypeVar("T")
AnswerT = TypeVar("AnswerT")
StreamT = TypeVar("StreamT")


class _GenerationMethods(ABC, Generic[AnswerT, StreamT]):
    """The calls that can stream; a subclass defines the types of answers and streams."""

    def __init__(self, url: str, *, key: str | None, timeout: float, openai: bool) -> None:
        self.address = Address.parse(url, openai=openai)
        connect = min(timeout, CONNECT_TIMEOUT_S)
        self._quick = httpx.Timeout(connect)
        self._options: dict[str, Any] = {
            "headers": self.address.authorization(key),
            "timeout": httpx.Timeout(timeout, connect=connect),
            "trust_env": not self.address.is_local,  # no proxy for loopback
        }

    @abstractmethod
    def send(self, call: Call[EndpointAnswer]) -> AnswerT: ...

    @abstractmethod
    def _stream(self, call: Call[EndpointAnswer]) -> StreamT: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[False] = False,
        model: str | None = None,
        session: str | None = None,
        **settings: Any,
    ) -> AnswerT: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[True],
        model: str | None = None,
        session: str | None = None,
        **settings: Any,
    ) -> StreamT: ...

    def chat(
        self,
        messages: Messages,
        *,
        stream: bool = False,
        model: str | None = None,
        session: str | None = None,
        **settings: Any,
    ) -> AnswerT | StreamT:
        """Answer a conversation; a text is one turn of the user. A stream yields the parts of the answer.

        Requests with the same `session` go to the same arm. `settings` are fields of the protocol: `temperature`,
        `max_tokens`, `prompt="none"` to skip the release's prompt, and so on.
        """
        call = calls.chat(self.address, messages, GenerationOptions(stream, model, session, settings))
        return self._stream(call) if stream else self.send(call)

    @overload
    def complete(
        self,
        prompt: str,
        *,
        stream: Literal[False] = False,
        model: str | None = None,
        session: str | None = None,
        **settings: Any,
    ) -> AnswerT: ...

    @overload
    def complete(
        self,
        prompt: str,
        *,
        stream: Literal[True],
        model: str | None = None,
        session: str | None = None,
        **settings: Any,
    ) -> StreamT: ...

    def complete(
        self,
        prompt: str,
        *,
        stream: bool = False,
        model: str | None = None,
        session: str | None = None,
        **settings: Any,
    ) -> AnswerT | StreamT:
        """Complete a text without the release's prompt; otherwise as `chat`."""
        call = calls.complete(self.address, prompt, GenerationOptions(stream, model, session, settings))
        return self._stream(call) if stream else self.send(call)

    def _arguments(self, call: Call[Any]) -> dict[str, Any]:
        quick = {} if call.content else {"timeout": self._quick}  # a GET computes nothing
        return {**call.arguments(), **quick}

    def _reply(self, response: httpx.Response, content: bytearray) -> HttpReply:
        return HttpReply(self.address, response.status_code, response.headers, bytes(content), response.reason_phrase)


class Client(_GenerationMethods[EndpointAnswer, Generator[EndpointAnswer]]):
    """The endpoint at `url`, `http(s)://HOST[/v1][#MODEL]`.

    `key` defaults to `FLEDGE_API_KEY`; an empty key is not sent. `timeout` is in seconds, between two parts of an
    answer. `openai` means a server of OpenAI's protocol only: its URL is used unchanged, and `key` defaults to
    `OPENAI_API_KEY`.

    All methods raise `FledgeError` if there is no answer, `InputError` if the endpoint refuses the request or the key.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout: float = ANSWER_TIMEOUT_S, openai: bool = False
    ) -> None:
        super().__init__(url, key=key, timeout=timeout, openai=openai)
        self._http = httpx.Client(**self._options)

    def predict(self, rows: InvocationRows, *, session: str | None = None, **settings: Any) -> Predictions:
        """Answer questions, or rows of the prompt's variables, as a batch with the release's prompt."""
        return self.send(calls.predict(self.address, rows, session, settings))

    def feedback(
        self, request_id: str, value: bool | float | str, *, name: str = "feedback", comment: str = "", user: str = ""
    ) -> str:
        """Send feedback on the answer with this id and return the id of the feedback."""
        return self.send(calls.feedback(self.address, request_id, value, name, comment, user))

    def models(self) -> tuple[str, ...]:
        """Return the model names of the endpoint."""
        return self.send(calls.models(self.address))

    def ready(self) -> bool:
        """Return whether models are loaded and requests are accepted."""
        return self.send(calls.ready(self.address))

    def health(self) -> bool:
        """Return whether the endpoint's process is healthy."""
        return self.send(calls.health(self.address))

    def send(self, call: Call[T]) -> T:
        """Send a request and return its response."""
        with self.address.translate_errors(), self._http.stream(**self._arguments(call)) as response:
            reply = self._read(response)
        return call.read(reply)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, response: httpx.Response) -> HttpReply:
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if is_error_message_complete(response, content):
                break
        return self._reply(response, content)

    def _stream(self, call: Call[EndpointAnswer]) -> Generator[EndpointAnswer]:
        with self.address.translate_errors(), self._http.stream(**self._arguments(call)) as response:
            if not response.is_success:
                self._read(response).check()
            reader = StreamReader(self.address, response.headers)
            yield reader.opening
            for event in event_source(map(reader.check, response.iter_bytes())).iter_sse():
                if event.data == DONE:
                    break
                if event.data:
                    yield reader.read(event.data)
            reader.finish()


class AsyncClient(_GenerationMethods[Coroutine[Any, Any, EndpointAnswer], AsyncGenerator[EndpointAnswer]]):
    """`Client` for asyncio: methods are coroutines; streams are async generators and not awaited."""

    def __init__(
        self, url: str, *, key: str | None = None, timeout: float = ANSWER_TIMEOUT_S, openai: bool = False
    ) -> None:
        super().__init__(url, key=key, timeout=timeout, openai=openai)
        self._http = httpx.AsyncClient(**self._options)

    async def predict(self, rows: InvocationRows, *, session: str | None = None, **settings: Any) -> Predictions:
        return await self.send(calls.predict(self.address, rows, session, settings))

    async def feedback(
        self, request_id: str, value: bool | float | str, *, name: str = "feedback", comment: str = "", user: str = ""
    ) -> str:
        return await self.send(calls.feedback(self.address, request_id, value, name, comment, user))

    async def models(self) -> tuple[str, ...]:
        return await self.send(calls.models(self.address))

    async def ready(self) -> bool:
        return await self.send(calls.ready(self.address))

    async def health(self) -> bool:
        return await self.send(calls.health(self.address))

    async def send(self, call: Call[T]) -> T:
        with self.address.translate_errors():
            async with self._http.stream(**self._arguments(call)) as response:
                reply = await self._read(response)
        return call.read(reply)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _read(self, response: httpx.Response) -> HttpReply:
        content = bytearray()
        async for part in response.aiter_bytes():
            content += part
            if is_error_message_complete(response, content):
                break
        return self._reply(response, content)

    async def _stream(self, call: Call[EndpointAnswer]) -> AsyncGenerator[EndpointAnswer]:
        with self.address.translate_errors():
            async with self._http.stream(**self._arguments(call)) as response:
                if not response.is_success:
                    (await self._read(response)).check()
                reader = StreamReader(self.address, response.headers)
                yield reader.opening
                content = (reader.check(part) async for part in response.aiter_bytes())
                async with aclosing(event_source(content).aiter_sse()) as events:
                    async for event in events:
                        if event.data == DONE:
                            break
                        if event.data:
                            yield reader.read(event.data)
                reader.finish()
