"""MLflow's scoring protocol: every form of table, and errors in tables."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from pyarrow.parquet import ParquetFile

from fledge.client.checks import check_endpoint
from fledge.core.limits import Limits
from fledge.supervision.endpoints import EndpointStatus
from tests.serving.harness import client, create_workspace, pids, served
from tests.serving.parquet_files import forge_footer, write_parquet

pytestmark = pytest.mark.slow

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
ROWS = ["What is it?", "Why, and when?"]
ANSWERS = [row.upper() for row in ROWS]
LIMITS = Limits(max_rows=10, max_n=2, max_new_tokens=100, max_body_bytes=3_000_000)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[EndpointStatus]:
    config = create_workspace(tmp_path_factory.mktemp("invocations"), engine_cache)
    with served(config, engine="scripted", limits=LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def http(endpoint: EndpointStatus) -> Iterator[httpx.Client]:
    with client(endpoint) as opened:
        yield opened


def _ask(http: httpx.Client, content: bytes | str, kind: str) -> httpx.Response:
    return http.post("/invocations", content=content, headers={"content-type": kind})


def _refused(response: httpx.Response, status: int = 400) -> str:
    """Check an error in MLflow's form; return its message."""
    assert response.status_code == status, response.text
    error = response.json()
    assert set(error) == {"error_code", "message"}
    assert error["error_code"] == "BAD_REQUEST"
    return str(error["message"])


@pytest.mark.parametrize(
    "table",
    [
        {"dataframe_split": {"columns": ["question"], "data": [[row] for row in ROWS]}},
        {"dataframe_split": {"index": [7, 8], "columns": ["a", "question"], "data": [[1, row] for row in ROWS]}},
        {"dataframe_records": [{"question": row, "more": {"deep": [1]}} for row in ROWS]},
        {"instances": ROWS},
        {"instances": [{"question": row} for row in ROWS]},
        {"inputs": ROWS},
        {"inputs": [{"question": row} for row in ROWS]},
        {"inputs": {"question": ROWS, "more": [1, None]}},
        {"inputs": {"question": ROWS}, "params": None},
        {"inputs": ROWS, "params": {"temperature": 0.0, "seed": 3.0}},
    ],
)
def test_json_tables_in_every_form(http: httpx.Client, table: dict[str, Any]) -> None:
    response = http.post("/invocations", json=table)
    assert response.json() == {"predictions": ANSWERS}
    assert response.headers["x-fledge-prompt"] == "plain/1"
    assert "x-fledge-warning" not in response.headers


@pytest.mark.parametrize(("value", "text"), [(5, "5"), (True, "true"), (1.5, "1.5")])
def test_cell_that_is_not_a_text_has_one_outcome_in_every_form(http: httpx.Client, value: Any, text: str) -> None:
    tables: list[dict[str, Any]] = [
        {"dataframe_split": {"columns": ["question"], "data": [[value]]}},
        {"dataframe_records": [{"question": value}]},
        {"instances": [value]},
        {"instances": [[value]]},
        {"instances": {"question": value}},
        {"inputs": {"question": [value]}},
        {"inputs": {"question": value}},
    ]
    bodies = [(json.dumps(table).encode(), JSON) for table in tables]
    bodies += [(f"question\n{text}\n".encode(), CSV), (write_parquet({"question": [value]}), PARQUET)]
    expected = http.post("/invocations", json={"inputs": [text]}).json()
    for body, kind in bodies:
        assert _ask(http, body, kind).json() == expected


def test_model_is_routed(http: httpx.Client) -> None:
    assert http.post("/invocations", json={"inputs": ROWS, "model": "mine"}).status_code == 200
    assert "no model 'other'" in _refused(http.post("/invocations", json={"inputs": ROWS, "model": "other"}), 404)


def test_single_text_and_empty_tables(http: httpx.Client) -> None:
    assert http.post("/invocations", json={"inputs": ROWS[0]}).json() == {"predictions": ANSWERS[:1]}
    tables: list[dict[str, Any]] = [{"instances": []}, {"dataframe_split": {"columns": ["question"], "data": []}}]
    for empty in tables:
        assert http.post("/invocations", json=empty).json() == {"predictions": []}


