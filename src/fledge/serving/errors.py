"""Error responses in the form of their protocol, never with a stack trace."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fledge.core.errors import ContextLengthError, FledgeError, InputError, StructureError
from fledge.engines.client import DeadlineError
from fledge.engines.engine import EngineGoneError
from fledge.serving.admission import BusyError
from fledge.serving.json_response import StructResponse
from fledge.serving.request_models import first_problem
from fledge.serving.response_models import Error, ErrorDetail, ScoringError
from fledge.serving.unsupported import UnsupportedError

log = logging.getLogger(__name__)

RETRY_S = 2
MAXIMUM_CHARACTERS = 1000
NO_MODEL = "no model"

_KINDS = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", None),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


class HttpError(NamedTuple):
    """Status, message and headers of an error response; `param` and `code` as in the OpenAI protocol."""

    status: int
    message: str
    headers: Mapping[str, str] = MappingProxyType({})
    param: str | None = None
    code: str | None = None


def http_error(error: FledgeError, request_id: str) -> HttpError:
    """Return the error response for a client. Internal details go to the log only."""
    if isinstance(error, UnsupportedError):
        return HttpError(400, error.message, param=error.param, code="unsupported_parameter")
    if isinstance(error, StructureError):
        return HttpError(400, error.message, param=error.param or None, code="unsupported_parameter")
    if isinstance(error, ContextLengthError):
        return HttpError(400, error.message, code="context_length_exceeded")
    if isinstance(error, InputError):
        return HttpError(400, error.message)
    if isinstance(error, BusyError):
        return HttpError(429, error.message, {"Retry-After": str(error.retry_after)})
    if isinstance(error, EngineGoneError):
        return HttpError(503, error.message, {"Retry-After": str(RETRY_S)})
    if isinstance(error, DeadlineError):
        return HttpError(504, error.message)
    log.error("request %s failed: %s", request_id, error.message)
    return HttpError(500, f"the engine failed; see request {request_id} in the endpoint's log")


def openai_error(status: int, message: str, param: str | None = None, code: str | None = None) -> Error:
    """Return an error body of the OpenAI protocol; `param` is the invalid field."""
    default = ("invalid_request_error" if status < 500 else "server_error", None)
    kind, usual = _KINDS.get(status, default)
    if status == 404 and param == "model":
        usual = "model_not_found"
    return Error(ErrorDetail(message[:MAXIMUM_CHARACTERS], kind, param, code or usual))


def error_response(
    path: str,
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    param: str | None = None,
    code: str | None = None,
) -> StructResponse:
    """Return an error in MLflow's form for `/invocations`, in OpenAI's for other paths."""
    if path == "/invocations":
        kind = "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"
        return StructResponse(ScoringError(kind, message[:MAXIMUM_CHARACTERS]), status, headers)
    return StructResponse(openai_error(status, message, param, code), status, headers)


def add_errors(app: FastAPI) -> None:
    """Register a handler for every error of a route. A validation error is 400, not FastAPI's 422."""

    def respond(
        request: Request,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> StructResponse:
        trace = request.scope["state"].get("trace")
        if trace is not None:
            trace.error = message
        return error_response(request.url.path, status, message, headers, param, code)

    @app.exception_handler(RequestValidationError)
    async def handle_invalid(request: Request, error: RequestValidationError) -> StructResponse:
        field, message = first_problem(error.errors())
        return respond(request, 400, message, param=field or None)

    @app.exception_handler(HTTPException)
    async def handle_http(request: Request, error: HTTPException) -> StructResponse:
        param = "model" if str(error.detail).startswith(NO_MODEL) else None  # any other 404 is an unknown path
        return respond(request, error.status_code, str(error.detail), error.headers, param)

    @app.exception_handler(FledgeError)
    async def handle_fledge(request: Request, error: FledgeError) -> StructResponse:
        trace = request.scope["state"].get("trace")
        return respond(request, *http_error(error, trace.request_id if trace else ""))

    @app.exception_handler(Exception)
    async def handle_defect(request: Request, _error: Exception) -> StructResponse:
        return respond(request, 500, "the request failed; see the endpoint's log")
