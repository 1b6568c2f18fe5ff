"""The load on a server: closed and open loops over any way of asking, and the figures of what came back."""

import asyncio
import itertools
import random
import string
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from fledge.bench.rounds import quantile

# So that a server that refuses at once is not asked a thousand times a second by a client that has nothing to do.
PAUSE_AFTER_ERROR_S = 0.1


@dataclass(frozen=True)
class Load:
    """`size` clients that each ask again when they have been answered (closed), or `size` requests a second at times
    of their own, whatever the answers do (open); nothing new is sent after `seconds`."""

    loop: Literal["closed", "open"]
    size: float
    seconds: float

    @property
    def label(self) -> str:
        return f"{self.size:g} clients" if self.loop == "closed" else f"{self.size:g} requests/s"

    @property
    def warm_up(self) -> int:
        """Requests that are asked at once before the load, and do not count."""
        return min(int(self.size), 16) if self.loop == "closed" else 4


@dataclass
class LoadAnswer:
    """What one request brought: when each piece came that held text, in seconds of `time.perf_counter`, empty where
    the answer came whole. `error` is empty for a 200 with the number of tokens that was asked for."""

    pieces: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""


class LoadSample(NamedTuple):
    """One request, in seconds since its load began: when it was due, and when its answer ended.

    `ttft_s` is null where the answer came whole; `gaps_s` are the times between its pieces.
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
    """What a good answer takes at most, in seconds: to its first token, and in all."""

    ttft_s: float
    latency_s: float

    def met(self, sample: LoadSample) -> bool:
        """An answer that comes whole has its first token at its end."""
        first = sample.latency_s if sample.ttft_s is None else sample.ttft_s
        return not sample.error and first <= self.ttft_s and sample.latency_s <= self.latency_s


class Figures(NamedTuple):
    """What one load came to; times in seconds, null where nothing was answered or nothing streamed."""

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


async def run_load(load: Load, ask: Ask, prompts: Iterator[str], seed: int = 0) -> list[LoadSample]:
    """Ask as the load says and wait for every answer."""
    if load.loop == "open":
        return await open_loop(ask, prompts, arrivals(load.size, load.seconds, seed))
    return await closed_loop(ask, prompts, int(load.size), load.seconds)


async def closed_loop(ask: Ask, prompts: Iterator[str], clients: int, seconds: float) -> list[LoadSample]:
    """What is under way after `seconds` is waited for, and counts."""
    begun = time.perf_counter()
    samples: list[LoadSample] = []

    async def client() -> None:
        while (sent := time.perf_counter()) < begun + seconds:
            samples.append(_sample(begun, sent, await ask(next(prompts))))
            if samples[-1].error:
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return samples


async def open_loop(ask: Ask, prompts: Iterator[str], due: Sequence[float]) -> list[LoadSample]:
    """A request at each of the times `due`; its latency runs from there, also where it could only be sent later."""
    begun = time.perf_counter()

    async def one(moment: float, prompt: str) -> LoadSample:
        return _sample(begun, begun + moment, await ask(prompt))

    async with asyncio.TaskGroup() as group:
        tasks = []
        for moment in due:
            await asyncio.sleep(begun + moment - time.perf_counter())
            tasks.append(group.create_task(one(moment, next(prompts))))
    return [task.result() for task in tasks]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of a Poisson process of `rate` a second, up to `seconds`; the same for the same seed."""
    rng = random.Random(seed)
    times = itertools.accumulate(rng.expovariate(rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda moment: moment < seconds, times))


def prompts(characters: int, seed: int = 0) -> Iterator[str]:
    """Texts of so many characters, of random letters in words, none like another: no cache of prefixes knows them."""
    rng = random.Random(seed)
    while True:
        letters = rng.choices(string.ascii_lowercase, k=characters)
        for place in range(rng.randint(2, 7), characters - 1, 6):
            letters[place] = " "
        yield "".join(letters)


def figures(rounds: Sequence[Sequence[LoadSample]], slo: Slo) -> Figures:
    """The figures of one load, measured in one or several rounds.

    Rates are over the time from the start of each round to its last answer. Times are over all that was answered
    rightly, in all rounds.
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
        goodput_per_s=rate(sum(slo.met(sample) for sample in good)),
        errors=len(samples) - len(good),
    )


def _quantile(values: Sequence[float], share: float) -> float | None:
    return quantile(values, share) if values else None


def _sample(begun: float, due: float, answer: LoadAnswer) -> LoadSample:
    return LoadSample(
        due_s=due - begun,
        ended_s=time.perf_counter() - begun,
        ttft_s=answer.pieces[0] - due if answer.pieces else None,
        gaps_s=[later - earlier for earlier, later in itertools.pairwise(answer.pieces)],
        tokens=answer.tokens,
        error=answer.error,
    )
