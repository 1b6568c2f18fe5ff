"""An endpoint as the partner of a session: fledge's own, or any that speaks OpenAI's protocol.

It is asked over plain HTTP: OpenAI's client would keep the headers from us, by which feedback finds its answer, and try
again in silence while somebody waits.
"""

import json
import os
import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from fledge.chat.partner import NO_FEEDBACK_HINT, AnswerPart
from fledge.client.events import data_of
from fledge.core.api_key import VARIABLE, api_key
from fledge.core.errors import FledgeError, InputError
from fledge.core.keys import VARIABLE as FLEDGE_KEY
from fledge.core.network import LOOPBACK
from fledge.core.types import Message

FIRST_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 600.0
MAX_ERROR_BYTES = 65_536
MAX_ERROR_CHARACTERS = 500
DONE = "[DONE]"


class EndpointPartner:
    """Asks the endpoint at a URL, `http(s)://host[/v1][#MODEL]`.

    The key is `FLEDGE_API_KEY` for an endpoint of fledge, else `OPENAI_API_KEY`: neither is sent to the other kind.
    """

    def __init__(self, url: str) -> None:
        """Raises `FledgeError` if nothing answers there, `InputError` if it does not let us in or lists no model."""
        given, _, self._model = url.partition("#")
        given = given.rstrip("/")
        self._root = given.removesuffix("/v1")
        self._host = urlsplit(given).netloc
        self._is_near = urlsplit(given).hostname in LOOPBACK
        self._http = httpx.Client(timeout=FIRST_TIMEOUT_S, trust_env=not self._is_near)  # proxies are for what is far
        try:
            self._is_fledge = self._asks_like_fledge()
            self._base = f"{self._root}/v1" if self._is_fledge or not urlsplit(given).path else given
            key = _fledge_key() if self._is_fledge else api_key()
            if key:
                self._http.headers["authorization"] = f"Bearer {key}"
            if self._is_fledge:  # so that all of a conversation is answered by one arm
                self._http.headers["x-session-id"] = secrets.token_hex(16)
            name = self._settle_model()
        except BaseException:
            self._http.close()
            raise
        self._http.timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=FIRST_TIMEOUT_S)
        self.description = f"{name} at {self._host}"

    def ask(
        self, messages: Sequence[Message], settings: Mapping[str, Any], *, plain: bool = False
    ) -> Generator[AnswerPart]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        body = {**({"model": self._model} if self._model else {}), "messages": turns, "stream": True, **settings}
        if plain and self._is_fledge:
            body["prompt"] = "none"
        try:
            with self._http.stream("POST", f"{self._base}/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise self._refused(response)
                identity = response.headers.get("x-request-id", "")
                prompt = unquote(response.headers.get("x-fledge-prompt", ""))
                left_out = _number(response, "x-fledge-turns-left-out")
                yield AnswerPart(request_id=identity, turns_left_out=left_out, prompt=prompt)
                yield from self._parts(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unreachable(error) from None
        except httpx.HTTPError as error:
            raise FledgeError(f"{self._host} broke the answer off: {_reason(error)}", hint="ask again") from None

    def feedback(self, request_id: str, value: bool, comment: str) -> None:
        if not request_id:
            raise InputError(f"feedback needs a fledge endpoint: {self._host} gave no x-request-id", NO_FEEDBACK_HINT)
        body = {"request_id": request_id, "value": value, "name": "thumbs", "comment": comment}
        try:
            with self._http.stream("POST", f"{self._root}/feedback", json=body) as response:
                if response.status_code in (404, 405):
                    told = _message(response)
                    raise InputError(
                        f"feedback needs a fledge endpoint: {self._host} did not take it: {told}", NO_FEEDBACK_HINT
                    )
                if not response.is_success:
                    raise self._refused(response)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def close(self) -> None:
        self._http.close()

    def _asks_like_fledge(self) -> bool:
        """Whether `/ready`, which needs no key, answers as fledge's does."""
        try:
            content = self._http.get(f"{self._root}/ready").json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        except ValueError:  # no JSON
            return False
        return isinstance(content, dict) and "ready" in content

    def _settle_model(self) -> str:
        """The name of what will answer. An endpoint of fledge chooses by itself, others want a name."""
        if self._model and not self._is_fledge:
            return self._model
        try:
            response = self._http.get(f"{self._base}/models")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code in (401, 403):
            refused = self._refused(response)
            raise InputError(refused.message, refused.hint)
        try:
            content = response.json()
        except ValueError:
            content = None
        names = [item["id"] for item in _listed(content) if isinstance(item, dict) and isinstance(item.get("id"), str)]
        if not self._is_fledge:
            if not names:
                raise InputError(f"{self._base} lists no models", hint=f"name one: {self._base}#NAME")
            self._model = names[0]
        return self._model or (names[0] if names else "fledge")

    def _parts(self, response: httpx.Response) -> Iterator[AnswerPart]:
        ended = False
        for data in data_of(response.iter_bytes()):
            if data == DONE:
                break
            part = self._part(data)
            ended = ended or bool(part.finish_reason)
            yield part
        if not ended:
            raise FledgeError(f"{self._host} broke the answer off", hint="ask again; see the endpoint's log")

    def _part(self, data: str) -> AnswerPart:
        try:
            event = json.loads(data)
            if error := event.get("error"):
                told = error.get("message") if isinstance(error, dict) else error
                raise FledgeError(f"{self._host}: {_line(str(told))}", hint="ask again; see the endpoint's log")
            choice: dict[str, Any] = next(iter(event.get("choices") or ()), {})
            text = (choice.get("delta") or {}).get("content") or ""
            reason = choice.get("finish_reason") or ""
        except (ValueError, AttributeError, TypeError):
            raise FledgeError(
                f"{self._host} sent what is no event of OpenAI's protocol: {_line(data)[:80]}",
                hint=f"curl {self._base}/models tells whether it speaks the protocol",
            ) from None
        # JSON can hold half a surrogate pair, which no terminal, file or further request takes.
        return AnswerPart(str(text).encode(errors="replace").decode(), str(reason))

    def _refused(self, response: httpx.Response) -> FledgeError:
        status, told = response.status_code, _message(response)
        if status in (401, 403):
            variable = FLEDGE_KEY if self._is_fledge else VARIABLE
            return FledgeError(f"{self._host} rejected the API key: {told}", hint=f"export {variable}=...")
        if status == 404:
            return FledgeError(f"{self._host}: {told}", hint=f"curl {self._base}/models; name one as {self._base}#NAME")
        if status in (429, 503):
            wait = _number(response, "retry-after")
            later = f"ask again in {wait} s" if wait else "ask again in a moment"
            state = "has too much to do" if status == 429 else "is not ready"
            return FledgeError(f"{self._host} {state}: {told}", hint=later)
        if status in (400, 413, 422):
            return InputError(f"{self._host} does not take the question: {told}", hint="ask otherwise, or /reset")
        return FledgeError(f"{self._host} answered {status}: {told}", hint="ask again; see the endpoint's log")

    def _unreachable(self, error: Exception) -> FledgeError:
        start = "fledge status shows what runs here; fledge serve NAME@champion --detach starts an endpoint"
        hint = start if self._is_near else "check the address, and that the server runs"
        return FledgeError(f"nothing answers at {self._root}: {_reason(error)}", hint)


def _fledge_key() -> str:
    key = os.environ.get(FLEDGE_KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise InputError(f"{FLEDGE_KEY} holds a character that no key has", hint=f"export {FLEDGE_KEY}=...")
    return key


def _number(response: httpx.Response, header: str) -> int:
    """A count in a header; 0 where there is none."""
    text = response.headers.get(header, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _listed(content: Any) -> list[Any]:
    found = content.get("data") if isinstance(content, dict) else None
    return found if isinstance(found, list) else []


def _message(response: httpx.Response) -> str:
    """What an error says, in a line; in OpenAI's form, MLflow's, FastAPI's, or as it is."""
    raw = b""
    for part in response.iter_bytes():
        raw += part
        if len(raw) > MAX_ERROR_BYTES:
            break
    text = raw[:MAX_ERROR_BYTES].decode(errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        return _line(text) or response.reason_phrase
    if isinstance(content, dict):
        error = content.get("error")
        told = error.get("message") if isinstance(error, dict) else error or content.get("message")
        text = str(told or content.get("detail") or text)
    return _line(text)


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_ERROR_CHARACTERS]


def _reason(error: Exception) -> str:
    return _line(str(error)) or type(error).__name__
