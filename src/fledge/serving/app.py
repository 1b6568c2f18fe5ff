"""The endpoint's HTTP application: routes, their answers and errors, and what each leaves in the outbox."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from fledge.core.errors import FledgeError, InputError
from fledge.models.manifest import Manifest
from fledge.prompts.prompt import Prompt
from fledge.serving.engine_client import EngineClient, EngineGoneError, Result
from fledge.serving.errors import add_errors, openai_error
from fledge.serving.outbox import Outbox
from fledge.serving.requests import ChatRequest, InvocationsRequest
from fledge.serving.security import Guard
from fledge.serving.trace import RequestTrace


class Endpoint:
    """One release behind HTTP."""

    def __init__(self, manifest: Manifest, engine: EngineClient, outbox: Outbox | None) -> None:
        self.manifest = manifest
        self.engine = engine
        self.outbox = outbox
        self.prompt = Prompt(manifest.prompt_name, manifest.prompt_version, manifest.template)
        self.draining = False

    @property
    def ready(self) -> bool:
        return self.engine.ready and not self.draining

    def serves(self, model: str) -> bool:
        """Whether a request's `model` means this release; empty means whatever is served."""
        name = self.manifest.name
        return (
            model == "" or model == name or model == f"{name}/{self.manifest.version}" or model.startswith(f"{name}@")
        )

    def params(self, chosen: dict[str, Any]) -> dict[str, Any]:
        return {**self.manifest.generation, **chosen}

    async def answer(self, trace: RequestTrace, params: dict[str, Any], row: dict[str, str]) -> Result:
        """The whole answer to the release's prompt, noted in `trace`."""
        filled = self.prompt.fill(row)
        if isinstance(filled, str):
            trace.prompt_text = filled
            pieces = self.engine.stream(params, text=filled)
        else:
            trace.prompt_text = "\n".join(f"{turn.role}: {turn.content}" for turn in filled)
            pieces = self.engine.stream(params, messages=[(turn.role, turn.content) for turn in filled])
        async for piece in pieces:
            trace.result.add(piece)
        return trace.result

    def record(self, trace: RequestTrace, status: int, error: str = "") -> None:
        if self.outbox is not None:
            self.outbox.put(trace.finish(self.manifest, status, error))


def build_app(endpoint: Endpoint, *, hosts: tuple[str, ...], key: str | None) -> Any:
    """The ASGI application with its guard."""
    app = FastAPI(title="fledge", version=metadata.version("fledge"), lifespan=_lifespan(endpoint))
    add_errors(app)
    _add_health(app, endpoint)
    _add_chat(app, endpoint)
    _add_invocations(app, endpoint)
    return Guard(app, hosts=hosts, key=key)


def _lifespan(endpoint: Endpoint) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        runs = [endpoint.engine.run()] + ([endpoint.outbox.run()] if endpoint.outbox else [])
        tasks = [asyncio.create_task(run) for run in runs]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return lifespan


def _add_health(app: FastAPI, endpoint: Endpoint) -> None:
    @app.get("/health", summary="The process lives")
    @app.get("/ping", summary="As /health, for MLflow's clients")
    async def health() -> PlainTextResponse:
        return PlainTextResponse("\n")

    @app.get("/ready", summary="The model is loaded and requests are taken")
    async def ready() -> JSONResponse:
        content = {"ready": endpoint.ready, "model": endpoint.manifest.name, "version": endpoint.manifest.version}
        return JSONResponse(content, status_code=200 if endpoint.ready else 503)

    @app.get("/version", summary="The version of MLflow's scoring protocol's server")
    async def version() -> PlainTextResponse:
        return PlainTextResponse(metadata.version("mlflow"))

    @app.get("/v1/models", summary="What is served")
    async def models() -> dict[str, Any]:
        card = {"id": endpoint.manifest.name, "object": "model", "created": 0, "owned_by": "fledge"}
        return {"object": "list", "data": [card]}


def _add_chat(app: FastAPI, endpoint: Endpoint) -> None:
    @app.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
    async def chat(body: ChatRequest) -> Response:
        if not endpoint.serves(body.model):
            raise HTTPException(404, f"no model {body.model!r} here; this endpoint serves {endpoint.manifest.name!r}")
        turns: list[tuple[str, str]] = [(message.role, message.content) for message in body.messages]
        trace = RequestTrace("chat", [{"role": role, "content": content} for role, content in turns])
        pieces = endpoint.engine.stream(endpoint.params(body.settings()), messages=turns)
        head = {"id": f"chatcmpl-{trace.request_id}", "created": int(time.time()), "model": endpoint.manifest.name}
        headers = {"x-request-id": trace.request_id}
        if body.stream:
            stream = _chat_events(endpoint, trace, pieces, head)
            return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
        async with _recorded(endpoint, trace):
            async for piece in pieces:
                trace.result.add(piece)
        result = trace.result
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": result.text},
            "finish_reason": result.finish_reason,
            "logprobs": None,
        }
        content = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(result)}
        if result.turns_left_out:
            headers["x-fledge-turns-left-out"] = str(result.turns_left_out)
        return JSONResponse(content, headers=headers)


async def _chat_events(
    endpoint: Endpoint, trace: RequestTrace, pieces: Any, head: dict[str, Any]
) -> AsyncIterator[str]:
    """Server-sent events of a streamed answer; a failure on the way is an error frame."""

    def event(delta: dict[str, str], reason: str | None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"

    try:
        async with _recorded(endpoint, trace):
            yield event({"role": "assistant", "content": ""}, None)
            async for piece in pieces:
                trace.result.add(piece)
                if piece.text:
                    yield event({"content": piece.text}, None)
            yield event({}, trace.result.finish_reason)
    except FledgeError as error:
        yield f"data: {json.dumps(openai_error(error.message, 'server_error'))}\n\n"
        return
    yield "data: [DONE]\n\n"


def _add_invocations(app: FastAPI, endpoint: Endpoint) -> None:
    @app.post("/invocations", summary="Answer rows of a table by the release's prompt (MLflow's scoring protocol)")
    async def invocations(body: InvocationsRequest) -> JSONResponse:
        try:
            rows = body.rows(endpoint.prompt.variables)
        except ValueError as error:
            raise InputError(str(error)) from None
        params = endpoint.params(body.params.settings())
        traces = [RequestTrace("invocations", row) for row in rows]

        async def one(trace: RequestTrace, row: dict[str, str]) -> str:
            async with _recorded(endpoint, trace):
                return (await endpoint.answer(trace, params, row)).text.strip()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(trace, row)) for trace, row in zip(traces, rows, strict=True)]
        identity = traces[0].request_id if traces else ""
        return JSONResponse({"predictions": [task.result() for task in tasks]}, headers={"x-request-id": identity})


@contextlib.asynccontextmanager
async def _recorded(endpoint: Endpoint, trace: RequestTrace) -> AsyncIterator[None]:
    """Leaves exactly one outcome of a request in the outbox, whatever happens."""
    try:
        yield
    except InputError as error:
        endpoint.record(trace, 400, error.message)
        raise
    except EngineGoneError as error:
        endpoint.record(trace, 503, error.message)
        raise
    except FledgeError as error:
        endpoint.record(trace, 500, error.message)
        raise
    except Exception:
        endpoint.record(trace, 500, "the request failed")
        raise
    except (asyncio.CancelledError, GeneratorExit):
        endpoint.record(trace, 499, "the client hung up")
        raise
    else:
        endpoint.record(trace, 200)


def _usage(result: Result) -> dict[str, int]:
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "total_tokens": result.prompt_tokens + result.completion_tokens,
    }
