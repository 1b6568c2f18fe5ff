"""Registering a release from a run or a model: its contents, once only, whole or not at all."""

import ast
import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from mlflow.models import get_model_info

from fledge.comparison.options import CompareOptions
from fledge.core.errors import InputError, RefusedError
from fledge.core.settings import Workspace
from fledge.engines.engine import Engine
from fledge.engines.selection import find, release_folder
from fledge.experiments._mlflow_experiments import load_arm
from fledge.experiments.comparison import compare
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.experiments.evaluation import evaluate
from fledge.experiments.run import run_experiment
from fledge.models.snapshot import Snapshot
from fledge.prompts.prompt import Draft
from fledge.prompts.store import open_prompts
from fledge.registry.release import history, promote, register
from fledge.releases.manifest import Manifest, load_manifest
from fledge.tracking._mlflow_connection import connect
from tests.models.hub_server import Hub, serve
from tests.models.instruct_model import write_instruct_model

pytestmark = pytest.mark.slow


def _config(workspace: Workspace, **settings: Any) -> ExperimentConfig:
    return ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, **settings)


def _manifest(workspace: Workspace, version: int = 1) -> Manifest:
    return load_manifest(release_folder(f"mine/{version}", workspace))


def _versions(workspace: Workspace) -> list[int]:
    client = connect(workspace.tracking_uri)
    return sorted(int(item.version) for item in client.search_model_versions("name = 'mine'"))


def _logged_models(workspace: Workspace) -> int:
    client = connect(workspace.tracking_uri)
    experiments = [item.experiment_id for item in client.search_experiments()]
    return len(client.search_logged_models(experiments))


def test_release_from_a_comparison(workspace: Workspace, embedded_engine: Engine) -> None:
    config = _config(workspace, prompts=("simple", "expert"), limit=4)
    config = replace(config, generation=replace(config.generation, max_tokens=24))
    run = run_experiment(config, engine=embedded_engine)
    with pytest.raises(InputError, match="comparison"):
        register(config, name="mine", run_id=run.run_id)
    unproven = register(config, run_id=run.run_id, arm="simple")
    assert unproven.name == "huggingface-dialogpt-model"
    assert unproven.arm is not None
    assert unproven.arm.summary() == "arm simple, unproven: the run was never compared or evaluated"
    verdict = compare(run.run_id, options=CompareOptions(metric="token_f1"), workspace=config)
    released = register(_config(workspace), name="mine", run_id=run.run_id)
    assert released.arm is not None
    assert (released.arm.name, released.arm.proven) == (verdict.leader, verdict.winner is not None)
    manifest = _manifest(workspace)
    leader = next(arm for arm in run.arms if arm.name == verdict.leader)
    assert (manifest.prompt_label, manifest.generation["max_tokens"]) == (leader.prompt, 24)
    assert manifest.evaluation["run_id"] == run.run_id
    assert manifest.evaluation["metrics"]["token_f1"] == pytest.approx(leader.metrics["token_f1"])
    assert len(manifest.evaluation["question_set_digest"]) == 64
    assert manifest.licence == "apache-2.0"
    assert manifest.environment["versions"]["mlflow"]
    other = next(arm.name for arm in run.arms if arm.name != verdict.leader)
    register(_config(workspace), name="mine", run_id=run.run_id, arm=other)
    assert _manifest(workspace, 2).prompt_name == other
    with pytest.raises(InputError, match="has no arm 'nobody'"):
        register(_config(workspace), name="mine", run_id=run.run_id, arm="nobody")


def test_experiment_id_in_the_environment_is_ignored(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "987654321")
    assert register(_config(workspace), name="mine").version == 1


