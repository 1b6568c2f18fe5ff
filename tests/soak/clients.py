"""Load clients for an endpoint, and the outcomes of their requests."""

import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.serving.harness import until

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a request. `status` is 0 if the connection ended before the answer was complete.

    `broken` means that a stream ended with an error frame, `left` that the client disconnected. Times are monotonic.
    """

    request_id: str
    status: int
    began: float
    ended: float
    model: str = ""
    release: str = ""
    broken: bool = False
    left: bool = False
    text: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def _client(url: str) -> httpx.Client:
    # Loading CA certificates, which http does not need, takes longer than most requests.
    return httpx.Client(base_url=url, timeout=120, trust_env=False, verify=False)  # noqa: S501


def ask(http: httpx.Client, body: dict[str, Any], path: str = CHAT) -> Outcome:
    """Send a request and return its outcome; a stream is read to its last frame."""
    began, request_id, release = time.monotonic(), "", ""
    model = str(body.get("model", ""))
    try:
        with http.stream("POST", path, json=body) as response:
            request_id, release = response.headers["x-request-id"], response.headers.get("x-fledge-release", "")
            if not response.headers["content-type"].startswith("text/event-stream"):
                content = response.read().decode()
                return Outcome(request_id, response.status_code, began, time.monotonic(), model, release, text=content)
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
            broken = lines[-1] != "[DONE]"
            if broken:
                assert "error" in json.loads(lines[-1]), lines[-1]
            return Outcome(request_id, 200, began, time.monotonic(), model, release, broken, text="\n".join(lines))
    except httpx.TransportError:
        return Outcome(request_id, 0, began, time.monotonic(), model, release)


class Clients:
    """Clients that send requests on their own connections until the block ends; every other request streams.

    The requests cycle through `models`. Each client waits about `pause` seconds between two requests.
    """

    def __init__(
        self, url: str, count: int = 8, *, models: Sequence[str] = ("",), tokens: int = 16, pause: float = 0.05
    ) -> None:
        self._url = url
        self._models = models
        self._tokens = tokens
        self._pause = pause
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int, seconds: float = 20.0) -> None:
        """Wait until `more` further requests have ended."""
        count = len(self.outcomes) + more
        assert until(lambda: len(self.outcomes) >= count, seconds), f"{len(self.outcomes)} of {count} in {seconds:g} s"

    def _ask(self, client: int) -> None:
        number, rng = client, random.Random(client)
        with _client(self._url) as http:
            while not self._ended.is_set():
                model = self._models[number % len(self._models)]
                body = {
                    "messages": [{"role": "user", "content": f"What is number {number}?"}],
                    "max_tokens": self._tokens,
                    "ignore_eos": True,
                    "stream": number // len(self._models) % 2 == 0,
                    **({"model": model} if model else {}),
                }
                self.outcomes.append(ask(http, body))
                number += 1
                self._ended.wait(self._pause * rng.uniform(0.5, 1.5))


class ConcurrentRequests:
    """Requests sent at the same time, each on its own connection; `outcomes` waits and returns them in order."""

    def __init__(self, url: str, bodies: Sequence[dict[str, Any]], path: str = CHAT) -> None:
        self._outcomes: list[Outcome | None] = [None] * len(bodies)
        self._barrier = threading.Barrier(len(bodies))
        self._threads = [
            threading.Thread(target=self._ask, args=(url, path, number, body)) for number, body in enumerate(bodies)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, url: str, path: str, number: int, body: dict[str, Any]) -> None:
        with _client(url) as http:
            self._barrier.wait(30)
            self._outcomes[number] = ask(http, body, path)

    def outcomes(self) -> list[Outcome]:
        for thread in self._threads:
            thread.join()
        return [item for item in self._outcomes if item is not None]