def test_params_set_the_generation_settings(http: httpx.Client) -> None:
    response = http.post("/invocations", json={"inputs": ROWS, "params": {"max_tokens": 2, "stop": "IS", "beams": 2}})
    assert response.json() == {"predictions": ["WHAT", "WHY, AND"]}
    assert response.headers["x-fledge-warning"] == "ignored: beams"
    split = {"columns": ["question"], "index": [0], "data": [["a"]], "dtype": "text"}
    response = http.post("/invocations", json={"dataframe_split": split, "model": "mine", "params": {"beams": 2}})
    assert response.json() == {"predictions": ["A"]}
    assert response.headers["x-fledge-warning"] == "ignored: beams, dataframe_split.dtype"
    for params, said in (
        ({"max_tokens": 0}, "params.max_tokens: Input should be greater than or equal to 1"),
        ({"temperature": "hot"}, "params.temperature: Input should be a valid number"),
        ({"top_k": 1.5}, "params.top_k: Input should be a valid integer"),
        ({"max_tokens": True}, "params.max_tokens: Input should be a valid integer"),
        (["max_tokens"], "params: Input should be a valid dictionary or instance of Generation"),
    ):
        assert _refused(http.post("/invocations", json={"inputs": ROWS, "params": params})) == said


def test_bare_conversations_prompts_and_inputs(http: httpx.Client) -> None:
    turns = [{"role": "system", "content": "Shout."}, {"role": "user", "content": "Why?"}]
    bare: list[tuple[dict[str, Any], list[str]]] = [
        ({"messages": turns}, ["WHY?"]),
        ({"messages": turns, "max_tokens": 1, "prompt": None}, ["WHY?"]),
        ({"prompt": "as it is"}, ["AS IT IS"]),
        ({"prompt": ["as it is", "and more"], "max_tokens": 1}, ["AS", "AND"]),
        ({"input": "Why?"}, ["WHY?"]),
        ({"input": ROWS}, ANSWERS),
    ]
    for body, answers in bare:
        response = http.post("/invocations", json=body)
        assert response.json() == answers
        assert response.headers.get("x-fledge-prompt") == (None if body.get("prompt") else "plain/1")
    records = http.post("/invocations", json={"dataframe_records": [{"messages": turns}, {"question": "How?"}]})
    assert records.json() == {"predictions": ["WHY?", "HOW?"]}
    assert "send exactly one of" in _refused(http.post("/invocations", json={"input": "a", "prompt": "b"}))
    assert "send exactly one of" in _refused(http.post("/invocations", json={"messages": None}))


@pytest.mark.parametrize(
    "text",
    [
        'question\nWhat is it?\n"Why, and when?"\n',
        'question\r\nWhat is it?\r\n"Why, and when?"',
        '\ufeffquestion\n\nWhat is it?\n\n"Why, and when?"\n\n',
        ',question,more\n0,What is it?,x\n1,"Why, and when?"\n',
    ],
)
def test_csv_tables(http: httpx.Client, text: str) -> None:
    assert _ask(http, text.encode(), CSV).json() == {"predictions": ANSWERS}


def test_csv_written_by_pandas(http: httpx.Client) -> None:
    rows = ['say "hi"', "größer, als\nzwei Zeilen", "123"]
    text = pd.DataFrame({"question": rows}).to_csv()
    assert _ask(http, text, f"{CSV}; charset=utf-8").json() == {"predictions": ['SAY "HI"', "ZWEI ZEILEN", "123"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"question\n\xff\n", "the body is not UTF-8"),
        (b'question\n"never closed\nand on', "the body is not CSV: line 3: unexpected end of data"),
        (b'question\n"a"b\n', "the body is not CSV: line 2: "),
        (b"question\nfine\na,b\n", "row 1: 2 values for 1 columns"),
        (b"a,question\n1,fine\n2\n", "row 1: column 'question' must be a text that is not empty"),
        (b"question\nfine\n  \t\n", "row 1: column 'question' must be a text that is not empty"),
        (b"query\nfine\n", "the table has no column 'question'"),
        (b"question,question\na,b\n", "the table has two columns 'question'"),
        (b"", "the table has no column 'question'"),
        (b"question\n" + b"x\n" * 11, "more than 10 rows"),
        (b",".join(b"c%d" % number for number in range(200_000)) + b",question\n" + b"x\n" * 9, "200001 columns"),
        (b"question\n" + b"x" * 200_001, "field larger than field limit (200000)"),
    ],
)
def test_invalid_csv_is_rejected(http: httpx.Client, content: bytes, said: str) -> None:
    assert said in _refused(_ask(http, content, CSV))


