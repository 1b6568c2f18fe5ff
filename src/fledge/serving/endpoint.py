"""What is behind the port: the served releases, who answers whom, and each request's way through them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from fledge.core.errors import FledgeError
from fledge.core.limits import Limits
from fledge.core.messages import Ask, Piece
from fledge.models.manifest import Manifest
from fledge.prompts.prompt import Prompt
from fledge.serving.admission import Admission, BusyError, estimate_tokens
from fledge.serving.engine_client import EngineClient, EngineGoneError
from fledge.serving.errors import NO_MODEL
from fledge.serving.metrics import Metrics
from fledge.serving.outbox import Outbox
from fledge.serving.routing import Routes
from fledge.serving.trace import RequestTrace, Result


class Served:
    """One release: its manifest, its engine, and how much it has to do."""

    def __init__(self, manifest: Manifest, limits: Limits) -> None:
        self.manifest = manifest
        self.prompt = Prompt(manifest.prompt_name, manifest.prompt_version, manifest.template)
        self.client = EngineClient(limits.max_running)
        self.admission = Admission(limits)

    def limit(self, limits: Limits) -> None:
        """Other limits from here on."""
        self.admission.limits = limits
        self.client.resize(limits.max_running)

    @property
    def label(self) -> tuple[str, str]:
        """Name and version, for metrics."""
        return self.manifest.name, str(self.manifest.version)

    def params(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The release's generation settings, with those that a request chose."""
        return {**self.manifest.generation, **chosen}


class Respondent(NamedTuple):
    """The release that answers a request, under which alias, and the one that answers unseen, if any."""

    served: Served
    arm: str
    shadow: "tuple[Served, str] | None"


@dataclass(frozen=True)
class Job:
    """What a request asks a release: prompts with their text as people read it, `n` answers to each."""

    asks: Sequence[Ask]
    texts: Sequence[str]
    n: int = 1

    @property
    def tokens(self) -> int:
        """About how many tokens are read and may be generated."""
        pairs = zip(self.asks, self.texts, strict=True)
        read = sum(len(ask.token_ids or ()) or estimate_tokens(len(text)) for ask, text in pairs)
        return read + sum(self.n * int(ask.params["max_tokens"]) for ask in self.asks)

    def results(self) -> list[Result]:
        """A place for each answer, `n` in a row for each prompt."""
        return [Result(text) for text in self.texts for _ in range(self.n)]


@dataclass
class Endpoint:
    """All that is served on one port."""

    limits: Limits
    routes: Routes
    served: dict[str, Served]
    outbox: Outbox | None
    metrics: Metrics
    facts: dict[str, Any] = field(default_factory=dict)  # of the recorder and of releases, as the supervisor told them
    draining: bool = False
    in_flight: int = 0
    _shadows: "set[asyncio.Task[None]]" = field(default_factory=set)

    @property
    def ready(self) -> bool:
        """Whether every release that has requests by right takes them."""
        wanted = {arm.release for route in self.routes.routes for arm in route.arms}
        canary = self.facts.get("canary") or {}
        if canary.get("condition") == "running":  # a release on trial is nobody's by right
            wanted.discard(canary["release"])
        return not self.draining and all(self.served[release].client.ready for release in wanted)

    def full(self) -> BusyError | None:
        """Why no request can be taken at the moment, whatever it asks; None where one might be."""
        refusals = [served.admission.full() for served in self.served.values()]
        return refusals[0] if all(refusals) else None

    def choose(self, trace: RequestTrace, model: str, unit: str) -> Respondent:
        """Who answers a request for `model`, noted in its trace. Raises 404 for a name that is not served."""
        choice = self.routes.find(model, unit)
        if choice is None or choice.release not in self.served:
            names = ", ".join(route.name for route in self.routes.routes)
            raise HTTPException(404, f"{NO_MODEL} {model!r} here; this endpoint serves {names}")
        served = self.served[choice.release]
        shadow = choice.shadow and self.served.get(choice.shadow.release)
        unseen = (shadow, choice.shadow.alias) if shadow and choice.shadow else None
        note(trace, served, choice.arm)
        return Respondent(served, choice.arm, unseen)

    def answers(self, trace: RequestTrace, chosen: Respondent, job: Job) -> AsyncGenerator[tuple[int, Piece]]:
        """Pieces of all answers with the place of each in `trace.results`, where they are noted as they come.

        Raises as `EngineClient.answers`, and `BusyError` where the release has too much to do.
        """
        served = chosen.served
        trace.results, trace.n = job.results(), job.n
        if self.draining:
            raise EngineGoneError("the endpoint is stopping")
        if not served.client.ready:
            raise EngineGoneError("the engine is not ready")
        trace.pieces = pieces = self._admitted(trace, chosen, job)
        return pieces

    async def _admitted(self, trace: RequestTrace, chosen: Respondent, job: Job) -> AsyncGenerator[tuple[int, Piece]]:
        served = chosen.served
        with served.admission.admit(job.tokens):
            self._answer_unseen(trace, chosen, job)
            self.in_flight += 1
            try:
                async with aclosing(served.client.answers(job.asks, job.n, self.limits.deadline_s)) as pieces:
                    async for place, piece in pieces:
                        index = place * job.n + piece.index
                        trace.results[index].add(piece)
                        yield index, piece
            finally:
                self.in_flight -= 1

    def _answer_unseen(self, trace: RequestTrace, chosen: Respondent, job: Job) -> None:
        """Have the shadow answer the same, as long as it has room: its trouble is nobody's."""
        if chosen.shadow is None:
            return
        served, alias = chosen.shadow
        if not served.client.ready or served.admission.requests >= self.limits.max_running:
            return
        own = RequestTrace(
            trace.route, inputs=trace.inputs, prompt=trace.prompt, tags={"fledge.shadow_of": trace.request_id}
        )
        note(own, served, alias)
        own.results, own.n = job.results(), job.n
        task = asyncio.create_task(self._shadow(own, Respondent(served, alias, None), job))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, trace: RequestTrace, shadow: Respondent, job: Job) -> None:
        status = 200
        try:
            async for _ in self._admitted(trace, shadow, job):
                pass
        except FledgeError as error:
            status, trace.error = 500, error.message
        except asyncio.CancelledError:
            status = 499
        self.ended(trace, status)

    def ended(self, trace: RequestTrace, status: int) -> None:
        """Leave the one outcome of a request in the outbox, and count it."""
        record = trace.finish(status)
        self.metrics.observe(record)
        if self.outbox is not None:
            self.outbox.put(record)


def note(trace: RequestTrace, served: Served, arm: str) -> None:
    """Who answers a request, for its record."""
    manifest = served.manifest
    trace.release, trace.version, trace.arm = manifest.name, manifest.version, arm


def head(trace: RequestTrace) -> dict[str, str]:
    """The headers that say who answered."""
    headers = {"x-fledge-release": f"{trace.release}/{trace.version}", "x-fledge-arm": trace.arm}
    if trace.prompt:
        headers["x-fledge-prompt"] = trace.prompt
    left_out = max((result.turns_left_out for result in trace.results), default=0)
    if left_out:
        headers["x-fledge-turns-left-out"] = str(left_out)
    return {name: value for name, value in headers.items() if value}


def warn(names: Sequence[str]) -> dict[str, str]:
    """The header that names parameters that were ignored."""
    if not names:
        return {}
    shown = ", ".join(json.dumps(name)[1:-1][:50] for name in sorted(names)[:20])
    return {"x-fledge-warning": f"ignored: {shown}"}
