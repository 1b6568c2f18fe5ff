"""Errors as answers: each in the shape of its protocol, never with a stack trace."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fledge.core.errors import FledgeError, InputError
from fledge.serving.engine_client import EngineGoneError

RETRY_AFTER = {"Retry-After": "2"}


def openai_error(message: str, kind: str) -> dict[str, Any]:
    """The error body of the OpenAI protocol, with all four keys."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def error_response(path: str, status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error on the route `path`, in MLflow's form for `/invocations` and in OpenAI's elsewhere."""
    if path == "/invocations":
        code = "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"
        return JSONResponse({"error_code": code, "message": message}, status, headers)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse(openai_error(message, kind), status, headers)


def add_errors(app: FastAPI) -> None:
    """Answer every error that a route can raise; a validation error is 400, never 422."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return error_response(request.url.path, 400, f"{where}: {first['msg']}" if where else first["msg"])

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(request.url.path, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(FledgeError)
    async def failed(request: Request, error: FledgeError) -> JSONResponse:
        if isinstance(error, InputError):
            return error_response(request.url.path, 400, error.message)
        if isinstance(error, EngineGoneError):
            return error_response(request.url.path, 503, error.message, RETRY_AFTER)
        return error_response(request.url.path, 500, error.message)

    @app.exception_handler(ExceptionGroup)
    async def several(request: Request, errors: ExceptionGroup[Exception]) -> JSONResponse:
        known = [error for error in errors.exceptions if isinstance(error, FledgeError)]
        return await failed(request, known[0] if known else FledgeError("the request failed"))

    @app.exception_handler(Exception)
    async def defect(request: Request, _error: Exception) -> JSONResponse:
        return error_response(request.url.path, 500, "the request failed; the endpoint's log says why")