def test_csv_may_contain_nul_characters(http: httpx.Client) -> None:
    assert _ask(http, b"question\na\0b\n", CSV).json() == {"predictions": ["A\0B"]}


def test_parquet_tables(http: httpx.Client) -> None:
    plain = write_parquet({"more": [1, 2], "question": ROWS})
    for content in (
        plain,
        write_parquet({"question": ROWS}, row_group_size=1, compression="gzip"),
        write_parquet({"question": pa.array(ROWS).dictionary_encode()}),
        write_parquet({"question": pa.array(ROWS, pa.large_string())}, use_dictionary=False),
        write_parquet({f"column {number}": ROWS for number in range(2000)} | {"question": ROWS}),
    ):
        assert _ask(http, content, PARQUET).json() == {"predictions": ANSWERS}
    assert _ask(http, write_parquet({"question": pa.array([], pa.string())}), PARQUET).json() == {"predictions": []}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the body is not a readable Parquet file"),
        (b"PAR1" * 100, "the body is not a readable Parquet file"),
        (write_parquet({"question": ROWS})[:-10], "the body is not a readable Parquet file"),
        (write_parquet({"query": ROWS}), "the table has no column 'question'"),
        (write_parquet({"question": ["fine", None]}), "row 1: column 'question' must be a text that is not empty"),
        (write_parquet({"question": [b"x"]}), "row 0: column 'question' must be a text or a number, not bytes"),
        (write_parquet({"question": ["x"] * 11}), "11 rows; at most 10"),
        (write_parquet({"question": ["x" * 200_001]}), "row 0: column 'question' has more than 200000 characters"),
        (write_parquet({"question": ["x" * 2_000_000] * 8}), "the table is too large"),
        (forge_footer(write_parquet({"question": ["x"] * 123_457}), 123_457, 5, count=1), "the table is too large"),
    ],
)
def test_invalid_parquet_is_rejected(http: httpx.Client, content: bytes, said: str) -> None:
    assert said in _refused(_ask(http, content, PARQUET))