def test_release_from_an_evaluation(workspace: Workspace, embedded_engine: Engine) -> None:
    first = register(_config(workspace), name="mine", prompt="expert")
    settings = {"tracking_uri": workspace.tracking_uri, "state": workspace.state, "limit": 3}
    found = evaluate("models:/mine/1", "error_rate<=0.5", gate_on="mean", settings=settings, engine=embedded_engine)
    promote("mine", 1, evidence=found.run_id[:8], workspace=workspace)
    assert history("mine", workspace=workspace)[0].evidence == found.run_id
    again = register(_config(workspace), run_id="last")  # of a release, under its name
    assert (again.name, again.version, again.new, again.digest) == ("mine", 1, False, first.digest)
    assert again.arm is not None
    assert again.arm.summary() == "arm expert, proven: passed error_rate<=0.5"
    register(_config(workspace), name="other", run_id=found.run_id)
    evaluation = load_manifest(release_folder("other/1", workspace)).evaluation
    assert (evaluation["passed"], evaluation["gates"][0]["gate"]) == (True, "error_rate<=0.5")
    assert evaluation["run_id"] == found.run_id


def test_model_changed_since_its_run_is_rejected(workspace: Workspace, tmp_path: Path, embedded_engine: Engine) -> None:
    embedded = find("embedded", workspace)
    assert isinstance(embedded, Snapshot)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in embedded.files:
        (folder / name).write_bytes((embedded.path / name).read_bytes())
    run = run_experiment(_config(workspace, model=str(folder), prompts=("simple",), limit=2), engine=embedded_engine)
    (folder / "README.md").write_text("another")
    with pytest.raises(InputError, match="have changed since run"):
        register(_config(workspace), name="mine", run_id=run.run_id, arm="simple")


def test_release_is_evaluated_with_its_own_settings(workspace: Workspace, embedded_engine: Engine) -> None:
    """An arm's settings override its prompt's and are stored in the release."""
    open_prompts(workspace=workspace).register(Draft("brief", "{{question}} In short:", settings={"max_tokens": 9}))
    arm = ArmConfig("brief", generation={"max_tokens": 11})
    run = run_experiment(_config(workspace, arms=(arm,), limit=3), engine=embedded_engine)
    register(_config(workspace), name="mine", run_id=run.run_id, arm=run.arms[0].name)
    settings = {"tracking_uri": workspace.tracking_uri, "state": workspace.state, "limit": 3}
    found = evaluate("models:/mine/1", "error_rate<=0.5", gate_on="mean", settings=settings, engine=embedded_engine)
    assert load_arm(connect(workspace.tracking_uri), found.run_id).generation.max_tokens == 11
    promote("mine", 1, evidence=found.run_id, workspace=workspace)


def test_release_has_the_settings_and_variables_of_its_prompt(workspace: Workspace) -> None:
    store = open_prompts(workspace=workspace)
    store.register(Draft("brief", "{{question}} In short:", settings={"max_tokens": 9, "stop_sequences": ["."]}))
    config = _config(workspace)
    config = replace(config, generation=replace(config.generation, temperature=1))
    release = register(config, name="mine", prompt="brief")
    generation = _manifest(workspace).generation
    assert (generation["max_tokens"], generation["stop"], generation["temperature"]) == (9, ["."], 1)
    params = {param.name: param.dtype.name for param in get_model_info(release.model_uri).signature.params}
    assert (params["temperature"], params["max_tokens"]) == ("double", "long")
    store.register(Draft("odd", "{{messages}}"))
    with pytest.raises(InputError, match="has a variable 'messages'"):
        register(_config(workspace), name="mine", prompt="odd")


def test_chat_model_is_registered_with_the_prompt_question_as_chat(workspace: Workspace, instruct_model: Path) -> None:
    config = _config(workspace, model=str(instruct_model))
    register(config, name="mine")
    found = _manifest(workspace)
    assert (found.prompt_label, found.format, found.system) == ("question/1", "chat", "")
    register(replace(config, format="completion"), name="mine")
    assert _manifest(workspace, 2).format == "completion"
    open_prompts(workspace=workspace).register(Draft("persona", "Q: {{question}}", system="You are {{who}}."))
    release = register(config, name="mine", prompt="persona")
    found = _manifest(workspace, 3)
    assert (found.template, found.format, found.system) == ("Q: {{question}}", "chat", "You are {{who}}.")
    inputs = get_model_info(release.model_uri).signature.inputs.input_names()
    assert inputs == [0, "who", "question", "messages"]
    with pytest.raises(InputError, match="prompt persona/1 has a system text, which embedded cannot use in the "):
        register(_config(workspace), name="mine", prompt="persona")
    with pytest.raises(InputError, match="prompt simple/1 cannot be sent as chat: embedded"):
        register(_config(workspace, format="chat"), name="mine")


