"""Client of a server under load: `python -m fledge.bench.load_client JSON`.

Writes a line of JSON for each load to stdout. It is a process of its own, so that the benchmark does not delay it.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from fledge.bench.loads import Ask, LoadAnswer, prompts, report_loads

OK = 200


class LoadTarget(NamedTuple):
    """A server: URL, protocol, the model's name if the protocol needs it, the exact tokens of an answer, and a timeout
    in seconds."""

    url: str
    protocol: str
    model: str
    tokens: int
    timeout_s: float


class Protocol(NamedTuple):
    """A path, a function that makes the body for a prompt, and one that reads an answer's number of tokens.

    Without `read`, the answer is a stream of server-sent events in OpenAI's format.
    """

    path: str
    body: Callable[[LoadTarget, str], dict[str, Any]]
    read: Callable[[Any], int] | None = None


def _completions(target: LoadTarget, prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, **_exact_length(target)}


def _chat(target: LoadTarget, prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], **_exact_length(target)}


def _plain_chat(target: LoadTarget, prompt: str) -> dict[str, Any]:
    turn = {"role": "user", "content": prompt}
    return {"model": target.model, "messages": [turn], "max_tokens": target.tokens, "temperature": 0, "stream": True}


def _exact_length(target: LoadTarget) -> dict[str, Any]:
    """Return the parameters for a stream of exactly `target.tokens`, as vLLM and fledge accept them."""
    return {
        "model": target.model,
        "max_tokens": target.tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _invocations(_target: LoadTarget, prompt: str) -> dict[str, Any]:
    return {"dataframe_split": {"columns": ["question"], "data": [[prompt]]}}


def _predict(_target: LoadTarget, prompt: str) -> dict[str, Any]:
    return {"prompt": prompt}


PROTOCOLS = {
    "completions": Protocol("/v1/completions", _completions),
    "chat": Protocol("/v1/chat/completions", _chat),
    "plain-chat": Protocol("/v1/chat/completions", _plain_chat),
    "invocations": Protocol("/invocations", _invocations, lambda answer: int(answer["predictions"][0]["tokens"])),
    "predict": Protocol("/predict", _predict, lambda answer: int(answer["tokens"])),
}


@asynccontextmanager
async def open_client(target: LoadTarget) -> AsyncIterator[Ask]:
    """Yield a function that sends a prompt to a server; failures are in the answer's `error`."""
    protocol = PROTOCOLS[target.protocol]
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(target.timeout_s)
    ) as session:

        async def ask(prompt: str) -> LoadAnswer:
            answer = LoadAnswer()
            try:
                async with session.post(f"{target.url}{protocol.path}", json=protocol.body(target, prompt)) as response:
                    if response.status != OK:
                        answer.error = f"HTTP {response.status}"
                        return answer
                    if protocol.read is None:
                        await _read_stream(response, answer)
                    else:
                        answer.tokens = protocol.read(await response.json())
            except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
                answer.error = type(error).__name__
            else:
                if answer.tokens != target.tokens:
                    answer.error = answer.error or f"{answer.tokens} tokens"
            return answer

        yield ask


async def _read_stream(response: aiohttp.ClientResponse, answer: LoadAnswer) -> None:
    async for line in response.content:
        moment = time.perf_counter()
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[len(b"data: ") :])
        if "error" in event:
            answer.error = "an error in the stream"
        for choice in event.get("choices", ()):
            if choice.get("text") or choice.get("delta", {}).get("content"):
                answer.pieces.append(moment)
        if event.get("usage"):
            answer.tokens = event["usage"]["completion_tokens"]


async def _main(config: dict[str, Any]) -> None:
    target = LoadTarget(**config["target"])
    texts = prompts(config["characters"], config["seed"])
    async with open_client(target) as ask:
        await report_loads(config["loads"], ask, texts, config["seed"])


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
