"""The journal of an experiment on disk: its plan, each completed answer, and how many of them MLflow has."""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.experiments.arms import Arm
from fledge.experiments.cells import Answer, Cell, order_cells
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run_ids import LAST, LIST_RUNS, match_run, short_id
from fledge.questions.question_set import Question, QuestionSet
from fledge.scoring.judge import JUDGE, JudgeCounts


@dataclass(frozen=True)
class ExperimentPlan:
    """Everything needed to resume an experiment; written before the first cell runs, and never changed.

    On disk it lacks the tracking URI, which may hold a password and may change.
    """

    run_id: str
    experiment_id: str
    config: ExperimentConfig
    arms: tuple[Arm, ...]
    questions: QuestionSet


_PLAN = TypeAdapter(ExperimentPlan)
_ARMS = TypeAdapter(tuple[Arm, ...])
LOCK_ATTEMPTS = 20
CLOSED = -1
FINISHED = "finished.json"


class Journal:
    """A folder with the plan, a line for each answer, and the number of lines recorded in MLflow.

    Only one process at a time has it open. `append` may be called from any thread.
    """

    def __init__(self, folder: Path, plan: ExperimentPlan) -> None:
        self.folder = folder
        self.plan = plan
        self._lock = threading.Lock()
        self._lock_file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not _acquire_lock(self._lock_file):
            os.close(self._lock_file)
            raise FledgeError(
                f"experiment {plan.run_id} is already running in another process", hint="wait until it ends"
            ) from None
        path = folder / "answers.jsonl"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1
        os.ftruncate(self._file, complete)  # a killed process may have left an incomplete line
        self.answers = _parse(content[:complete])
        self._size = complete

    @staticmethod
    def is_abandoned(workspace: Workspace, run_id: str) -> bool:
        """Return whether an experiment has a journal here and no process that runs it."""
        try:
            lock = os.open(workspace.state_dir / "experiments" / run_id / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    @classmethod
    def create(cls, plan: ExperimentPlan) -> "Journal":
        folder = plan.config.state_dir / "experiments" / plan.run_id
        content = replace(plan, config=replace(plan.config, tracking_uri="", state="", cache=""))
        try:
            state.write_json(state.ensure(folder) / "plan.json", _PLAN.dump_python(content, mode="json"))
            return cls(folder, plan)
        except OSError as error:
            raise FledgeError(f"cannot write to {folder}: {error.strerror}", hint="free some space") from None

    @classmethod
    def open(cls, workspace: Workspace, name: str) -> "Journal":
        """Open the journal of an experiment by its id, a unique prefix, or `last`, the newest unfinished one. Raises
        `InputError` if there is none."""
        run_id = _find(workspace, name)
        folder = workspace.state_dir / "experiments" / run_id
        try:
            plan = _PLAN.validate_json((folder / "plan.json").read_bytes())
        except ValidationError as error:
            invalid = [
                item["msg"].removeprefix("Value error, ") for item in error.errors() if item["type"] == "value_error"
            ]
            if invalid:  # valid when it was written
                raise InputError(
                    f"cannot resume experiment {run_id}: {invalid[0]}", hint="restore what it needs"
                ) from None
            raise FledgeError(
                f"{folder / 'plan.json'} is damaged in {error.error_count()} places", hint="start a new experiment"
            ) from None
        config = replace(plan.config, tracking_uri=workspace.tracking_uri, state=workspace.state, cache=workspace.cache)
        return cls(folder, replace(plan, config=config))

    @property
    def sent(self) -> int:
        """The number of answers, from the first, that MLflow has."""
        try:
            return int(json.loads((self.folder / "sent.json").read_text()))
        except FileNotFoundError:
            return 0

    @property
    def judge_counts(self) -> JudgeCounts:
        """The judge's counts so far, without those of killed processes."""
        try:
            return JudgeCounts(*json.loads((self.folder / "judge.json").read_text()))
        except FileNotFoundError:
            return JudgeCounts()

    def add_judge_counts(self, more: JudgeCounts) -> None:
        counts = [before + new for before, new in zip(self.judge_counts, more, strict=True)]
        state.write_json(self.folder / "judge.json", counts)

    def mark_finished(self) -> None:
        """Mark the experiment as finished, unless cells are unanswered or ungraded."""
        if not (self.unanswered() or self.ungraded()):
            state.write_json(self.folder / FINISHED, True)

    def mark_sent(self, count: int) -> None:
        state.write_json(self.folder / "sent.json", count)

    def append(self, answer: Answer) -> None:
        """Write an answer. After this returns, a kill does not lose it."""
        line = (json.dumps(asdict(answer)) + "\n").encode()
        with self._lock:
            if self._file == CLOSED:
                raise FledgeError("the experiment has ended")
            try:
                written = os.write(self._file, line)
            except OSError as error:
                raise self._write_error(error.strerror or "") from None
            if written < len(line):
                os.ftruncate(self._file, self._size)
                raise self._write_error("only a part could be written")
            self._size += written
            self.answers.append(answer)

    def sync(self) -> None:
        """Flush the answers to disk, so that a power failure does not lose them."""
        os.fsync(self._file)

    def latest(self) -> list[Answer]:
        """Return the last attempt at each cell, in the order of the first answers."""
        return _last_attempts(self.answers)

    def unanswered(self) -> list[Cell]:
        """Return the cells without an answer, or with a transient error, in order."""
        plan = self.plan
        answered = {answer.key: answer for answer in self.answers}
        cells = order_cells(plan.arms, plan.questions.questions, plan.config.samples, plan.config.order_seed)
        waiting = []
        for cell in cells:
            last = answered.get(cell.key)
            if last is None:
                waiting.append(cell)
            elif last.error and not last.final:
                waiting.append(replace(cell, attempt=last.attempt + 1))
        return waiting

    def ungraded(self) -> list[tuple[Cell, Answer]]:
        """Return the cells whose answers lack a judge's grade, with those answers.

        An answer that was recorded without its grade is recorded again, as another attempt.
        """
        lacking = {
            answer.key: answer
            for answer in self.latest()
            if not answer.error and (not answer.graded or JUDGE in answer.score_errors)
        }
        plan = self.plan
        cells = order_cells(plan.arms, plan.questions.questions, plan.config.samples, plan.config.order_seed)
        return [
            (replace(cell, attempt=found.attempt + found.graded), found)
            for cell in cells
            if (found := lacking.get(cell.key))
        ]

    def close(self) -> None:
        """Close the files; later answers are refused."""
        with self._lock:
            os.close(self._file)
            self._file = CLOSED
        os.close(self._lock_file)

    def _write_error(self, reason: str) -> FledgeError:
        return FledgeError(
            f"cannot write an answer to {self.folder}: {reason}",
            hint=f"free some space, then: fledge experiment --resume {short_id(self.plan.run_id)}",
        )


def _acquire_lock(file: int) -> bool:
    """Return whether the lock was acquired. Retries, because `is_abandoned` holds it for a moment."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


class EarlierExperiment(NamedTuple):
    """An experiment in the state folder: its journal, its arms, and the variables of its questions by id."""

    folder: Path
    arms: tuple[Arm, ...]
    variables: dict[str, dict[str, str]]


def find_earlier_experiments(workspace: Workspace, run_id: str) -> Iterator[EarlierExperiment]:
    """Yield the other experiments in the state folder, newest first, except damaged ones. Loads no scorers."""
    plans = [path for path in (workspace.state_dir / "experiments").glob("*/plan.json") if path.parent.name != run_id]
    for path in sorted(plans, key=lambda path: -path.stat().st_mtime_ns):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            content = json.loads(path.read_bytes())
            questions = [Question(**item) for item in content["questions"]["questions"]]
            arms = _ARMS.validate_python(content["arms"])
            yield EarlierExperiment(path.parent, arms, {item.id: item.variables for item in questions})


def read_answers(folder: Path) -> list[Answer]:
    """Return the last attempt at each cell in a journal's folder; none if it is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        content = (folder / "answers.jsonl").read_bytes()
        return _last_attempts(_parse(content[: content.rfind(b"\n") + 1]))
    return []


def _parse(lines: bytes) -> list[Answer]:
    return [Answer(**json.loads(line)) for line in lines.splitlines()]


def _last_attempts(answers: list[Answer]) -> list[Answer]:
    """Return the last attempt at each cell, in the order of the first answers; `answers` may grow meanwhile."""
    return list({answer.key: answer for answer in list(answers)}.values())


def _find(workspace: Workspace, name: str) -> str:
    """Return the run id that `name` refers to, among the experiments with a journal here."""
    plans = {path.parent.name: path for path in (workspace.state_dir / "experiments").glob("*/plan.json")}
    if name == LAST:
        unfinished = [run_id for run_id, path in plans.items() if not path.with_name(FINISHED).exists()]
        if not unfinished:
            raise InputError(f"no experiment in the state folder {workspace.state_dir} is unfinished", hint=LIST_RUNS)
        return max(unfinished, key=lambda run_id: plans[run_id].stat().st_mtime_ns)
    found = match_run(name, plans)
    if found is None:
        raise InputError(
            f"no experiment {name!r} was started with the state folder {workspace.state_dir}",
            hint=f"resume it in the folder where it ran, or name that with --state; {LIST_RUNS}",
        )
    return found
