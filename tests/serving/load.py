"""Concurrent clients of an endpoint, and the outcome of each request."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

BODY = {"max_tokens": 32, "ignore_eos": True}


@dataclass(frozen=True)
class RequestOutcome:
    """The client's view of one request; `status` is 0 if the client disconnected before a response.

    `broken`: a stream ended with an error frame, whose status is `status`. `left`: the client disconnected.
    """

    request_id: str
    status: int
    seconds: float
    left: bool = False
    broken: bool = False
    retry_after: bool = False


@dataclass
class Load:
    """Each client sends one request after the other for `seconds`.

    `streams` is the share of streamed requests, `hang_ups` the share of those that the client leaves after the first
    piece. A client waits `pause` seconds after a refusal, and about `think` seconds between two requests.
    """

    url: str
    clients: int
    seconds: float
    streams: float = 0.5
    hang_ups: float = 0.0
    pause: float = 0.05
    think: float = 0.0
    body: dict[str, Any] = field(default_factory=lambda: dict(BODY))

    def run(self) -> list[RequestOutcome]:
        return asyncio.run(self._run())

    async def _run(self) -> list[RequestOutcome]:
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            ended = time.monotonic() + self.seconds
            found = await asyncio.gather(*(self._client(session, number, ended) for number in range(self.clients)))
        return [outcome for outcomes in found for outcome in outcomes]

    async def _client(self, session: aiohttp.ClientSession, number: int, ended: float) -> list[RequestOutcome]:
        rng, outcomes = random.Random(number), list[RequestOutcome]()
        while time.monotonic() < ended:
            stream = rng.random() < self.streams
            leaves = stream and rng.random() < self.hang_ups
            text = f"What is number {rng.randrange(10**9)}?"
            body = {**self.body, "messages": [{"role": "user", "content": text}], "stream": stream}
            began = time.monotonic()
            async with session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                identity = response.headers["x-request-id"]
                broken = await _read(response, leaves=leaves)
                status = broken or response.status
                again = "Retry-After" in response.headers
            outcomes.append(
                RequestOutcome(
                    identity, status, time.monotonic() - began, leaves and status == 200, bool(broken), again
                )
            )
            if status != 200:
                await asyncio.sleep(self.pause)
            if self.think:
                await asyncio.sleep(rng.expovariate(1 / self.think))
        return outcomes


async def _read(response: aiohttp.ClientResponse, *, leaves: bool) -> int:
    """Read a response; return the status of an error frame, or 0 without one."""
    status, done = 0, False
    if not response.headers["content-type"].startswith("text/event-stream"):
        await response.read()
        return 0
    async for line in response.content:
        if leaves:
            response.close()
            return 0
        if line.startswith(b'data: {"error"'):
            kind = json.loads(line[6:])["error"]["message"]
            status = 504 if "took more" in kind else 503 if "stopped" in kind or "replaced" in kind else 500
        done = done or line.startswith(b"data: [DONE]")
    if not done and not status:
        raise AssertionError("a stream ended without [DONE] or an error")
    return status
