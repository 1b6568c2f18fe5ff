"""A release's own prompt in every protocol."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from fledge.client.checks import check_endpoint
from fledge.core.types import Message
from fledge.supervision.endpoints import EndpointStatus
from tests.serving.harness import client, create_workspace, outbox, served, until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
QUESTION = "what is overfitting"
SHOTS = (
    Message("system", "Be brief."),
    Message("user", "two and two"),
    Message("assistant", "four"),
    Message("user", "{{question}} please"),
)


def _ask(http: httpx.Client, *texts: str, **more: Any) -> httpx.Response:
    """Send alternating user and assistant turns; a text that starts with `system:` is a system turn."""
    system = [text.removeprefix("system:") for text in texts if text.startswith("system:")]
    spoken = [text for text in texts if not text.startswith("system:")]
    turns = [{"role": "system", "content": text} for text in system]
    turns += [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(spoken)]
    answer = http.post(CHAT, json={"messages": turns, **more})
    assert answer.status_code == 200, answer.text
    return answer


def _text(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def test_split_between_two_prompts_of_one_model(tmp_path: Path, engine_cache: Path) -> None:
    config = replace(
        create_workspace(tmp_path, engine_cache, "Q: {{question}}", "Please: {{question}}"), engine="scripted"
    )
    with served(config, split=("champion=50", "challenger=50"), record=True) as running, client(running) as http:
        expected = {"champion": ("plain/1", f"Q: {QUESTION}".upper()), "challenger": ("plain/2", "PLEASE: ")}
        arms = set()
        for person in range(20):
            answer = _ask(http, QUESTION, user=f"person {person}")
            arms.add(arm := answer.headers["x-fledge-arm"])
            prompt, start = expected[arm]
            assert answer.headers["x-fledge-prompt"] == prompt
            assert _text(answer).startswith(start)
        assert arms == {"champion", "challenger"}
        assert until(lambda: len(outbox(running)) == 20)
        found = {(record.arm, record.prompt, record.answers[0].prompt_text) for record in outbox(running)}
    assert found == {("champion", "plain/1", f"Q: {QUESTION}"), ("challenger", "plain/2", f"Please: {QUESTION}")}


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[EndpointStatus]:
    """Releases with the format chat, whose prompts are a text, a conversation, and the bare question."""
    folder = tmp_path_factory.mktemp("chatting")
    texts = ("Q: {{question}}", "{{question}}")
    config = create_workspace(folder, engine_cache, texts[0], SHOTS, texts[1], format="chat")
    with served(config, "mine/1", "mine/2", "mine/3", record=True, engine="scripted") as running:
        yield running


def test_chat_prompts_are_merged_with_the_conversation(chatting: EndpointStatus) -> None:
    shots = "user: two and two\nassistant: four"
    asked = {
        ("mine/1", ("a",)): "user: Q: a",
        ("mine/1", ("a", "b", "c")): "user: a\nassistant: b\nuser: Q: c",
        ("mine/2", ("a",)): f"system: Be brief.\n{shots}\nuser: a please",
        ("mine/2", ("system:X", "a")): f"system: X\n{shots}\nuser: a please",
        ("mine/2", ("a", "b", "c")): f"system: Be brief.\n{shots}\nuser: a\nassistant: b\nuser: c please",
        ("mine/3", ("system:X", "a", "b", "c")): "system: X\nuser: a\nassistant: b\nuser: c",
    }
    before = len(outbox(chatting))
    with client(chatting) as http:
        answers = [_ask(http, *texts, model=model) for model, texts in asked]
        streamed = http.post(
            CHAT, json={"messages": [{"role": "user", "content": "a"}], "model": "mine/1", "stream": True}
        )
    assert streamed.headers["x-fledge-prompt"] == "plain/1"
    assert [answer.headers["x-fledge-prompt"] for answer in answers] == [
        model.replace("mine", "plain") for model, _ in asked
    ]
    assert until(lambda: len(outbox(chatting)) == before + len(asked) + 1)
    found = {record.request_id: record.answers[0].prompt_text for record in outbox(chatting)}
    assert [found[answer.headers["x-request-id"]] for answer in answers] == list(asked.values())


def test_invocations_and_chat_send_the_same_prompt(chatting: EndpointStatus) -> None:
    before = len(outbox(chatting))
    turns = [{"role": "user", "content": "a"}]
    with client(chatting) as http:
        bodies: list[dict[str, Any]] = [{"inputs": ["a"]}, {"dataframe_records": [{"messages": turns}]}]
        answers = [http.post("/invocations", json=body) for body in [*bodies, {"messages": turns}]]
        answers.append(_ask(http, "a", model="mine/1"))
    assert {answer.headers["x-fledge-prompt"] for answer in answers} == {"plain/1"}
    assert until(lambda: len(outbox(chatting)) == before + 4)
    assert {record.answers[0].prompt_text for record in outbox(chatting)[before:]} == {"user: Q: a"}


def test_completions_do_not_use_the_release_prompt(chatting: EndpointStatus) -> None:
    with client(chatting) as http:
        answer = http.post("/v1/completions", json={"prompt": "a", "model": "mine/1"})
    assert answer.json()["choices"][0]["text"] == "A"
    assert "x-fledge-prompt" not in answer.headers


def test_smoke_test_with_a_prompt_of_several_variables(tmp_path: Path, engine_cache: Path) -> None:
    config = create_workspace(
        tmp_path, engine_cache, "{{question}} {{context}}", format="chat", system="You are {{who}}."
    )
    with served(config, engine="scripted") as running:
        checks = {check.name: check for check in check_endpoint(running.url, question="Why?")}
        assert [check.detail for check in checks.values() if not check.passed] == []
        assert checks["chat"].detail == checks["invocations"].detail == "WHY? WHY?"
