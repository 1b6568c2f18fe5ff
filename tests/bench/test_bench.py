import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fledge.core.settings import Workspace
from tests.bench.documented import documented_names
from tests.conftest import Run


@pytest.mark.slow
def test_bench_engine_measures_and_records(fledge: Run, workspace: Workspace) -> None:
    done = fledge(
        "bench", "engine", "--model", "embedded", "--loads", "1,3", "--tokens", "8", "--repeats", "1", "--json",
        "--tracking-uri", workspace.tracking,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    peers = {row["peer"] for row in result["rows"]}
    assert peers == {"transformers.generate", "openvino-exact", "openvino-fast", "transformers"}
    assert len(result["rows"]) == 8
    assert result["models"] == [{"name": "embedded", "source": "embedded", "parameters": 2271360, "prompts": "text"}]
    assert result["limits"]["bytes_per_s"] > 0
    assert result["limits"]["flops_per_s"]["float32"] > 0
    for row in result["rows"]:
        assert row["model"] == "embedded"
        assert row["output_tokens_per_s"] > 0
        assert 0 < row["ttft_p50_s"] <= row["latency_p50_s"] <= row["latency_p99_s"]
        assert row["memory_bytes"] > 50_000_000
        assert row["share_of_limit"] == pytest.approx(row["output_tokens_per_s"] / row["limit_tokens_per_s"])
    speed = {(row["peer"], row["load"]): row["output_tokens_per_s"] for row in result["rows"]}
    for name, ratios in result["ratios"]["embedded"].items():
        for load, ratio in ratios["transformers.generate"].items():
            assert ratio == pytest.approx(speed[name, int(load)] / speed["transformers.generate", int(load)])
    shown = {*result, *result["machine"], *result["models"][0], *result["limits"], *result["rows"][0]}
    assert shown <= documented_names("bench engine")
    client = MlflowClient(workspace.tracking)
    assert {item.path for item in client.list_artifacts(result["run_id"])} == {"bench.json", "bench.png"}
    run = client.get_run(result["run_id"])
    assert run.data.metrics["embedded.openvino-fast.output_tokens_per_s.3"] == pytest.approx(speed["openvino-fast", 3])


def test_invalid_settings_are_refused_before_anything_starts(fledge: Run, tmp_path: Path) -> None:
    done = fledge("bench", "engine", "--loads", "0", "--subjects", "vllm", cwd=tmp_path)
    assert done.returncode == 2
    assert "loads must be from 1 to 512" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_bench_experiment_measures_and_records(fledge: Run, workspace: Workspace, chat_model: Path) -> None:
    done = fledge(
        "bench", "experiment", "--model", str(chat_model), "--limit", "1", "--tokens", "8", "--repeats", "1", "--json",
        "--tracking-uri", workspace.tracking,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {row["peer"]: row for row in result["rows"]}
    assert rows.keys() == {"langchain-pipeline", "fledge", "fledge, unrecorded"}
    assert {*result, *result["models"][0], *result["rows"][0]} <= documented_names("bench experiment")
    assert result["models"][0]["prompts"] == "chat"
    for row in rows.values():
        assert row["model"] == "small-chat"
        assert row["load"] == 4
        assert row["output_tokens_per_s"] == pytest.approx(4 * 8 / row["seconds"])
        assert 0 < row["latency_p50_s"] <= row["latency_p99_s"] < row["seconds"]
    ratio = rows["langchain-pipeline"]["seconds"] / rows["fledge"]["seconds"]
    assert result["ratios"]["small-chat"]["fledge"]["langchain-pipeline"]["4"] == pytest.approx(ratio)
    share = 1 - rows["fledge, unrecorded"]["seconds"] / rows["fledge"]["seconds"]
    assert result["recording_share"] == {"small-chat": pytest.approx(share)}
    client = MlflowClient(workspace.tracking)
    assert {item.path for item in client.list_artifacts(result["run_id"])} == {"bench.json", "bench.png"}
