"""`check_endpoint`: a smoke test of a running endpoint over HTTP."""

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
    """One request and whether its answer was as expected. `request_id` is empty without one."""

    name: str
    passed: bool
    seconds: float
    detail: str
    request_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Outcome:
    """The result of a check that passed."""

    detail: str
    request_id: str = ""


def check_endpoint(url: str, *, key: str | None = None, question: str = QUESTION) -> list[Check]:
    """Check `/health`, `/ready`, `/invocations` and `/v1/chat/completions`, and that invalid input returns 400.

    Raises `FledgeError` if `url` does not respond.
    """
    with Client(url, key=key or "", timeout=TIMEOUT_S) as client:
        client.health()
        api = _described(client)
        asks: list[tuple[str, Callable[[], _Outcome]]] = [
            ("health", lambda: _status(client, "health")),
            ("ready", lambda: _status(client, "ready")),
            ("invocations", lambda: _prediction(client, api, question)),
            ("chat", lambda: _chat(client, api, question)),
            ("bad input", lambda: _bad_input(client)),
        ]
        return [_check(*ask) for ask in asks]


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
    """Send feedback on the answer with this `x-request-id`; return the id of the feedback.

    `url` is the endpoint that answered, by default the only one that runs here. Raises `InputError` for invalid
    feedback, `FledgeError` if the endpoint does not respond.
    """
    with Client(url or find(workspace=workspace).url, key=key) as client:
        return client.feedback(request_id, value, name=name, comment=comment, user=user)


def _described(client: Client) -> Any:
    """Return the endpoint's description of itself, None without one."""
    with contextlib.suppress(FledgeError):
        return client.send(Call(f"{client.address.root}/openapi.json", HttpReply.json))
    return None


def _check(name: str, ask: Callable[[], _Outcome]) -> Check:
    started = time.perf_counter()
    try:
        found = ask()
    except FledgeError as error:
        return Check(name, False, time.perf_counter() - started, error.message)
    return Check(name, True, time.perf_counter() - started, found.detail, found.request_id)


def _status(client: Client, path: str) -> _Outcome:
    def read(reply: HttpReply) -> _Outcome:
        reply.check()
        return _Outcome(f"{reply.status}")

    return client.send(Call(f"{client.address.root}/{path}", read))


def _prediction(client: Client, api: Any, question: str) -> _Outcome:
    """Return a row with the question for each variable of the release's prompt."""
    columns = ["question"]
    with contextlib.suppress(LookupError, TypeError):
        body = api["paths"]["/invocations"]["post"]["requestBody"]
        columns = body["content"]["application/json"]["example"]["dataframe_split"]["columns"]
    found = client.predict([dict.fromkeys(columns, question)])
    return _Outcome(_not_empty("".join(found.texts[:1])), found.request_id)


def _chat(client: Client, api: Any, question: str) -> _Outcome:
    """Return one turn, and the question for each further variable of the release's prompt."""
    prompt: dict[str, Any] = {}
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        if given := api["components"]["schemas"]["ChatRequest"]["example"].get("prompt"):
            prompt = {"prompt": {"id": given["id"], "variables": dict.fromkeys(given["variables"], question)}}
    found = client.chat(question, **prompt)
    return _Outcome(_not_empty(found.text), found.request_id)


def _bad_input(client: Client) -> _Outcome:
    def read(reply: HttpReply) -> _Outcome:
        if reply.status != 400:
            raise FledgeError(f"a bad body was answered with {reply.status}, not 400")
        return _Outcome(reply.message)

    return client.send(Call(f"{client.address.root}/invocations", read, encode({"rows": []})))


def _not_empty(text: str) -> str:
    if not text:
        raise FledgeError("the answer is empty")
    return text
