"""Load generation: closed and open loops with any client, and their figures."""

import asyncio
import itertools
import json
import random
import string
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fledge.bench.rounds import quantile

# A client in a closed loop would otherwise retry a server that refuses immediately thousands of times a second.
PAUSE_AFTER_ERROR_S = 0.1


@dataclass(frozen=True)
class Load:
    """A closed loop of `size` clients that each send a request after each answer, or an open loop of `size` requests/s
    at random times; nothing is sent after `seconds`."""

    loop: Literal["closed", "open"]
    size: float
    seconds: float

    @property
    def label(self) -> str:
        return f"{self.size:g} clients" if self.loop == "closed" else f"{self.size:g} requests/s"

    @property
    def warm_up(self) -> int:
        """The number of concurrent requests before the load, which do not count."""
        return min(int(self.size), 16) if self.loop == "closed" else 4


@dataclass
class LoadAnswer:
    """The answer to one request: the times of chunks with text (`time.perf_counter`, in seconds), empty if it did not
    stream. `error` is empty for a 200 with the requested number of tokens."""

    pieces: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""


class LoadSample(NamedTuple):
    """One request: when it was due and when its answer ended, in seconds since the load started.

    `ttft_s` is null if the answer did not stream; `gaps_s` are the times between its chunks.
    """

    due_s: float
    ended_s: float
    ttft_s: float | None
    gaps_s: list[float]
    tokens: int
    error: str

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s


class Slo(NamedTuple):
    """Limits of a good answer: seconds to the first token, and in all."""

    ttft_s: float
    latency_s: float

    def is_met(self, sample: LoadSample) -> bool:
        """Return whether an answer is within the limits; without streaming, the first token comes at the end."""
        first = sample.latency_s if sample.ttft_s is None else sample.ttft_s
        return not sample.error and first <= self.ttft_s and sample.latency_s <= self.latency_s


class Figures(NamedTuple):
    """Figures of one load; times in seconds, null without answers or without streaming."""

    requests: int
    requests_per_s: float
    output_tokens_per_s: float
    ttft_p50_s: float | None
    inter_token_p50_s: float | None
    inter_token_p99_s: float | None
    latency_p50_s: float | None
    latency_p99_s: float | None
    goodput_per_s: float
    errors: int


Ask = Callable[[str], Awaitable[LoadAnswer]]


async def report_loads(contents: Sequence[Mapping[str, Any]], ask: Ask, texts: Iterator[str], seed: int) -> None:
    """Put loads (fields of `Load`) on a client, each after its warm-up, and write a line of JSON with the samples of
    each to stdout."""
    for content in contents:
        load = Load(**content)
        await asyncio.gather(*(ask(next(texts)) for _ in range(load.warm_up)))
        samples = await run_load(load, ask, texts, seed)
        sys.stdout.write(json.dumps({"load": content, "samples": samples}) + "\n")
        sys.stdout.flush()


async def run_load(load: Load, ask: Ask, prompts: Iterator[str], seed: int = 0) -> list[LoadSample]:
    """Send the requests of a load and wait for all answers."""
    if load.loop == "open":
        return await open_loop(ask, prompts, arrivals(load.size, load.seconds, seed))
    return await closed_loop(ask, prompts, int(load.size), load.seconds)


async def closed_loop(ask: Ask, prompts: Iterator[str], clients: int, seconds: float) -> list[LoadSample]:
    """Run a closed loop. Answers pending after `seconds` are awaited and count."""
    started = time.perf_counter()
    samples: list[LoadSample] = []

    async def client() -> None:
        while (sent := time.perf_counter()) < started + seconds:
            samples.append(_sample(started, sent, await ask(next(prompts))))
            if samples[-1].error:
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return samples


async def open_loop(ask: Ask, prompts: Iterator[str], due: Sequence[float]) -> list[LoadSample]:
    """Send a request at each time in `due`. Latency counts from then, even if the request is sent later."""
    started = time.perf_counter()

    async def one(moment: float, prompt: str) -> LoadSample:
        return _sample(started, started + moment, await ask(prompt))

    async with asyncio.TaskGroup() as group:
        tasks = []
        for moment in due:
            await asyncio.sleep(started + moment - time.perf_counter())
            tasks.append(group.create_task(one(moment, next(prompts))))
    return [task.result() for task in tasks]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the times of a Poisson process with `rate` per second, up to `seconds`; the seed determines them."""
    rng = random.Random(seed)
    times = itertools.accumulate(rng.expovariate(rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda moment: moment < seconds, times))


def prompts(characters: int, seed: int = 0) -> Iterator[str]:
    """Yield unique texts of `characters` random letters in words, so that prefix caches do not help."""
    rng = random.Random(seed)
    while True:
        letters = rng.choices(string.ascii_lowercase, k=characters)
        for place in range(rng.randint(2, 7), characters - 1, 6):
            letters[place] = " "
        yield "".join(letters)


def figures(rounds: Sequence[Sequence[LoadSample]], slo: Slo) -> Figures:
    """Return the figures of one load over one or more rounds.

    Rates use the time from the start of each round to its last answer. Times are over the successful answers of all
    rounds.
    """
    samples = [sample for one in rounds for sample in one]
    good = [sample for sample in samples if not sample.error]
    seconds = sum(max((sample.ended_s for sample in one), default=0.0) for one in rounds)
    firsts = [sample.ttft_s for sample in good if sample.ttft_s is not None]
    gaps = [gap for sample in good for gap in sample.gaps_s]
    latencies = [sample.latency_s for sample in good]

    def rate(count: int) -> float:
        return count / seconds if seconds else 0.0

    return Figures(
        requests=len(samples),
        requests_per_s=rate(len(good)),
        output_tokens_per_s=rate(sum(sample.tokens for sample in good)),
        ttft_p50_s=_quantile(firsts, 0.5),
        inter_token_p50_s=_quantile(gaps, 0.5),
        inter_token_p99_s=_quantile(gaps, 0.99),
        latency_p50_s=_quantile(latencies, 0.5),
        latency_p99_s=_quantile(latencies, 0.99),
        goodput_per_s=rate(sum(slo.is_met(sample) for sample in good)),
        errors=len(samples) - len(good),
    )


def _quantile(values: Sequence[float], share: float) -> float | None:
    return quantile(values, share) if values else None


def _sample(started: float, due: float, answer: LoadAnswer) -> LoadSample:
    return LoadSample(
        due_s=due - started,
        ended_s=time.perf_counter() - started,
        ttft_s=answer.pieces[0] - due if answer.pieces else None,
        gaps_s=[later - earlier for earlier, later in itertools.pairwise(answer.pieces)],
        tokens=answer.tokens,
        error=answer.error,
    )