def test_parquet_bomb_is_rejected_without_memory_growth(endpoint: EndpointStatus, http: httpx.Client) -> None:
    honest = write_parquet(
        {"question": ["x" * (150 << 20)]}, compression="zstd", write_statistics=False, store_schema=False
    )
    content = forge_footer(honest, ParquetFile(io.BytesIO(honest)).metadata.row_group(0).total_byte_size, 5000)
    assert len(content) < 100_000
    process = psutil.Process(pids(endpoint)["endpoint"])
    before = process.memory_info().rss
    assert "the table is too large" in _refused(_ask(http, content, PARQUET))
    assert process.memory_info().rss < before + (20 << 20)
    assert process.children() == []
    assert http.post("/invocations", json={"inputs": ROWS}).json() == {"predictions": ANSWERS}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (JSON, 200),
        ("application/json; charset=UTF-8", 200),
        ('Application/JSON;charset="utf-8"', 200),
        ("application/json; charset=latin-1", 415),
        ("application/json; format=pandas-split", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
def test_media_types(http: httpx.Client, kind: str, status: int) -> None:
    response = _ask(http, json.dumps({"inputs": ROWS}), kind)
    assert response.status_code == status
    if status == 415:
        assert _refused(response, 415) == f"send {JSON}, {CSV} or {PARQUET}, in UTF-8"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "send exactly one of dataframe_split, dataframe_records, instances, inputs"),
        ({"inputs": ROWS, "instances": ROWS}, "send exactly one of"),
        ({"inputs": None}, "inputs: "),
        ({"dataframe_split": {"columns": ["query"], "data": [["a"]]}}, "the table has no column 'question'"),
        ({"dataframe_split": {"columns": ["query"], "data": []}}, "the table has no column 'question'"),
        ({"dataframe_split": {"columns": ["question"] * 2, "data": [["a", "b"]]}}, "two columns 'question'"),
        ({"dataframe_split": {"columns": ["question"], "data": [["a"], ["b", "c"]]}}, "row 1: 2 values for 1 columns"),
        ({"dataframe_split": {"columns": ["question"], "data": [["a"], "b"]}}, "data.1: Input should be a valid list"),
        ({"dataframe_split": {"columns": [0], "data": [["a"]]}}, "columns.0: Input should be a valid string"),
        ({"dataframe_records": [{"question": "a"}, {"query": "b"}]}, "row 1: column 'question'"),
        ({"dataframe_records": [{"question": "a"}, "b"]}, "dataframe_records.1: "),
        ({"instances": ["a", ["b", "c"]]}, "row 1: send an object with question, or a list of 1 values"),
        ({"instances": [{"question": ["b"]}]}, "row 0: column 'question' must be a text or a number, not a list"),
        ({"inputs": ROWS, "stream": True}, "stream is not supported by /invocations; use /v1/chat/completions"),
        ({"inputs": ROWS, "params": {"logit_bias": {"5": 100}}}, "logit_bias is not supported"),
        ({"inputs": ROWS, "params": {"guided_json": {"not": {}}}}, "guided_json: the schema: not cannot be enforced"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages with tool calls are not supported here"),
        ({"inputs": ["a", " \n"]}, "row 1: column 'question' must be a text that is not empty"),
        ({"inputs": ["a", "x" * 200_001]}, "row 1: column 'question' has more than 200000 characters"),
        ({"inputs": {"question": ["a"], "more": []}}, "the lists in inputs must have the same length"),
        ({"inputs": {"query": ["a"]}}, "the table has no column 'question'"),
        ({"inputs": {}}, "the table has no column 'question'"),
        ({"inputs": ["a"] * 11}, "rows or prompts: 11; this endpoint takes at most 10"),
        ({"prompt": ["a"] * 11}, "rows or prompts: 11; this endpoint takes at most 10"),
        ({"dataframe_records": [{"question": "a"}, {"messages": [{"role": "robot", "content": "b"}]}]}, "row 1: "),
        ({"dataframe_records": [{"messages": []}]}, "row 0: messages: List should have at least 1 item"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": 1}]}, "messages.1.content: "),
        ({"input": ["a", ""]}, "row 1: column 'question' must be a text that is not empty"),
    ],
)
def test_errors_name_the_row_or_field(http: httpx.Client, table: dict[str, Any], said: str) -> None:
    assert said in _refused(http.post("/invocations", json=table))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"{}{}", "the body is not JSON: JSON is malformed: trailing characters"),
        (b"\xef\xbb\xbf{", "the body is not JSON"),
        (b'{"inputs": ["\xff"]}', "the body is not JSON"),
        (b'{"inputs": ["\xed\xa0\x80"]}', "the body is not JSON"),
        (rb'{"inputs": ["\ud800 alone"]}', "the body is not JSON"),
        (b'{"inputs": "a", "params": {"seed": NaN}}', "the body is not JSON"),
        (b'{"inputs": "a", "params": {"temperature": 1e999}}', "the body is not JSON: Number out of range"),
        (b'{"inputs": "a", "params": {"temperature": ' + b"9" * 400 + b"}}", "params.temperature: "),
        (b'{"inputs": "a", "params": {"seed": ' + b"9" * 4000 + b"}}", "params.seed: "),
        (b'{"inputs": "a", "params": {"seed": ' + b"9" * 5000 + b"}}", "the body is not JSON"),
        (b"[1]", "Input should be a valid dictionary"),
        (b"null", "Input should be a valid dictionary"),
        (b'"text"', "Input should be a valid dictionary"),
        (b"[" * 33 + b"]" * 33, "the body is nested more than 32 deep"),
        (b"[" * 500_000, "the body is nested more than 32 deep"),
        (b"{" + b",".join(b'"%d":0' % number for number in range(1001)) + b"}", "more than 1000 keys"),
    ],
)
def test_invalid_json_is_rejected(http: httpx.Client, content: bytes, said: str) -> None:
    assert said in _refused(_ask(http, content, JSON))


def test_unusual_valid_json_is_accepted(http: httpx.Client) -> None:
    for content in (
        b'{"inputs": "A", "inputs": ["What is it?"]}',  # the last duplicate wins, as in MLflow's own server
        b'{"dataframe_records": [{"question": "What is it?", "x": ' + b"[" * 29 + b"]" * 29 + b"}]}",
        rb'{"inputs": "What\u0020is it?"}',
        b'\n\t{"inputs": "What is it?", "params": {"top_k": 0.0, "unknown": ' + b"9" * 4000 + b"}} ",
    ):
        assert _ask(http, content, JSON).json() == {"predictions": ["WHAT IS IT?"]}
    assert _ask(http, rb'{"inputs": "\ud83d\ude42\u0000"}', JSON).json() == {"predictions": ["🙂\0"]}


