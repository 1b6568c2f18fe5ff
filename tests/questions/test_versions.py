"""Question sets in a real MLflow store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
from hypothesis import HealthCheck, given, settings
from mlflow import MlflowClient

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.questions import _mlflow_datasets
from fledge.questions.layout import QuestionLayout
from fledge.questions.question_set import Question, QuestionSet, default_questions
from fledge.questions.set_version import QuestionSetVersion
from fledge.questions.sources import read, read_questions
from fledge.questions.versions import QuestionsConfig, register_questions
from fledge.tracking._mlflow_connection import connect
from tests.experiments.tracking_server import TrackingServer
from tests.questions.test_files import sets

ONE = QuestionSet("mine.csv", (Question("1", "a?", "x", "t", "test", {"level": "2"}), Question("2", "b?")))
TWO = QuestionSet("mine.csv", (*ONE.questions, Question("3", "c?")))


@pytest.fixture
def config(workspace: Workspace) -> QuestionsConfig:
    return QuestionsConfig(workspace.tracking_uri, workspace.state)


@pytest.fixture
def client(config: QuestionsConfig) -> MlflowClient:
    return connect(config.tracking)


def test_unchanged_questions_make_no_new_version(config: QuestionsConfig) -> None:
    first = register_questions(ONE, "qa", config=config)
    assert (first.version, first.new, first.digest, first.questions) == (1, True, ONE.digest, 2)
    assert register_questions(ONE, "qa", config=config) == QuestionSetVersion(
        "qa", 1, first.dataset_id, ONE.digest, 2, first.time
    )
    second = register_questions(TWO, "qa", config=config)
    assert (second.version, second.new, second.source) == (2, True, "dataset:qa/2")
    assert register_questions(ONE, "qa", config=config).version == 3  # compared with the newest
    newest = read_questions("dataset:qa", workspace=config)
    assert (newest.source, newest.questions, newest.digest) == ("dataset:qa/3", ONE.questions, ONE.digest)
    assert read_questions("dataset:qa/2", workspace=config).questions == TWO.questions
    by_id = read_questions(f"dataset:{first.dataset_id}", workspace=config)
    assert (by_id.source, by_id.questions) == (f"dataset:{first.dataset_id}", ONE.questions)


def test_versions_are_listed_newest_first(config: QuestionsConfig, client: MlflowClient) -> None:
    for questions, name in ((ONE, "qa"), (TWO, "qa"), (ONE, "q"), (ONE, "qa.b")):
        register_questions(questions, name, config=config)
    client.create_dataset("of others")
    every = _mlflow_datasets.versions(client)
    assert [version.source for version in every] == ["dataset:q/1", "dataset:qa/2", "dataset:qa/1", "dataset:qa.b/1"]
    assert [version.version for version in _mlflow_datasets.versions(client, "qa")] == [2, 1]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=sets())
def test_round_trip_through_mlflow(config: QuestionsConfig, questions: QuestionSet) -> None:
    inputs = [(item.question, sorted(item.columns.items())) for item in questions.questions]
    if any(inputs.count(item) > 1 for item in inputs):
        with pytest.raises(InputError, match="MLflow stores once"):
            register_questions(questions, "any", config=config)
        return
    version = register_questions(questions, "any", config=config)
    again = read_questions(version.source, workspace=config)
    assert again.questions == questions.questions
    assert again.digest == questions.digest


@pytest.mark.slow
def test_order_of_many_questions_is_kept_and_progress_reported(config: QuestionsConfig) -> None:
    many = default_questions()
    reported: list[tuple[int, int]] = []
    register_questions(many, "many", config=config, progress=lambda done, total, _step: reported.append((done, total)))
    assert read_questions("dataset:many", workspace=config).questions == many.questions
    assert reported == [(0, 2688), (1000, 2688), (2000, 2688)]


def test_records_have_the_form_of_mlflow_evaluate(config: QuestionsConfig, client: MlflowClient) -> None:
    register_questions(ONE, "qa", config=config)
    dataset = mlflow.genai.datasets.get_dataset(name="qa/1")
    frame = dataset.to_df()
    row = next(row for row in frame.to_dict("records") if row["tags"]["id"] == "1")
    assert row["inputs"] == {"question": "a?", "level": "2"}
    assert row["expectations"] == {"expected_response": "x"}
    assert {"id": "1", "topic": "t", "split": "test"}.items() <= row["tags"].items()
    experiment = client.get_experiment_by_name("fledge")
    assert experiment is not None
    assert dataset.experiment_ids == [experiment.experiment_id]


def test_a_set_registered_when_empty_columns_counted_is_unchanged(
    config: QuestionsConfig, client: MlflowClient
) -> None:
    questions = QuestionSet("x", (Question("1", "a?", columns={"level": "1", "kind": ""}),))
    version = register_questions(questions, "qa", config=config)
    before = "45f67ed487035b1b5ff15079b8330346ca5ea013b7effa994ab5bb52869ef873"
    client.set_dataset_tags(version.dataset_id, {_mlflow_datasets.DIGEST_TAG: before})
    assert read_questions("dataset:qa", workspace=config).questions == questions.questions
    assert not register_questions(questions, "qa", config=config).new


def _dataset(client: MlflowClient, name: str, *records: dict[str, Any]) -> str:
    dataset = client.create_dataset(name)
    if records:
        dataset.merge_records(list(records))
    return str(dataset.dataset_id)


def test_dataset_of_another_tool_is_read(config: QuestionsConfig, client: MlflowClient) -> None:
    records: list[dict[str, Any]] = [
        {"inputs": {"question": "a?"}, "expectations": {"expected_response": "x", "guidelines": ["be kind"]}},
        {
            "inputs": {"question": "b?", "level": 2},
            "expectations": {"expected_facts": ["x", "y"]},
            "tags": {"topic": "t"},
        },
        {"inputs": {"question": "c?"}},
    ]
    _dataset(client, "it's theirs", *records)
    found = read_questions("dataset:it's theirs", workspace=config)
    assert found.source == "dataset:it's theirs"
    by_text = {item.question: item for item in found.questions}
    assert by_text["a?"].reference == "x"
    assert by_text["a?"].columns == {"guidelines": '["be kind"]'}
    assert (by_text["b?"].reference, by_text["b?"].topic, by_text["b?"].columns) == ("x\ny", "t", {"level": "2"})
    assert by_text["c?"] == Question(by_text["c?"].id, "c?")


def test_dataset_without_a_question_column_needs_a_mapping(config: QuestionsConfig, client: MlflowClient) -> None:
    _dataset(client, "other", {"inputs": {"query": "a?"}})
    with pytest.raises(InputError, match=r"dataset:other, record 1: no column 'question', only .*'query'") as caught:
        read_questions("dataset:other", workspace=config)
    assert caught.value.hint == "give the question column: --columns question=query"
    (item,) = read_questions("dataset:other", workspace=config, layout=QuestionLayout(("question=query",))).questions
    assert item.question == "a?"
    _dataset(client, "nothing")
    assert [error.message for error in read("dataset:nothing", workspace=config).errors] == ["no questions"]


def test_a_version_changed_in_mlflow_is_rejected(config: QuestionsConfig, client: MlflowClient) -> None:
    version = register_questions(ONE, "qa", config=config)
    client.get_dataset(version.dataset_id).merge_records([{"inputs": {"question": "z?"}}])
    for source in ("dataset:qa", "dataset:qa/1"):
        with pytest.raises(InputError, match="dataset:qa/1 was changed in MLflow") as caught:
            read_questions(source, workspace=config)
    assert f"fledge questions register dataset:{version.dataset_id} --name qa" in caught.value.hint
    as_it_is = read_questions(f"dataset:{version.dataset_id}", workspace=config)
    assert [item.question for item in as_it_is.questions] == ["a?", "b?", "z?"]
    assert register_questions(as_it_is, "qa", config=config).version == 2
    assert read_questions("dataset:qa", workspace=config).questions == as_it_is.questions


def test_unknown_and_ambiguous_names_are_rejected(config: QuestionsConfig, client: MlflowClient) -> None:
    for name in ("nothing", "qa/7", "d-" + "0" * 32, "50%", "a'b"):
        with pytest.raises(InputError, match="MLflow has no dataset"):
            read_questions(f"dataset:{name}", workspace=config)
    with pytest.raises(InputError, match="cannot search for"):
        read_questions("dataset:a'\"b", workspace=config)
    for name in ("twice", "twice"):
        identity = _dataset(client, name, {"inputs": {"question": "a?"}})
    with pytest.raises(InputError, match="matches several datasets") as caught:
        read_questions("dataset:twice", workspace=config)
    assert f"dataset:{identity}" in caught.value.hint
    with pytest.raises(InputError, match="that is not a question set"):
        register_questions(ONE, "twice", config=config)


@pytest.mark.parametrize("name", ["", "a b", "a/1", "d-" + "0" * 32, "-a", "a%"])
def test_invalid_names_are_rejected(config: QuestionsConfig, name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name"):
        register_questions(ONE, name, config=config)


def test_questions_that_mlflow_stores_once_are_rejected(config: QuestionsConfig, client: MlflowClient) -> None:
    twice = QuestionSet("mine.csv", (Question("1", "a?", "x"), Question("2", "a?", "y")))
    with pytest.raises(InputError, match=r"mine\.csv: questions '1' and '2' are the same"):
        register_questions(twice, "qa", config=config)
    assert list(client.search_datasets()) == []


def test_an_interruption_leaves_nothing_behind(config: QuestionsConfig, client: MlflowClient) -> None:
    def interrupt(_done: int, _total: int, _step: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register_questions(ONE, "qa", config=config, progress=interrupt)
    assert list(client.search_datasets()) == []


def test_an_incomplete_version_is_not_read(config: QuestionsConfig, client: MlflowClient) -> None:
    client.create_dataset("qa/1", tags={_mlflow_datasets.VERSION_TAG: "1"})
    with pytest.raises(InputError, match="is incomplete"):
        read_questions("dataset:qa/1", workspace=config)
    with pytest.raises(InputError, match="no dataset 'qa'"):
        read_questions("dataset:qa", workspace=config)
    assert register_questions(ONE, "qa", config=config).version == 2
    assert read_questions("dataset:qa", workspace=config).questions == ONE.questions


def test_concurrent_registrations_get_separate_versions(config: QuestionsConfig) -> None:
    different = [QuestionSet("mine.csv", (Question(str(n), f"{n}?"),)) for n in range(4)]
    register_questions(TWO, "qa", config=config)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda questions: register_questions(questions, "qa", config=config), different))
    numbers = {version.version for version in made}  # numbers may have gaps
    assert len(numbers) == 4
    assert min(numbers) > 1
    for version, questions in zip(made, different, strict=True):
        assert read_questions(version.source, workspace=config).questions == questions.questions


@pytest.mark.slow
def test_registration_through_a_server(tmp_path: Path, port: int) -> None:
    server = TrackingServer(tmp_path, port)
    try:
        config = QuestionsConfig(server.url, str(tmp_path / ".fledge"))
        many = default_questions()
        assert register_questions(many, "qa", config=config).version == 1
        assert read_questions("dataset:qa", workspace=config).digest == many.digest
        with pytest.raises(InputError, match="MLflow has no dataset"):
            read_questions("dataset:" + "d-" + "0" * 32, workspace=config)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (404, "<!doctype html><title>404 Not Found</title>"),  # 2.12, 2.22
        (500, "Internal Server Error"),  # 3.17 over a file store
    ],
)
def test_server_without_dataset_support_is_an_error(monkeypatch: pytest.MonkeyPatch, code: int, body: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(code)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None: ...

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}"
        try:
            with pytest.raises(FledgeError, match=r"datasets.* SQL store") as caught:
                _mlflow_datasets.read_dataset(MlflowClient(tracking_uri=uri, registry_uri=uri), "qa")
        finally:
            server.shutdown()
            thread.join()
    assert caught.value.hint == "give a file of questions, or another MLFLOW_TRACKING_URI"
