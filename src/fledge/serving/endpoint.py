"""The endpoint: chooses the release for a request, generates its answers, and records the outcome."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from starlette.exceptions import HTTPException

from fledge.core.endpoint_state import EndpointFacts
from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import SETTINGS, draw_seed
from fledge.core.limits import Limits
from fledge.core.messages import SHADOW_TAG, Ask, FeedbackRecord, Piece
from fledge.engines.client import EngineClient
from fledge.engines.engine import EngineGoneError
from fledge.prompts.format import prompt_of
from fledge.releases.manifest import Manifest
from fledge.serving.admission import Admission, BusyError, estimate_tokens
from fledge.serving.errors import NO_MODEL
from fledge.serving.metrics import Metrics
from fledge.serving.outbox import Outbox
from fledge.serving.routing import Routes
from fledge.serving.trace import RequestTrace, Result

MAX_EARLY_FEEDBACK = 100  # on one request in progress


class Served:
    """One served release: its manifest, its engine and its queue."""

    def __init__(self, manifest: Manifest, limits: Limits, context: int | None = None) -> None:
        """`context` is the model's context window in tokens, if known."""
        self.manifest = manifest
        self.context = context
        self.since = int(time.time())
        self.prompt = prompt_of(manifest)
        self.client = EngineClient(limits.max_running)
        self.admission = Admission(limits)

    def limit(self, limits: Limits) -> None:
        """Apply new limits to all further requests."""
        self.admission.limits = limits
        self.client.resize(limits.max_running)

    @property
    def label(self) -> tuple[str, str]:
        """Name and version, for metrics."""
        return self.manifest.name, str(self.manifest.version)

    def params(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the release's generation settings with a new seed, overridden by those of a request."""
        return {**self.manifest.generation, "seed": draw_seed(), **chosen}


class Respondent(NamedTuple):
    """The release that answers a request, its alias, and the shadow release, if any."""

    served: Served
    arm: str
    shadow: "Respondent | None" = None


@dataclass(frozen=True)
class Job:
    """The work of one request: prompts, their readable texts, and `n` answers to each.

    `prompt` names the release's prompt if it was filled in.
    """

    asks: Sequence[Ask]
    texts: Sequence[str]
    n: int = 1
    prompt: str = ""

    @property
    def tokens(self) -> int:
        """Estimate the tokens of the prompts and of the longest answers."""
        pairs = zip(self.asks, self.texts, strict=True)
        read = sum(len(ask.token_ids or ()) or estimate_tokens(len(text)) for ask, text in pairs)
        return read + sum(self.n * int(ask.params["max_tokens"]) for ask in self.asks)

    def results(self) -> list[Result]:
        """Return an empty result for each answer, `n` in a row for each prompt."""
        return [Result(text) for text in self.texts for _ in range(self.n)]


JobMaker = Callable[[Served], Job]
"""Makes the job of a request for one release, with that release's prompt and settings."""


@dataclass
class Endpoint:
    """The releases served on one port, their routes and limits."""

    limits: Limits
    routes: Routes
    served: dict[str, Served]
    outbox: Outbox | None
    metrics: Metrics
    facts: EndpointFacts = field(default_factory=EndpointFacts)  # reported by the supervisor
    draining: bool = False
    in_flight: int = 0
    _shadows: "set[asyncio.Task[None]]" = field(default_factory=set)
    _early_feedback: dict[str, list[FeedbackRecord]] = field(default_factory=dict)  # on requests in progress, by id

    @property
    def ready(self) -> bool:
        """Whether all releases with a share of the requests are ready, except the candidate of a running canary."""
        required = {arm.release for route in self.routes.routes for arm in route.arms}
        canary = self.facts.canary
        if canary and canary.status == "running":  # the endpoint stays ready without it
            required.discard(canary.release)
        return not self.draining and all(self.served[release].client.ready for release in required)

    def busy(self) -> BusyError | None:
        """Return an error if the queues of all releases are full, else None."""
        refusals = [served.admission.busy() for served in self.served.values()]
        return refusals[0] if all(refusals) else None

    def choose(self, trace: RequestTrace, model: str, unit: str) -> Respondent:
        """Choose the release that answers a request for `model`, and set it in the trace.

        Raises 404 for a name that is not served, and `EngineGoneError` while the endpoint stops.
        """
        choice = self.routes.find(model, unit)
        if choice is None or choice.release not in self.served:
            names = ", ".join(route.name for route in self.routes.routes)
            raise HTTPException(404, f"{NO_MODEL} {model!r} here; this endpoint serves {names}")
        served = self.served[choice.release]
        set_respondent(trace, served, choice.arm)
        self._early_feedback.setdefault(trace.request_id, [])
        if self.draining:
            raise EngineGoneError("the endpoint is stopping")
        shadow = choice.shadow and self.served.get(choice.shadow.release)
        shadowing = Respondent(shadow, choice.shadow.alias) if shadow and choice.shadow else None
        return Respondent(served, choice.arm, shadowing)

    def serves(self, chosen: Respondent) -> bool:
        """Return whether a chosen release is still served."""
        return chosen.served in self.served.values()

    @contextmanager
    def track_request(self) -> Iterator[None]:
        """Count a request as in flight, so that a stop waits for it."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def generate(self, trace: RequestTrace, chosen: Respondent, make: JobMaker) -> AsyncGenerator[tuple[int, Piece]]:
        """Yield the pieces of all answers, each with its index in `trace.results`, and add them to the results.

        Raises `BusyError` if the release's queue is full, and the errors of `make` and `EngineClient.answers`.
        """
        job = self._make_job(trace, chosen.served, make)
        if not chosen.served.client.ready:
            raise EngineGoneError("the engine is not ready")
        trace.pieces = pieces = self._generate_admitted(trace, chosen, job, make)
        return pieces

    async def _generate_admitted(
        self, trace: RequestTrace, chosen: Respondent, job: Job, make: JobMaker
    ) -> AsyncGenerator[tuple[int, Piece]]:
        served = chosen.served
        with served.admission.admit(job.tokens), self.track_request():
            if chosen.shadow:
                self._start_shadow(trace, chosen.shadow, make)
            async with aclosing(served.client.answers(job.asks, job.n, self.limits.deadline_s)) as pieces:
                async for place, piece in pieces:
                    index = place * job.n + piece.index
                    trace.results[index].add(piece)
                    yield index, piece

    def _make_job(self, trace: RequestTrace, served: Served, make: JobMaker) -> Job:
        job = make(served)
        trace.results, trace.n, trace.prompt = job.results(), job.n, job.prompt
        params = job.asks[0].params if job.asks else {}
        trace.settings = {name: value for name, value in params.items() if name in SETTINGS}
        return job

    def _start_shadow(self, trace: RequestTrace, shadow: Respondent, make: JobMaker) -> None:
        """Send a copy of the request to the shadow release if it has room. Its errors never reach the client."""
        served = shadow.served
        if not served.client.ready or served.admission.requests >= self.limits.max_running:
            return
        own = RequestTrace(trace.route, inputs=trace.inputs, tags={SHADOW_TAG: trace.request_id})
        set_respondent(own, served, shadow.arm)
        try:
            job = self._make_job(own, served, make)
        except InputError:  # its prompt has variables that this request lacks
            return
        task = asyncio.create_task(self._run_shadow(own, shadow, job, make))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _run_shadow(self, trace: RequestTrace, shadow: Respondent, job: Job, make: JobMaker) -> None:
        status = 200
        try:
            async for _ in self._generate_admitted(trace, shadow, job, make):
                pass
        except FledgeError as error:
            status, trace.error = 500, error.message
        except asyncio.CancelledError:
            status = 499
        self.record_outcome(trace, status)

    def add_feedback(self, record: FeedbackRecord) -> None:
        """Write feedback to the outbox; feedback on a request in progress is written after its record."""
        early = self._early_feedback.get(record.request_id)
        if early is not None and len(early) < MAX_EARLY_FEEDBACK:
            early.append(record)
        elif self.outbox is not None:
            self.outbox.put(record)

    def record_outcome(self, trace: RequestTrace, status: int) -> None:
        """Write the outcome of a request to the outbox and the metrics."""
        record = trace.finish(status)
        self.metrics.observe(record)
        early = self._early_feedback.pop(trace.request_id, [])
        if self.outbox is not None:
            self.outbox.put(record)
            for feedback in early:
                self.outbox.put(feedback)


def set_respondent(trace: RequestTrace, served: Served, arm: str) -> None:
    """Set the release that answers, and its alias, in the trace."""
    manifest = served.manifest
    trace.release, trace.version, trace.arm = manifest.name, manifest.version, arm


def release_headers(trace: RequestTrace) -> dict[str, str]:
    """Return the headers that name the release, its alias and its prompt."""
    headers = {"x-fledge-release": f"{trace.release}/{trace.version}", "x-fledge-arm": trace.arm}
    if trace.prompt:
        headers["x-fledge-prompt"] = trace.prompt
    left_out = max((result.turns_left_out for result in trace.results), default=0)
    if left_out:
        headers["x-fledge-turns-left-out"] = str(left_out)
    # Names may contain characters that headers cannot.
    return {name: quote(value, safe="/@") for name, value in headers.items() if value}


def warning_headers(names: Sequence[str], notes: Sequence[str] = ()) -> dict[str, str]:
    """Return the header that names ignored parameters and has notes, or none."""
    shown = ", ".join(json.dumps(name)[1:-1][:50] for name in sorted(names)[:20])
    warnings = [*([f"ignored: {shown}"] if names else []), *notes]
    return {"x-fledge-warning": "; ".join(warnings)} if warnings else {}