def test_sampling_values_of_the_model_are_stored_in_the_release(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_instruct_model(tmp_path / "model", do_sample=True, temperature=0.7, top_k=20)
    config = _config(workspace, model=str(folder), generation_defaults="model")
    register(replace(config, generation=replace(config.generation, max_tokens=9)), name="mine")
    generation = _manifest(workspace).generation
    assert [generation[name] for name in ("temperature", "top_k", "top_p", "max_tokens")] == [0.7, 20, 1.0, 9]
    register(_config(workspace, model=str(folder)), name="mine")
    assert _manifest(workspace, 2).generation["temperature"] == 0.0


def test_format_of_an_arm_is_part_of_its_release_and_evidence(
    workspace: Workspace, instruct_model: Path, instruct_engine: Engine
) -> None:
    model = str(instruct_model)
    arms = (ArmConfig("simple", "plain", format="completion"), ArmConfig("simple", "chat"))
    run = run_experiment(_config(workspace, model=model, arms=arms, limit=2), engine=instruct_engine)
    settings = {"tracking_uri": workspace.tracking_uri, "state": workspace.state, "limit": 2}
    evidence: dict[int, str] = {}
    for version, arm, form in ((1, "plain", "completion"), (2, "chat", "chat")):
        register(_config(workspace), name="mine", run_id=run.run_id, arm=arm)
        assert _manifest(workspace, version).format == form
        target = f"models:/mine/{version}"
        found = evaluate(target, "error_rate<=0.5", gate_on="mean", settings=settings, engine=instruct_engine)
        evidence[version] = found.run_id
        assert load_arm(connect(workspace.tracking_uri), found.run_id).format == form
        promote("mine", version, evidence=found.run_id, workspace=workspace)
    with pytest.raises(RefusedError, match="the format was chat, but the release uses completion"):
        promote("mine", 1, evidence=evidence[2], workspace=workspace)


@pytest.mark.parametrize("name", ["a/b", "a:b", "a@b", "mine.history", "simple"])
def test_invalid_name_is_rejected(workspace: Workspace, name: str) -> None:
    open_prompts(workspace=workspace).load("simple")
    with pytest.raises(InputError, match=r"invalid release name|is the name of a prompt"):
        register(_config(workspace), name=name)
    assert len(open_prompts(workspace=workspace).versions("simple")) == 1


def test_weights_by_reference_need_a_hub_model(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="needs a Hub model, and embedded is not one"):
        register(_config(workspace), name="mine", weights="reference")
    with pytest.raises(InputError, match="is a URL"):
        register(_config(workspace, model="http://127.0.0.1:9/v1#x"), name="mine")


BY_REFERENCE = """
import sys
import mlflow
from fledge.experiments._mlflow_experiments import load_arm
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.registry.release import register

release = register(
    ExperimentConfig(tracking_uri=sys.argv[1], state=sys.argv[2], model="org/model"), name="mine", weights="reference"
)
model = mlflow.pyfunc.load_model(release.model_uri)
print(model.predict("What is machine learning?", params={"max_tokens": 8})[0])
"""


def test_weights_by_reference_store_no_files_and_are_checked_when_fetched(workspace: Workspace, tmp_path: Path) -> None:
    embedded = find("embedded", workspace)
    assert isinstance(embedded, Snapshot)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HF_"))}
    command = [sys.executable, "-c", BY_REFERENCE, workspace.tracking_uri, workspace.state]
    with serve(Hub({name: (embedded.path / name).read_bytes() for name in embedded.files})) as hub:
        env = {**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip().endswith("Machine learning is the study of"), done.stderr
    manifest = _manifest(workspace)
    assert (manifest.model, manifest.commit, manifest.files) == ("org/model", "a" * 40, {})
    (cached,) = (tmp_path / "hf").rglob("README.md")
    cached.resolve().write_text("another card")
    env = {**clean, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    load = ["-c", f"import mlflow; mlflow.set_tracking_uri({workspace.tracking_uri!r}); "]
    load[1] += "mlflow.pyfunc.load_model('models:/mine/1')"
    refused = subprocess.run([sys.executable, *load], env=env, capture_output=True, text=True, check=False, timeout=120)
    assert "differ from the registered ones; it is not loaded" in refused.stderr


def test_requirements_cover_all_imports_of_a_release(workspace: Workspace, embedded_engine: Engine) -> None:
    register(_config(workspace), name="mine")
    (stored,) = Path.cwd().glob("mlartifacts/*/models/*/artifacts/requirements.txt")
    named = {line.partition("==")[0] for line in stored.read_text().split()}
    program = "import sys, fledge.registry.wrapper, fledge.engines.openvino; print(*(m.__file__ for n, m in "
    program += "sys.modules.items() if n.startswith('fledge.')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    imported = {name for file in done.stdout.split() for name in _imports(Path(file))} - {"fledge"}
    known = metadata.packages_distributions()
    missing = {
        name
        for name in imported - sys.stdlib_module_names
        if not {_canonical(item) for item in known[name]} & _add_dependencies(named)
    }
    assert missing == set()
    assert "torch" not in named


def _imports(file: Path) -> Iterator[str]:
    """Yield the packages that a module imports when it is loaded."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


@cache
def _required(name: str) -> frozenset[str]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        lines = [line for line in metadata.requires(name) or [] if "extra ==" not in line]
        return frozenset(_canonical(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in lines)
    return frozenset()


def _add_dependencies(names: set[str]) -> set[str]:
    found: set[str] = set()
    left = {_canonical(name) for name in names}
    while left:
        found |= left
        left = {other for name in left for other in _required(name)} - found
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _register(workspace: Workspace, ready: Any, results: Any) -> None:
    ready.wait()
    results.put(register(_config(workspace), name="mine").version)


def test_concurrent_registrations_of_the_same_content_are_one_version(workspace: Workspace) -> None:
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=_register, args=(workspace, ready, results)) for _ in range(2)]
    for process in both:
        process.start()
    found = [results.get(timeout=120) for _ in both]
    for process in both:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert found[0] == found[1]
    assert _versions(workspace) == [found[0]]
    assert _logged_models(workspace) == 1


SLOW = """
import signal, sys, time
from mlflow import MlflowClient
from fledge.experiments._mlflow_experiments import load_arm
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.registry.release import register

signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore SIGINT
step = sys.argv[1]
method = getattr(MlflowClient, step)
def slow(*args, **kwargs):
    result = method(*args, **kwargs)
    print("there", flush=True)
    time.sleep(60)
    return result
setattr(MlflowClient, step, slow)
register(ExperimentConfig(tracking_uri=sys.argv[2], state=sys.argv[3]), name="mine")
"""


@pytest.mark.parametrize("step", ["create_logged_model", "log_model_artifacts", "finalize_logged_model"])
def test_interrupted_registration_leaves_nothing(workspace: Workspace, step: str) -> None:
    command = [sys.executable, "-c", SLOW, step, workspace.tracking_uri, workspace.state]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "there\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=120)
    assert _versions(workspace) == []
    assert _logged_models(workspace) == 0
    assert not list(Path.cwd().glob("mlartifacts/*/models/*/artifacts/*"))
    assert register(_config(workspace), name="mine").version == 1


def test_register_command_reports_the_version_and_damage(workspace: Workspace, fledge: Any) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env = {**clean, "MLFLOW_TRACKING_URI": workspace.tracking_uri}
    done = fledge("register", "--name", "mine", "--json", env=env)
    assert json.loads(done.stdout).keys() == {"name", "version", "model_uri", "digest", "new", "arm"}
    assert done.stderr.startswith("registering embedded as mine")
    again = fledge("register", "--name", "mine", env=env)
    assert again.stdout == "mine version 1, already registered with the same content\n"
    checked = fledge("verify", "models:/mine/1", "--json", env=env)
    assert json.loads(checked.stdout)["files"] > 5
    (weights,) = Path.cwd().glob("mlartifacts/*/models/*/artifacts/artifacts/release/snapshot/model.safetensors")
    weights.unlink()
    damaged = fledge("verify", "mine/1", env=env)
    assert damaged.returncode == 1
    assert "snapshot/model.safetensors is missing; it is not loaded" in damaged.stderr
