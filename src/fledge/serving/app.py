"""The endpoint's HTTP application: routes and the middleware around them."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from importlib import metadata
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fledge.core.keys import Keys
from fledge.core.messages import FeedbackRecord
from fledge.serving.docs import Bodies, describe, responses
from fledge.serving.endpoint import Endpoint, warning_headers
from fledge.serving.errors import add_errors
from fledge.serving.invocations import BareRequest, add_invocations_routes
from fledge.serving.json_response import StructResponse
from fledge.serving.lifecycle import Lifecycle, Transfer
from fledge.serving.openai import ChatRequest, CompletionRequest, add_openai_routes
from fledge.serving.request_models import strict_route, unknown_names
from fledge.serving.response_models import REQUEST_ID, FeedbackTaken, Ready, ReleaseReadiness
from fledge.serving.security import Access, AccessGuard
from fledge.serving.webhook import add_webhook_route, read_secret

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class FeedbackRequest(BaseModel):
    """Feedback on an answer."""

    model_config = ConfigDict(strict=True, extra="allow")

    request_id: Annotated[str, StringConstraints(pattern=f"^{REQUEST_ID}$")] = Field(
        description="the answer's `x-request-id`, or the `id` of a completion"
    )
    value: bool | Annotated[float, Field(ge=-1e9, le=1e9)] | Annotated[str, StringConstraints(max_length=1000)]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] = "feedback"
    comment: Annotated[str, StringConstraints(max_length=10_000)] = ""
    user: Annotated[str, StringConstraints(max_length=512)] = ""


def build_app(endpoint: Endpoint, access: Access, keys: Keys, on_alias_moved: Callable[[], None]) -> Any:
    """Return the ASGI application with its middleware. `on_alias_moved` is called on MLflow's webhook."""
    app = FastAPIOffline(
        title="fledge",
        version=metadata.version("fledge"),
        description="A language model behind MLflow's scoring protocol and OpenAI's.",
        lifespan=_make_lifespan(endpoint),
        redoc_url=None,
        swagger_ui_oauth2_redirect_url="/docs/oauth2-redirect",
    )
    add_errors(app)
    router = APIRouter(route_class=strict_route(lambda: endpoint.limits.max_json_depth))
    _add_operation_routes(endpoint, router)
    add_openai_routes(endpoint, router)
    add_invocations_routes(endpoint, router)
    _add_feedback_route(endpoint, router)
    if secret := read_secret():
        add_webhook_route(router, secret, on_alias_moved)
    app.include_router(router)
    bodies = Bodies(ChatRequest, CompletionRequest, BareRequest)
    describe(app, endpoint, lambda path: keys.needed and not access.is_open(path), bodies)
    endpoint.metrics.watch(endpoint)
    guarded: Any = AccessGuard(Transfer(app, lambda: endpoint.limits, endpoint.busy), access, keys)
    if access.origins:  # outside the guard, so that a page can read why it was refused
        exposed = [
            "x-request-id",
            "x-fledge-release",
            "x-fledge-arm",
            "x-fledge-prompt",
            "x-fledge-warning",
            "retry-after",
        ]
        guarded = CORSMiddleware(
            guarded,
            allow_origins=sorted(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client adds a dozen
            expose_headers=exposed,
        )
    return Lifecycle(guarded, endpoint.record_outcome)


def _make_lifespan(endpoint: Endpoint) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        writer = asyncio.create_task(endpoint.outbox.run()) if endpoint.outbox else None
        yield
        if writer:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    return lifespan


def _add_operation_routes(endpoint: Endpoint, router: APIRouter) -> None:
    def plain(text: str) -> PlainTextResponse:
        return PlainTextResponse(text)

    about: dict[str, Any] = {"response_class": PlainTextResponse, "responses": responses(), "tags": ["Operation"]}

    @router.get("/health", summary="Liveness", **about)
    async def health() -> PlainTextResponse:
        return plain("\n")

    @router.get("/ping", summary="Liveness, for MLflow's clients", **about)
    async def ping() -> PlainTextResponse:
        return plain("\n")

    @router.get("/version", summary="Version of MLflow's protocol", **{**about, "responses": responses(401)})
    async def version() -> PlainTextResponse:
        return plain(metadata.version("mlflow"))

    @router.get(
        "/ready", summary="Readiness of the endpoint and its releases", responses=responses(503), tags=["Operation"]
    )
    async def ready() -> StructResponse:
        releases = [
            ReleaseReadiness(served.manifest.name, served.manifest.version, served.client.ready)
            for served in endpoint.served.values()
        ]
        content = Ready(endpoint.ready, endpoint.draining, releases)
        return StructResponse(content, 200 if content.ready else 503)

    @router.get(
        "/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse, responses=responses(401),
        tags=["Operation"],
    )  # fmt: skip
    async def metrics() -> Response:
        return Response(endpoint.metrics.text(), media_type=METRICS_TYPE)


def _add_feedback_route(endpoint: Endpoint, router: APIRouter) -> None:
    @router.post(
        "/feedback",
        operation_id="feedback",
        summary="Give feedback on an answer",
        responses=responses(401, 409, 415),
        tags=["Operation"],
    )
    async def feedback(body: FeedbackRequest, request: Request) -> StructResponse:
        if endpoint.outbox is None:
            raise HTTPException(409, "this endpoint does not record answers, so it takes no feedback")
        record = FeedbackRecord(
            feedback_id=secrets.token_hex(16),
            request_id=body.request_id.rpartition("-")[2],
            name=body.name,
            value=body.value,
            comment=body.comment,
            user=body.user or request.state.key_name,
        )
        endpoint.add_feedback(record)
        taken = FeedbackTaken(record.feedback_id, record.request_id)
        return StructResponse(taken, headers=warning_headers(unknown_names(body)))
