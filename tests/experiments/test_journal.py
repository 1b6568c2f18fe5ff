"""The journal of an experiment on disk, also after a kill or a full disk."""

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.core.types import Message
from fledge.experiments.arms import Arm
from fledge.experiments.cells import Answer
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.journal import ExperimentPlan, Journal
from fledge.prompts.prompt import Prompt
from fledge.questions.question_set import Question, QuestionSet


def _plan(tmp_path: Path) -> ExperimentPlan:
    arms = (
        Arm("text", Prompt("text", 3, "{{question}}"), "embedded", GenerationParams(stop=("x",)), "d"),
        Arm("chat", Prompt("chat", 1, (Message("user", "{{question}}"),)), "embedded", GenerationParams(), "d"),
    )
    questions = QuestionSet("mine.csv", (Question("1", "Why?", "So.", columns={"level": "5"}), Question("2", "Who?")))
    config = ExperimentConfig(tracking_uri="http://me:secret@127.0.0.1:1", state=str(tmp_path), samples=2)
    return ExperimentPlan("0" * 32, "1", config, arms, questions)


def _answer(key: str, **changes: object) -> Answer:
    answer = Answer(
        key, 1, "text", "1", 0, "Why?", "Be\u2028cause \U0001f600", "", True, 1, 2, 3, 4, 5, scores={"empty": 0.0}
    )
    return replace(answer, **changes)  # type: ignore[arg-type]


