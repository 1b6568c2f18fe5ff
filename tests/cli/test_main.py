"""The command line: help, errors, exit codes."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fledge.cli.main import COMMANDS
from tests.conftest import Run


def test_help_imports_no_heavy_module() -> None:
    program = (
        "import sys; sys.argv = ['fledge', '--help']\n"
        "import fledge.cli.main as main\n"
        "try: main.main()\n"
        "finally: print([name for name in ('mlflow', 'torch', 'transformers', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Take a Hugging Face language model" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


HEAVY = (
    "mlflow",
    "torch",
    "transformers",
    "openvino",
    "scipy",
    "statsmodels",
    "pandas",
    "matplotlib",
    "langchain_core",
)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_of_a_command_imports_no_heavy_module(name: str) -> None:
    program = (
        f"import sys; sys.argv = ['fledge', {name!r}, '--help']\n"
        "import fledge.cli.main as main\n"
        "try: main.main()\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage:")
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_shows_common_options_first_then_groups(fledge: Run) -> None:
    text = fledge("experiment", "--help").stdout
    places = [text.index(f"\n{heading}:\n") for heading in ("Options", "Generation", "Judge", "Engine", "Storage")]
    assert places == sorted(places)
    assert places[0] < text.index("  --model ") < text.index("  --prompts ") < places[1]
    assert places[1] < text.index("  --top-p ") < places[2]
    assert places[3] < text.index("  --cache-gb ") < places[4] < text.index("  --tracking-uri ")
    assert "FLEDGE_SOME_OPTION" in text


def test_usage_errors_exit_2_with_a_suggestion(fledge: Run) -> None:
    done = fledge("experimant")
    assert done.returncode == 2
    assert "experiment" in done.stderr
    assert fledge("serve").returncode == 2
    assert fledge("experiment", "--nonsense").returncode == 2


def test_bad_input_exits_2_and_logs_nothing_to_mlflow(fledge: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "a?"}\n{"question": ')
    for command in ("experiment", "demo"):
        done = fledge(command, "--questions", "bad.jsonl", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "error: bad.jsonl, line 2" in done.stderr
        assert "try: " in done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


BEFORE_MLFLOW = """
import sys
from importlib.machinery import PathFinder

class Hidden(PathFinder):
    def find_spec(name, path=None, target=None):
        if name in ("openvino_genai", "transformers"):
            raise ModuleNotFoundError(name)

if "--hide" in sys.argv:
    sys.argv.remove("--hide")
    sys.meta_path.insert(0, Hidden)