def test_limits_apply_to_every_protocol(http: httpx.Client) -> None:
    chat = {"messages": [{"role": "user", "content": "Why?"}]}
    fits: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {**chat, "n": 2, "max_tokens": 100}),
        ("/v1/completions", {"prompt": ["a"] * 10, "n": 2}),
        ("/invocations", {"inputs": ["a"] * 10, "params": {"max_tokens": 100}}),
    ]
    for path, body in fits:
        assert http.post(path, json=body).status_code == 200
    beyond: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/chat/completions", {**chat, "n": 3}, "n: 3; this endpoint takes at most 2"),
        ("/v1/chat/completions", {**chat, "max_completion_tokens": 101}, "max_tokens: 101; this endpoint takes"),
        ("/v1/completions", {"prompt": ["a"] * 11}, "rows or prompts: 11; this endpoint takes at most 10"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 101}, "max_tokens: 101; this endpoint takes at most 100"),
        ("/invocations", {"inputs": "a", "params": {"max_tokens": 101}}, "max_tokens: 101; this endpoint takes"),
        ("/invocations", {**chat, "max_tokens": 101}, "max_tokens: 101; this endpoint takes at most 100"),
    ]
    for path, body, said in beyond:
        refused = http.post(path, json=body)
        assert refused.status_code == 400
        assert said in refused.text
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["CompletionRequest"]["properties"]["n"]["anyOf"][0]["maximum"] == 2
    assert schemas["Generation"]["properties"]["max_tokens"]["anyOf"][0]["maximum"] == 100


def test_prompt_with_several_variables(tmp_path: Path, engine_cache: Path) -> None:
    config = create_workspace(tmp_path, engine_cache, "{{question}} {{context}}")
    rows = [{"question": "Who?", "context": "a b"}, {"question": "How?", "context": "c"}]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("context", "question")}
    split = {"columns": list(columns), "data": [list(row.values())[::-1] for row in rows]}
    with served(config, engine="scripted") as running, client(running) as http:
        answers = {"predictions": ["WHO? A B", "HOW? C"]}
        for table in (
            {"dataframe_records": rows},
            {"inputs": columns},
            {"dataframe_split": split},
        ):
            assert http.post("/invocations", json=table).json() == answers
        assert _ask(http, pd.DataFrame(columns).to_csv(index=False), CSV).json() == answers
        assert _ask(http, write_parquet(columns), PARQUET).json() == answers
        assert "row 0: send an object" in _refused(http.post("/invocations", json={"inputs": "alone"}))
        assert "row 0: send an object" in _refused(http.post("/invocations", json={"input": "alone"}))
        chosen = {"id": "plain", "variables": {"context": "a b"}}
        turns = [{"role": "user", "content": "Who?"}]
        chat = http.post("/v1/chat/completions", json={"messages": turns, "prompt": chosen}).json()
        assert chat["choices"][0]["message"]["content"] == "WHO? A B"
        assert all(check.passed for check in check_endpoint(running.url))
        lacking = http.post("/v1/chat/completions", json={"messages": turns, "prompt": "plain"})
        said = "prompt plain/1 needs values for question, context, and a conversation provides only one: "
        message = (
            said
            + '"prompt": {"id": "plain/1", "variables": {...}} provides the others; "prompt": "none" omits the prompt'
        )
        assert lacking.json()["error"]["message"] == message
        unnamed = http.post("/v1/chat/completions", json={"messages": turns})
        assert (unnamed.status_code, unnamed.json()["error"]["message"]) == (400, message)
        assert http.post("/v1/chat/completions", json={"messages": turns, "prompt": "none"}).status_code == 200
        assert _refused(http.post("/invocations", json={"messages": turns})).startswith(said)


def test_concurrent_tables_get_their_own_answers(http: httpx.Client) -> None:
    """Tables that are read concurrently do not mix."""
    texts = [f"row {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: _ask(http, f"question\n{text}\n", CSV).json(), texts))
    assert found == [{"predictions": [text.upper()]} for text in texts]