def test_plan_is_read_back_unchanged(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    Journal.create(plan).close()
    journal = Journal.open(plan.config, plan.run_id)
    assert journal.plan == plan
    assert [arm.digest for arm in journal.plan.arms] == [arm.digest for arm in plan.arms]
    assert len(journal.unanswered()) == 8
    journal.close()
    assert "secret" not in (journal.folder / "plan.json").read_text()
    assert (journal.folder / "plan.json").stat().st_mode & 0o077 == 0


def test_plan_of_an_older_version_resumes_with_the_same_keys(tmp_path: Path) -> None:
    """A plan from before arms had a format."""
    plan = _plan(tmp_path)
    journal = Journal.create(plan)
    keys = [cell.key for cell in journal.unanswered()]
    journal.append(_answer(keys[0]))
    journal.close()
    path = journal.folder / "plan.json"
    content = json.loads(path.read_text())
    for arm in content["arms"]:
        del arm["format"], arm["prompt"]["format"], arm["prompt"]["system"]
    for name in ("format", "generation_defaults", "chosen_settings"):
        del content["config"][name]
    path.write_text(json.dumps(content))
    again = Journal.open(plan.config, plan.run_id)
    assert [cell.key for cell in again.unanswered()] == keys[1:]
    text, chat = again.plan.arms
    assert (text.sent_prompt and text.sent_prompt.template) == "{{question}}"
    assert (chat.sent_prompt and chat.sent_prompt.template) == (Message("user", "{{question}}"),)
    again.close()


def test_format_is_part_of_the_plan_and_of_every_key(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    chat = replace(plan, run_id="1" * 32, arms=(replace(plan.arms[0], format="chat"), plan.arms[1]))
    journals = [Journal.create(plan), Journal.create(chat)]
    keys = [{cell.key for cell in journal.unanswered() if cell.arm == "text"} for journal in journals]
    assert not keys[0] & keys[1]
    for journal in journals:
        journal.close()
    again = Journal.open(plan.config, chat.run_id)
    assert again.plan.arms[0].format == "chat"
    again.close()


def test_unanswered_cells_exclude_answers_and_final_errors(tmp_path: Path) -> None:
    journal = Journal.create(_plan(tmp_path))
    first, second, third = (cell.key for cell in journal.unanswered()[:3])
    journal.append(_answer(first))
    journal.append(_answer(second, error="refused", final=False))
    journal.append(_answer(third, error="too long", final=True))
    journal.close()
    again = Journal.open(journal.plan.config, journal.plan.run_id)
    waiting = again.unanswered()
    assert len(waiting) == 6
    assert [(cell.key, cell.attempt) for cell in waiting if cell.attempt > 1] == [(second, 2)]
    again.append(_answer(second, attempt=2))
    assert len(again.unanswered()) == 5
    assert [(answer.key, answer.error) for answer in again.latest()] == [(first, ""), (second, ""), (third, "too long")]
    assert again.answers[0] == _answer(first)
    again.close()


def test_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    journal = Journal.create(_plan(tmp_path))
    journal.append(_answer("a"))
    journal.close()
    path = journal.folder / "answers.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "b", "att')
    again = Journal.open(journal.plan.config, journal.plan.run_id)
    assert [answer.key for answer in again.answers] == ["a"]
    again.append(_answer("c"))
    again.close()
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_only_one_process_can_open_a_journal(tmp_path: Path) -> None:
    journal = Journal.create(_plan(tmp_path))
    with pytest.raises(FledgeError, match="is already running in another process"):
        Journal.open(journal.plan.config, journal.plan.run_id)
    journal.close()
    Journal.open(journal.plan.config, journal.plan.run_id).close()


def test_answer_after_close_is_refused(tmp_path: Path) -> None:
    journal = Journal.create(_plan(tmp_path))
    journal.close()
    with pytest.raises(FledgeError, match="the experiment has ended"):
        journal.append(_answer("a"))
    assert (journal.folder / "answers.jsonl").read_bytes() == b""


def test_unknown_experiment_is_refused(tmp_path: Path) -> None:
    for name in ("nothing", "../../etc", ""):
        with pytest.raises(InputError, match="no experiment"):
            Journal.open(Workspace(state=str(tmp_path)), name)


def test_experiment_is_found_by_prefix_or_as_the_last_unfinished_one(tmp_path: Path) -> None:
    ids = ["abcd" + character * 28 for character in "123"]
    workspace = Workspace(state=str(tmp_path))
    with pytest.raises(InputError, match="is unfinished"):
        Journal.open(workspace, "last")
    for moment, run_id in enumerate(ids):
        journal = Journal.create(replace(_plan(tmp_path), run_id=run_id))
        os.utime(journal.folder / "plan.json", (moment, moment))
        if run_id == ids[2]:
            for cell in journal.unanswered():
                journal.append(_answer(cell.key, arm=cell.arm, sample=cell.sample))
        journal.mark_finished()  # has no effect while answers are missing
        journal.close()
    (tmp_path / "experiments" / ("abcd4" + "0" * 27)).mkdir()  # as of a comparison with a judge, without a plan
    for name, found in (("last", ids[1]), ("abcd1", ids[0]), (ids[2], ids[2]), ("abcd3", ids[2])):
        journal = Journal.open(workspace, name)
        assert journal.plan.run_id == found
        journal.close()
    with pytest.raises(InputError, match="3 runs begin with 'abcd'"):
        Journal.open(workspace, "abcd")
    for name in ("abcd4", "abc"):
        with pytest.raises(InputError, match=f"no experiment '{name}'"):
            Journal.open(workspace, name)


def test_damaged_plan_is_refused(tmp_path: Path) -> None:
    journal = Journal.create(_plan(tmp_path))
    journal.close()
    (journal.folder / "plan.json").write_text("{")
    with pytest.raises(FledgeError, match="is damaged"):
        Journal.open(journal.plan.config, journal.plan.run_id)


def test_full_disk_loses_no_stored_answer(tmp_path: Path) -> None:
    journal = Journal.create(_plan(tmp_path))
    journal.append(_answer("a"))
    size = (journal.folder / "answers.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(FledgeError, match="cannot write an answer"):
            journal.append(_answer("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    journal.append(_answer("c"))
    journal.close()
    again = Journal.open(journal.plan.config, journal.plan.run_id)
    assert [answer.key for answer in again.answers] == ["a", "c"]
    again.close()
