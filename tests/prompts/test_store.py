"""Both prompt stores with a real MLflow."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.core.types import Message
from fledge.prompts import _mlflow_registry
from fledge.prompts._mlflow_artifacts import ArtifactStore
from fledge.prompts._mlflow_registry import RegistryStore, open_store
from fledge.prompts.prompt import Draft, PromptStore
from fledge.tracking._mlflow_connection import connect

CHAT = (Message("system", "Be short. 😀\r\n"), Message("user", "{{question}}"))


@pytest.fixture
def client(workspace: Workspace) -> MlflowClient:
    return connect(workspace.tracking)


@pytest.fixture(params=[RegistryStore, ArtifactStore])
def store(client: MlflowClient, request: pytest.FixtureRequest) -> PromptStore:
    made: PromptStore = request.param(client, "here")
    return made


def test_an_unchanged_text_makes_no_new_version(store: PromptStore) -> None:
    assert store.register(Draft("mine", "Q: {{question}}")).version == 1
    assert store.register(Draft("mine", "Q: {{question}}")).version == 1
    assert store.register(Draft("mine", "Question: {{question}}")).version == 2
    assert store.register(Draft("mine", "Q: {{question}}")).version == 3
    assert store.load("mine").version == 3
    assert store.load("mine/1").template == "Q: {{question}}"
    assert store.load("prompts:/mine@latest").version == 3


def test_concurrent_registrations_of_one_text_make_one_version(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_checked, add = threading.Barrier(3), RegistryStore.add

    def add_together(self: RegistryStore, draft: Draft) -> int:
        all_checked.wait(timeout=30)
        return add(self, draft)

    store = open_store(client)
    store.register(Draft("another", "{{question}} makes the tables of the store"))
    monkeypatch.setattr(RegistryStore, "add", add_together)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: open_store(client).load("simple").version, range(3)))
    assert found == [1, 1, 1]
    assert [prompt.version for prompt in store.versions("simple")] == [1]


def test_prompt_without_versions_gets_its_first_one(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mlflow_registry, "FIRST_VERSION_S", 0.2)
    client.create_prompt("simple")
    assert open_store(client).load("simple").version == 1


def test_round_trip_through_the_store(store: PromptStore) -> None:
    draft = Draft("mine", " \r\n{{question}} 😀\n", ("good",), {"team": "a", "empty": ""}, {"temperature": 0.5}, "why")
    found = store.register(draft)
    assert found == store.load("mine/1")
    assert (found.template, found.aliases, dict(found.tags)) == (draft.template, ("good",), draft.tags)
    assert (dict(found.settings), found.message) == ({"temperature": 0.5}, "why")


def test_tags_and_aliases_change_without_a_new_version(store: PromptStore) -> None:
    warm = {"temperature": 0.5, "top_p": 1, "stop_sequences": ["END"]}
    store.register(Draft("mine", "Q: {{question}}", ("good",), {"team": "a", "kept": "x"}, warm))
    found = store.register(Draft("mine", "Q: {{question}}", ("new",), {"team": "b"}, warm))
    assert (found.version, found.aliases, dict(found.tags)) == (1, ("good", "new"), {"team": "b", "kept": "x"})


def test_changed_settings_make_a_new_version(store: PromptStore) -> None:
    for version, settings in enumerate(({"temperature": 0.5}, {"temperature": 0.7}, {}), 1):
        found = store.register(Draft("mine", "Q: {{question}}", settings=settings))
        assert (found.version, dict(found.settings)) == (version, settings)
    assert dict(store.load("mine/1").settings) == {"temperature": 0.5}


def test_format_and_system_text_belong_to_a_version(store: PromptStore) -> None:
    system = "Be kind to {{who}}.\n" * 1000
    changes: list[dict[str, Any]] = [{}, {"format": "chat"}, {"system": system}, {"format": "completion"}]
    for version, more in enumerate(changes, 1):
        draft = Draft("mine", "Q: {{question}}", tags={"team": "a"}, **more)
        for _ in range(2):  # the second makes no new version
            found = store.register(draft)
            assert found == store.load(f"mine/{version}")
            assert (found.version, found.format, found.system) == (version, draft.format, draft.system)
            assert dict(found.tags) == {"team": "a"}
    assert [(prompt.format, prompt.system) for prompt in store.versions("mine")] == [
        ("auto", ""),
        ("chat", ""),
        ("auto", system),
        ("completion", ""),
    ]
    assert [prompt.format for prompt in store.list({"team": "a"})] == ["completion"]


def test_error_names_an_unknown_format_tag(client: MlflowClient) -> None:
    store = open_store(client)
    store.register(Draft("mine", "Q: {{question}}"))
    client.set_prompt_version_tag("mine", "1", "fledge.format", "chatty")
    with pytest.raises(InputError, match=r"prompt mine/1 has the tag fledge.format = 'chatty'"):
        store.load("mine")


@pytest.mark.parametrize(
    "bad",
    [
        {"tags": {"a?b": "x"}},
        {"tags": {"a/../b": "x"}},
        {"tags": {"fledge.format": "chat"}},
        {"tags": {"fledge.system": "Be kind."}},
        {"format": "chatty"},
        {"settings": {"stop_sequences": "END"}},
        {"settings": {"temperature": "warm"}},
    ],
)
def test_drafts_that_mlflow_would_reject_are_rejected(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Draft("mine", "{{question}}", **bad)


def test_conversation_is_stored(store: PromptStore) -> None:
    assert store.register(Draft("chat", CHAT)).template == CHAT
    assert store.register(Draft("chat", CHAT)).version == 1
    assert store.load("chat").template == CHAT
    assert store.register(Draft("chat", "{{question}}")).version == 2


def test_aliases_are_moved_and_deleted(store: PromptStore) -> None:
    store.register(Draft("mine", "Q: {{question}}"))
    store.register(Draft("mine", "Question: {{question}}", ("new",)))
    assert store.set_alias("mine", "good", 1) is None
    assert store.load("mine@good").version == 1
    assert store.set_alias("mine", "good", 2) == 1
    assert store.load("mine@good").version == 2  # immediately, although MLflow caches aliases for a minute
    assert store.load("mine").aliases == ("good", "new")
    assert store.delete_alias("mine", "good") == 2
    with pytest.raises(InputError, match="no prompt 'mine@good'"):
        store.load("mine@good")
    with pytest.raises(InputError, match="prompt 'mine' has no alias 'good'"):
        store.delete_alias("mine", "good")


def test_alias_needs_an_existing_version(store: PromptStore) -> None:
    store.register(Draft("mine", "Q: {{question}}"))
    with pytest.raises(InputError, match="no prompt 'mine/2'"):
        store.set_alias("mine", "good", 2)
    with pytest.raises(InputError, match="no prompt 'other/1'"):
        store.set_alias("other", "good", 1)
    with pytest.raises(InputError, match="no prompt 'other'"):
        store.delete_alias("other", "good")
    with pytest.raises(InputError, match="looks like a version"):
        store.set_alias("mine", "v2", 1)


def test_versions_are_in_order(store: PromptStore) -> None:
    for number in range(12):
        store.register(Draft("mine", f"{number} {{{{question}}}}", (f"is-{number}",)))
    found = store.versions("mine")
    assert [prompt.version for prompt in found] == list(range(1, 13))
    assert [prompt.aliases for prompt in found] == [(f"is-{number}",) for number in range(12)]
    with pytest.raises(InputError, match="no prompt 'other'"):
        store.versions("other")


def test_prompts_are_listed_by_name_and_tags(store: PromptStore) -> None:
    assert list(store.list({})) == []
    store.register(Draft("b", "1 {{question}}", tags={"team": "x"}))
    store.register(Draft("b", "2 {{question}}", ("good",)))
    store.register(Draft("a", CHAT, tags={"team": "y", "kind": "chat"}))
    assert [(prompt.label, prompt.aliases) for prompt in store.list({})] == [("a/1", ()), ("b/2", ("good",))]
    assert [prompt.label for prompt in store.list({"team": "x"})] == ["b/2"]
    assert [prompt.label for prompt in store.list({"team": "y", "kind": "chat"})] == ["a/1"]
    assert list(store.list({"team": "x", "kind": "chat"})) == []


def test_default_prompts_are_registered_on_first_use(store: PromptStore) -> None:
    assert [store.load(name).label for name in ("simple", "expert")] == ["simple/1", "expert/1"]
    assert [prompt.name for prompt in store.list({})] == ["expert", "simple"]
    assert store.load("simple").message == "default of fledge"
    store.register(Draft("simple", "My own: {{question}}"))
    assert store.load("simple").template == "My own: {{question}}"


@pytest.mark.parametrize("name", ["nothing", "simple/7", "simple@nobody", "a b", "../x", "simple/1/2"])
def test_unknown_prompts_are_rejected(store: PromptStore, name: str) -> None:
    with pytest.raises(InputError, match=f"no prompt '{name}'") as caught:
        store.load(name)
    assert caught.value.hint


def test_prompts_are_linked_to_a_run(store: PromptStore, client: MlflowClient) -> None:
    run = client.create_run("0")
    for name in ("simple", "expert", "simple"):
        store.link_to_run(store.load(name), run.info.run_id)
    tags = client.get_run(run.info.run_id).data.tags
    if isinstance(store, ArtifactStore):
        assert tags["fledge.prompts"] == "simple/1 expert/1"
    else:
        linked = json.loads(tags["mlflow.linkedPrompts"])
        assert linked == [{"name": "simple", "version": "1"}, {"name": "expert", "version": "1"}]


def test_all_pages_of_prompts_and_versions_are_read(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fledge.prompts._mlflow_registry.PAGE", 2)
    store = RegistryStore(client, "here")
    for name in "abcde":
        store.register(Draft(name, "{{question}}"))
    for number in range(4):
        store.register(Draft("a", f"{number} {{{{question}}}}"))
    assert [prompt.name for prompt in store.list({})] == list("abcde")
    assert [prompt.version for prompt in store.versions("a")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{question}} {% if a %}{% endif %}", "is Jinja"),
        ("no variable", "has no variable"),
        ([{"role": "tool", "content": "{{question}}"}], "a turn of 'tool'"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "{{question}}"}]}],
            "a turn of 'user with other than text'",
        ),
    ],
)
def test_invalid_prompts_of_other_tools_are_listed_but_not_loaded(
    client: MlflowClient, template: object, reason: str
) -> None:
    mlflow.genai.register_prompt("theirs", template)
    store = RegistryStore(client, "here")
    assert [prompt.name for prompt in store.list({})] == ["theirs"]
    with pytest.raises(InputError, match=reason):
        store.load("theirs")
    assert store.register(Draft("theirs", "{{question}}")).version == 2


def test_mlflow_errors_are_explained(client: MlflowClient) -> None:
    client.create_registered_model("model")
    store = RegistryStore(client, "here")
    with pytest.raises(InputError, match="'model' is the name of a model"):
        store.register(Draft("model", "{{question}}"))
    with pytest.raises(InputError, match=r"MLflow rejected prompt 'mine'.*temperature"):
        store.register(Draft("mine", "{{question}}", settings={"temperature": -1}))
    assert store.list({}) == []
    assert [model.name for model in client.search_registered_models()] == ["model"]
    with pytest.raises(InputError, match="no prompt 'model'"):
        store.load("model")


def test_versions_are_never_overwritten(client: MlflowClient) -> None:
    ArtifactStore(client, "here").register(Draft("mine", "0 {{question}}"))
    stores = [ArtifactStore(client, "here") for _ in range(4)]
    threads = [
        threading.Thread(target=store.register, args=(Draft("mine", f"{number} {{{{question}}}}"),))
        for number, store in enumerate(stores, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {str(prompt.template) for prompt in ArtifactStore(client, "here").versions("mine")}
    assert found == {f"{number} {{{{question}}}}" for number in range(5)}


class _Server(ThreadingHTTPServer):
    """Answers every request with a recorded response of an old server."""

    answer: tuple[int, str] = (200, "{}")
    paths: list[str]


@pytest.fixture
def server() -> Iterator[_Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.paths.append(self.path)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            code, body = made.answer
            self.send_response(code)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None: ...

    made = _Server(("127.0.0.1", 0), Handler)
    made.paths = []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def _error(code: str) -> str:
    return json.dumps({"error_code": code, "message": "as recorded"})


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (404, _error("RESOURCE_DOES_NOT_EXIST"), RegistryStore),  # 2.22
        (403, "Permission denied", RegistryStore),  # MLflow's basic-auth, for a read-only user
        (400, _error("INVALID_PARAMETER_VALUE"), ArtifactStore),  # 2.12, 2.20
        (400, _error("FEATURE_DISABLED"), ArtifactStore),  # no model registry
        (404, "<!doctype html><title>404 Not Found</title>", ArtifactStore),
        (501, _error("NOT_IMPLEMENTED"), ArtifactStore),
    ],
)
def test_store_is_chosen_by_the_server_response(server: _Server, code: int, body: str, kind: type) -> None:
    server.answer = (code, body)
    uri = f"http://127.0.0.1:{server.server_port}"
    said: list[str] = []
    assert type(open_store(MlflowClient(tracking_uri=uri, registry_uri=uri), said.append)) is kind
    assert len(said) == (kind is ArtifactStore)
    assert len(server.paths) == 1


def test_server_error_is_not_a_missing_registry(server: _Server) -> None:
    server.answer = (401, _error("UNAUTHENTICATED"))
    uri = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(FledgeError, match=r"the prompt registry does not answer: .*as recorded"):
        open_store(MlflowClient(tracking_uri=uri, registry_uri=uri))
