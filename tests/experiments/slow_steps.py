"""An experiment whose engine has slow steps, and the answers that are on disk at each moment.

`python slow_steps.py MODEL STEP_S QUESTIONS [RUN]` runs the experiment in the working directory. The model `scripted`
has steps of STEP_S seconds that hold the GIL; `gated` starts a step when the answers of the last one are on disk. The
engine logs the time of each answer's last token in `made.jsonl`.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import resume_experiment, run_experiment
from fledge.questions.question_set import Question, QuestionSet
from tests.engines.engine_child import engine_process

ROOT = Path(__file__).parent.parent.parent
CONCURRENCY = 64
ENGINE = """
import json, os, time
from fledge.engines import process, selection
from fledge.engines.scripted import ScriptedEngine
from fledge.engines.settings import EngineSettings
made = os.open("made.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
on_item = process.ClientConnection._on_item
def log_finished(self, identity, stream, buffers, item):
    if getattr(item, "finish_reason", None):
        os.write(made, (json.dumps([self.prompts[identity], time.time()]) + "\\n").encode())
    on_item(self, identity, stream, buffers, item)
original_start = process.ClientConnection._start
def start(self, ask):
    self.prompts = getattr(self, "prompts", {})
    self.prompts[ask.id] = ask.text or ask.messages[-1][1]
    original_start(self, ask)
process.ClientConnection._on_item, process.ClientConnection._start = log_finished, start
"""
SCRIPTED = ENGINE + "engine = ScriptedEngine(lambda _: 'word ' * 5 + 'word', step_s=STEP_S)\n"
GATED = (
    ENGINE
    + """
from pathlib import Path
def lines(pattern):
    return sum(path.read_bytes().count(b"\\n") for path in Path().glob(pattern))
class Gated(ScriptedEngine):
    def turn(self):
        super().turn()
        self.between_steps()  # sends the new pieces
        deadline = time.monotonic() + 120
        while lines(".fledge/experiments/*/answers.jsonl") < lines("made.jsonl"):
            if time.monotonic() > deadline:
                os._exit(7)
engine = Gated(lambda prompt: "word " * (len(prompt) % 6) + "word")
"""
)
LOADED = ENGINE + "engine = selection.load(EngineSettings(), selection.find(MODEL, EngineSettings()))\n"


def main() -> None:
    model, step_s, count, *run = sys.argv[1:]
    program = {"scripted": SCRIPTED, "gated": GATED}.get(model, LOADED)
    program = program.replace("STEP_S", step_s).replace("MODEL", repr(model))
    questions = QuestionSet(
        "numbers", tuple(Question(str(number), f"What is {number} plus {number}?") for number in range(int(count)))
    )
    config = ExperimentConfig(
        model="embedded" if model in ("scripted", "gated") else model,
        tracking_uri=os.environ["MLFLOW_TRACKING_URI"],
        concurrency=CONCURRENCY,
        prompts=("question",),
        generation=GenerationParams(max_tokens=40),
    )
    with engine_process(program) as engine:
        if run:
            resume_experiment(run[0], engine=engine, workspace=Workspace(config.tracking_uri))
        else:
            run_experiment(config, questions=questions, engine=engine)


def start(folder: Path, workspace: Workspace, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": workspace.tracking,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    return subprocess.Popen([sys.executable, __file__, *arguments], cwd=folder, env=environment)


class Watcher:
    """Watches the journal: `seen` has the line of each answer and the time when it was on disk."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[tuple[dict[str, Any], float]] = []
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._read_new_lines()
            time.sleep(0.01)
        self._read_new_lines()

    def _read_new_lines(self) -> None:
        lines = journal(self._folder)
        now = time.time()
        self.seen += [(line, now) for line in lines[len(self.seen) :]]

    def delays_s(self) -> list[float]:
        """Return the seconds from the last token of each answer until the answer was on disk."""
        return sorted(seen - line["generated_ns"] / 1e9 for line, seen in self.seen)


def journal(folder: Path) -> list[dict[str, Any]]:
    """Return the complete lines in the journal of the only experiment."""
    paths = list((folder / ".fledge" / "experiments").glob("*/answers.jsonl"))
    content = paths[0].read_bytes() if paths else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def made(folder: Path) -> list[tuple[str, float]]:
    """Return the prompt and the time of each answer that the engine has finished."""
    path = folder / "made.jsonl"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
