"""Clients that ask an endpoint until a block ends, and what each has in its hands of each request."""

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
class Told:
    """One request. `status` is 0 where the connection ended before one came, or before the answer was whole.

    `broken` says that a stream ended with an error frame, `left` that the client hung up. Times are of a
    monotonic clock.
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
    # Authorities are for https, and reading them would take longer than most requests.
    return httpx.Client(base_url=url, timeout=120, trust_env=False, verify=False)  # noqa: S501


def ask(http: httpx.Client, body: dict[str, Any], path: str = CHAT) -> Told:
    """One request, to its end; one that streams is read to its last frame."""
    began, identity, release = time.monotonic(), "", ""
    model = str(body.get("model", ""))
    try:
        with http.stream("POST", path, json=body) as response:
            identity, release = response.headers["x-request-id"], response.headers.get("x-fledge-release", "")
            if not response.headers["content-type"].startswith("text/event-stream"):
                content = response.read().decode()
                return Told(identity, response.status_code, began, time.monotonic(), model, release, text=content)
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
            broken = lines[-1] != "[DONE]"
            if broken:
                assert "error" in json.loads(lines[-1]), lines[-1]
            return Told(identity, 200, began, time.monotonic(), model, release, broken, text="\n".join(lines))
    except httpx.TransportError:
        return Told(identity, 0, began, time.monotonic(), model, release)


class Asking:
    """So many clients, each with a connection of its own, ask one request after the other; every other one streams.

    `models` are asked for in turn. Between two requests a client rests for about `pause` seconds.
    """

    def __init__(
        self, url: str, clients: int = 8, *, models: Sequence[str] = ("",), tokens: int = 16, pause: float = 0.05
    ) -> None:
        self._url = url
        self._models = models
        self._tokens = tokens
        self._pause = pause
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]
        self.told: list[Told] = []

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int, seconds: float = 20.0) -> None:
        """Until so many more requests have ended."""
        count = len(self.told) + more
        assert until(lambda: len(self.told) >= count, seconds), f"{len(self.told)} of {count} in {seconds:g} s"

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
                self.told.append(ask(http, body))
                number += 1
                self._ended.wait(self._pause * rng.uniform(0.5, 1.5))


class Together:
    """Requests that are asked all at once, each on a connection of its own; `told` waits for their ends, in order."""

    def __init__(self, url: str, bodies: Sequence[dict[str, Any]], path: str = CHAT) -> None:
        self._found: list[Told | None] = [None] * len(bodies)
        self._here = threading.Barrier(len(bodies))
        self._threads = [
            threading.Thread(target=self._ask, args=(url, path, number, body)) for number, body in enumerate(bodies)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, url: str, path: str, number: int, body: dict[str, Any]) -> None:
        with _client(url) as http:
            self._here.wait(30)
            self._found[number] = ask(http, body, path)

    def told(self) -> list[Told]:
        for thread in self._threads:
            thread.join()
        return [item for item in self._found if item is not None]