import fledge.cli.main as main
try: main.main()
finally: print([name for name in ("mlflow", "scipy", "torch") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("experiment", "--model", "nosuch"), "no model 'nosuch'"),
        (("evaluate", "nosuch"), "no model 'nosuch'"),
        (("register", "--model", "nosuch"), "no model 'nosuch'"),
        (("run", "nosuch"), "no model 'nosuch'"),
        (("experiment", "--hide"), "an engine is not installed"),
        (("evaluate", "embedded", "--hide"), "an engine is not installed"),
        (("register", "--engines", "fast", "--hide"), "the engine openvino is not installed"),
    ],
)
def test_missing_model_or_engine_is_reported_before_heavy_imports(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", BEFORE_MLFLOW, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert f"error: {said}" in done.stderr
    assert done.returncode in (1, 2)
    assert done.stdout.splitlines()[-1] == "[]"
    assert not list(tmp_path.glob("mlflow.db"))


def test_unsupported_store_is_reported(fledge: Run, tmp_path: Path) -> None:
    done = fledge("prompts", "list", "--tracking-uri", "./mlruns", cwd=tmp_path)
    assert done.returncode == 2
    assert "only SQL stores and http(s) servers" in done.stderr


def test_unreachable_server_is_reported(fledge: Run, tmp_path: Path, port: int) -> None:
    environment = os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    done = fledge("prompts", "list", "--tracking-uri", f"http://127.0.0.1:{port}", cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert "cannot be reached: nothing listens there" in done.stderr
    assert "Traceback" not in done.stderr


def test_compare_reads_a_score_file(fledge: Run, tmp_path: Path) -> None:
    rows = "".join(f"q{n},a,{n % 3}\nq{n},b,{n % 3 + 1}\n" for n in range(20))
    (tmp_path / "scores.csv").write_text("question,arm,quality\n" + rows)
    done = fledge("compare", "--scores", "scores.csv", "--metric", "quality", "--json", cwd=tmp_path)
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert set(answer) >= {"metric", "arms", "pairs", "winner", "leader"}
    (pair,) = answer["pairs"]
    assert set(pair) >= {"a", "b", "difference", "ci", "p", "p_adjusted", "verdict", "needed_questions", "reason"}
    assert (pair["a"], pair["b"], pair["difference"], pair["verdict"]) == ("b", "a", 1.0, "better")
    assert answer["winner"] == "b"
    words = fledge("compare", "--scores", "scores.csv", "--metric", "quality", cwd=tmp_path)
    assert "b is better than a" in words.stdout
    assert fledge("compare", "--scores", "scores.csv", cwd=tmp_path).returncode == 2
    assert fledge("compare", cwd=tmp_path).returncode == 2


def test_config_shows_the_origin_of_each_value(fledge: Run, tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").write_text("samples = 3\n")
    environment = os.environ | {"FLEDGE_PORT": "5009", "FLEDGE_MAX_ROWS": "7"}
    done = fledge("config", "show", "--origin", "--json", cwd=tmp_path, env=environment)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert (rows["samples"]["value"], rows["samples"]["origin"]) == (3, str(tmp_path / "fledge.toml"))
    assert (rows["port"]["value"], rows["port"]["origin"]) == (5009, "environment")
    assert (rows["max_rows"]["value"], rows["max_rows"]["origin"]) == (7, "environment")
    assert rows["max_tokens"]["origin"] == "default"


@pytest.mark.parametrize("command", [["config", "show"], ["status"]])
def test_every_command_names_unknown_keys_of_a_settings_file(fledge: Run, tmp_path: Path, command: list[str]) -> None:
    byte_order_mark = "\N{ZERO WIDTH NO-BREAK SPACE}"
    (tmp_path / "fledge.toml").write_text(f"{byte_order_mark}moddel = 'small'\njudge_retries = 3\nzork = 1\n")
    done = fledge(*command, "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.rpartition("fledge.toml: ")[2] for line in done.stderr.splitlines()] == [
        "unknown setting 'moddel' is ignored; did you mean 'model'?",
        "unknown setting 'zork' is ignored",
    ]


def test_unknown_variables_are_named(fledge: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FLEDGE_PORTT=5009\nFLEDGE_SECONDS=3\nOTHER=1\n")
    environment = os.environ | {"FLEDGE_LIMT": "3", "FLEDGE_API_KEY": "x" * 40, "FLEDGE_LIMIT": "2"}
    done = fledge("status", "--json", cwd=tmp_path, env=environment)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "environment: unknown setting 'FLEDGE_LIMT' is ignored; did you mean 'FLEDGE_LIMIT'?",
        ".env: unknown setting 'FLEDGE_PORTT' is ignored; did you mean 'FLEDGE_PORT'?",
    ]


def test_dotenv_that_is_not_utf8_is_named(fledge: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("FLEDGE_LIMIT=3".encode("utf-16"))
    done = fledge("status", cwd=tmp_path)
    assert done.returncode == 2
    assert ".env is not UTF-8" in done.stderr


def test_invalid_request_id_is_refused(fledge: Run, tmp_path: Path) -> None:
    done = fledge("feedback", "deadbeef", "--value", "true", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 2
    assert "invalid request id: 'deadbeef'" in done.stderr
    assert "x-request-id" in done.stderr


@pytest.mark.slow
def test_prompt_to_promotion_and_rollback(fledge: Run, tmp_path: Path) -> None:
    (tmp_path / ".fledge").mkdir()
    (tmp_path / "short.txt").write_text("{{question}} In short:")

    def ask(*arguments: str) -> object:
        done = fledge(*arguments, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    prompts = ask("prompts", "register", "short.txt")
    assert isinstance(prompts, list)
    assert (prompts[0]["name"], prompts[0]["version"]) == ("short", 1)
    experiment = ask("experiment", "--prompts", "short,simple", "--limit", "3")
    assert isinstance(experiment, dict)
    assert (experiment["cells"], experiment["failed"]) == (6, 0)
    assert [set(arm) for arm in experiment["arms"]] == [{"name", "prompt", "model", "digest", "metrics", "format"}] * 2
    compared = ask("compare", experiment["run_id"])
    assert isinstance(compared, dict)
    release = ask("register", "--run", experiment["run_id"])
    assert isinstance(release, dict)
    assert set(release) == {"name", "version", "model_uri", "digest", "new", "arm"}
    assert set(release["arm"]) == {"name", "proven", "reason"}
    verified = ask("verify", f"{release['name']}/1")
    assert isinstance(verified, dict)
    assert set(verified) == {"name", "version", "digest", "files", "signed", "signature_checked"}
    refused = fledge("promote", release["name"], "1", "--evidence", experiment["run_id"], cwd=tmp_path)
    assert refused.returncode == (0 if compared["winner"] else 3)
    moved = ask("promote", release["name"], "1", "--force", "--reason", "because")
    assert isinstance(moved, dict)
    assert set(moved) == {"name", "alias", "from", "to", "prompts"}
    ask("register", "--prompt", "expert")
    ask("promote", release["name"], "2", "--force", "--reason", "another")
    back = ask("rollback", release["name"])
    assert isinstance(back, dict)
    assert (set(back), back["from"], back["to"]) == (set(moved), 2, 1)
    moves = ask("history", release["name"])
    assert isinstance(moves, list)
    assert [move["action"] for move in moves] == ["rollback", "promote", "promote"]
    fields = {"time", "who", "name", "alias", "action", "from", "to", "prompts", "reason", "evidence", "forced"}
    assert set(moves[0]) == {*fields, "digest", "number"}
    assert ask("status") == {"endpoints": []}


WAIT_IN_A_THREAD = """
import signal, threading
from fledge.cli import main
threading.Thread(target=threading.Event().wait).start()
main.app.main = lambda **_: signal.raise_signal(signal.SIGINT)
main.main()
"""


def test_interrupt_ends_the_process_despite_a_waiting_thread(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAIT_IN_A_THREAD], cwd=tmp_path, capture_output=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"interrupted\n")


CREATE_A_CLASS = """
import signal
from fledge.cli import main
class Attribute:
    def __set_name__(self, owner, name):
        signal.raise_signal(signal.SIGINT)
main.app.main = lambda **_: type("Owner", (), {"attribute": Attribute()})
main.main()
"""


def test_interrupt_during_class_creation(tmp_path: Path) -> None:
    """Python 3.11 turns an exception raised there into a RuntimeError."""
    done = subprocess.run(
        [sys.executable, "-c", CREATE_A_CLASS], cwd=tmp_path, capture_output=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"interrupted\n")


def test_ui_reports_a_port_in_use(fledge: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = fledge("ui", "--port", str(port), cwd=tmp_path)
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 cannot be used: address already in use" in done.stderr
    assert f"--port {port + 1}" in done.stderr


def test_unused_built_in_prompts_are_listed(fledge: Run, tmp_path: Path) -> None:
    listed = fledge("prompts", "list", cwd=tmp_path).stdout
    assert listed.count("built in") == 5
    assert all(name in listed for name in ("simple", "conversational", "expert", "educational", "question"))
    assert fledge("prompts", "show", "simple", cwd=tmp_path).returncode == 0
    assert fledge("prompts", "list", cwd=tmp_path).stdout.count("built in") == 4


def test_verbose_logs_the_engine_and_the_store(fledge: Run, tmp_path: Path) -> None:
    command = ("experiment", "--engine", "scripted", "--prompts", "simple", "--limit", "2")
    quiet, verbose = fledge(*command, cwd=tmp_path), fledge("-v", *command, cwd=tmp_path)
    lines = [line for line in verbose.stderr.splitlines() if re.match(r" *[\d.]+ s  ", line)]
    for text in ("engine scripted is ready", "connected to sqlite:///", "recorded 2 answers in MLflow"):
        assert [text in line for line in lines].count(True) == 1
        assert text not in quiet.stderr
