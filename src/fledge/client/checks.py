"""`check_endpoint`: smoke test of a running endpoint over HTTP."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fledge.client.answers import HttpReply
from fledge.client.calls import Call, encode
from fledge.client.client import Client
from fledge.core.errors import FledgeError
from fledge.core.settings import Workspace
from fledge.supervision.endpoints import find

QUESTION = "What is machine learning?"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Check:
    """A request and whether its response was correct; `request_id` is empty if the response had none."""

    name: str
    passed: bool
    seconds: float
    detail: str
    request_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Outcome:
    """The result of a passed check."""

    detail: str
    request_id: str = ""


def check_endpoint(url: str, *, key: str | None = None, question: str = QUESTION) -> list[Check]:
    """Call `/health`, `/ready`, `/invocations` and `/v1/chat/completions`; expect status 400 for an invalid body.

    Raises `FledgeError` if the endpoint does not respond.
    """
    with Client(url, key=key or "", timeout=TIMEOUT_S) as client:
        client.health()
        api = _fetch_openapi(client)
        checks: list[tuple[str, Callable[[], _Outcome]]] = [
            ("health", lambda: _check_status(client, "health")),
            ("ready", lambda: _check_status(client, "ready")),
            ("invocations", lambda: _check_prediction(client, api, question)),
            ("chat", lambda: _check_chat(client, api, question)),
            ("bad input", lambda: _check_bad_input(client)),
        ]
        return [_run_check(*check) for check in checks]


def give_feedback(
    request_id: str,
    value: bool | float | str,
    *,
    name: str = "feedback",
    comment: str = "",
    user: str = "",
    url: str | None = None,
    key: str | None = None,
    workspace: Workspace | None = None,
) -> str:
    """Send feedback on the answer with this `x-request-id` and return the id of the feedback.

    `url` is the endpoint, by default the only local one. Raises `InputError` if it refuses the feedback, `FledgeError`
    if it does not respond.
    """
    with Client(url or find(workspace=workspace).url, key=key) as client:
        return client.feedback(request_id, value, name=name, comment=comment, user=user)


def _fetch_openapi(client: Client) -> Any:
    """Return the OpenAPI description of the endpoint, None if it has none."""
    with contextlib.suppress(FledgeError):
        return client.send(Call(f"{client.address.root}/openapi.json", HttpReply.json))
    return None


def _run_check(name: str, call: Callable[[], _Outcome]) -> Check:
    started = time.perf_counter()
    try:
        outcome = call()
    except FledgeError as error:
        return Check(name, False, time.perf_counter() - started, error.message)
    return Check(name, True, time.perf_counter() - started, outcome.detail, outcome.request_id)


def _check_status(client: Client, path: str) -> _Outcome:
    def read(reply: HttpReply) -> _Outcome:
        reply.check()
        return _Outcome(f"{reply.status}")

    return client.send(Call(f"{client.address.root}/{path}", read))


def _check_prediction(client: Client, api: Any, question: str) -> _Outcome:
    """Send one row with the question as every variable of the prompt."""
    columns = ["question"]
    with contextlib.suppress(LookupError, TypeError):
        body = api["paths"]["/invocations"]["post"]["requestBody"]
        columns = body["content"]["application/json"]["example"]["dataframe_split"]["columns"]
    predictions = client.predict([dict.fromkeys(columns, question)])
    return _Outcome(_require_text("".join(predictions.texts[:1])), predictions.request_id)


def _check_chat(client: Client, api: Any, question: str) -> _Outcome:
    """Send one turn, and the question as every further variable of the prompt."""
    prompt: dict[str, Any] = {}
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        if given := api["components"]["schemas"]["ChatRequest"]["example"].get("prompt"):
            prompt = {"prompt": {"id": given["id"], "variables": dict.fromkeys(given["variables"], question)}}
    answer = client.chat(question, **prompt)
    return _Outcome(_require_text(answer.text), answer.request_id)


def _check_bad_input(client: Client) -> _Outcome:
    def read(reply: HttpReply) -> _Outcome:
        if reply.status != 400:
            raise FledgeError(f"an invalid body got status {reply.status} instead of 400")
        return _Outcome(reply.message)

    return client.send(Call(f"{client.address.root}/invocations", read, encode({"rows": []})))


def _require_text(text: str) -> str:
    if not text:
        raise FledgeError("the answer is empty")
    return text
