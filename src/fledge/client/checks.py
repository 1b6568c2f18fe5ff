"""`check_endpoint`: a smoke test of a running endpoint over HTTP, as any client would ask it."""

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.serving.response_models import REQUEST_ID
from fledge.supervision.endpoints import find

QUESTION = "What is machine learning?"


@dataclass(frozen=True)
class Check:
    """One request and whether its answer was as it should be. `request_id` is empty where none was given."""

    name: str
    passed: bool
    seconds: float
    detail: str
    request_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_endpoint(url: str, *, key: str | None = None, question: str = QUESTION) -> list[Check]:
    """Ask `/health`, `/ready`, `/invocations` and `/v1/chat/completions`; send nonsense, and expect a 400 for it.

    Raises `FledgeError` when nothing answers at `url`.
    """
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as client:
        try:
            client.get("/health")
        except httpx.HTTPError as error:
            raise FledgeError(f"nothing answers at {url}: {error}", hint="fledge serve NAME@champion") from None
        table, conversation = _table(client, question), _conversation(client, question)
        asks: list[tuple[str, Callable[[], httpx.Response], Callable[[httpx.Response], str]]] = [
            ("health", lambda: client.get("/health"), _status),
            ("ready", lambda: client.get("/ready"), _status),
            ("invocations", lambda: client.post("/invocations", json=table), _prediction),
            ("chat", lambda: client.post("/v1/chat/completions", json=conversation), _chat),
            ("bad input", lambda: client.post("/invocations", json={"rows": []}), _refused),
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
    """Leave what somebody thinks of the answer with this `x-request-id`; return the id of the feedback.

    `url` is the endpoint that answered, the only one that runs here unless given. Raises `InputError` for feedback that
    it does not take, `FledgeError` when nothing answers.
    """
    if not re.fullmatch(REQUEST_ID, request_id):
        hint = "32 hexadecimal digits: the header x-request-id of an answer, or the id in its body"
        raise InputError(f"{request_id!r} is not the id of a request", hint=hint)
    url = url or find(workspace=workspace).url
    feedback = {"request_id": request_id, "value": value, "name": name, "comment": comment, "user": user}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.post(f"{url.rstrip('/')}/feedback", json=feedback, headers=headers, timeout=30, trust_env=False)
    except httpx.HTTPError as error:
        raise FledgeError(f"nothing answers at {url}: {error}", hint="fledge status") from None
    if answer.status_code == httpx.codes.OK:
        return str(answer.json()["feedback_id"])
    try:
        problem = str(answer.json()["error"]["message"])
    except (ValueError, LookupError):
        problem = f"it answered {answer.status_code}"
    raise InputError(f"{url} did not take the feedback: {problem}", hint="REQUEST_ID is an answer's x-request-id")


def _table(client: httpx.Client, question: str) -> dict[str, Any]:
    """A row with the question for each variable of the release's prompt, as the endpoint describes itself."""
    columns = ["question"]
    with contextlib.suppress(httpx.HTTPError, ValueError, LookupError, TypeError):
        body = client.get("/openapi.json").json()["paths"]["/invocations"]["post"]["requestBody"]
        columns = body["content"]["application/json"]["example"]["dataframe_split"]["columns"]
    return {"dataframe_split": {"columns": columns, "data": [[question for _ in columns]]}}


def _conversation(client: httpx.Client, question: str) -> dict[str, Any]:
    """One turn, with the question for each variable of a release's prompt that a turn alone does not fill, as the
    endpoint describes itself."""
    prompt: dict[str, Any] = {}
    with contextlib.suppress(httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
        example = client.get("/openapi.json").json()["components"]["schemas"]["ChatRequest"]["example"]
        if given := example.get("prompt"):
            prompt = {"prompt": {"id": given["id"], "variables": dict.fromkeys(given["variables"], question)}}
    return {"messages": [{"role": "user", "content": question}], **prompt}


def _check(name: str, ask: Callable[[], httpx.Response], read: Callable[[httpx.Response], str]) -> Check:
    started = time.perf_counter()
    try:
        response = ask()
        detail, passed = read(response), True
        answered = response.request.method == "POST" and response.is_success
        identity = response.headers["x-request-id"] if answered else ""
    except (httpx.HTTPError, ValueError, LookupError) as error:
        detail, passed, identity = f"{type(error).__name__}: {error}", False, ""
    return Check(name, passed, time.perf_counter() - started, detail, identity)


def _status(response: httpx.Response) -> str:
    response.raise_for_status()
    return f"{response.status_code}"


def _prediction(response: httpx.Response) -> str:
    response.raise_for_status()
    return _text(response.json()["predictions"][0])


def _chat(response: httpx.Response) -> str:
    response.raise_for_status()
    return _text(response.json()["choices"][0]["message"]["content"])


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("the answer is empty")
    return value


def _refused(response: httpx.Response) -> str:
    if response.status_code != 400:
        raise ValueError(f"a bad body was answered with {response.status_code}, not 400")
    return str(response.json()["message"])
