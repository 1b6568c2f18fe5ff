"""Few-shot arms: examples before the question, never from the questions asked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.core.types import Message
from fledge.experiments._mlflow_experiments import load_settings, load_table
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.experiments.shots import few_shot, register_few_shot
from fledge.prompts.prompt import Prompt
from fledge.prompts.store import open_prompts
from fledge.questions.layout import QuestionLayout
from fledge.questions.question_set import Question

SHOTS = (Question("a", "1 + 1?", "one and one {{makes}}\n#### 2"), Question("b", "2 + 2?", "#### 4"))
CHAT = Prompt("kind", 3, "{{question}}", system="Be kind.", settings={"max_tokens": 5})


def config(workspace: Workspace, **changes: object) -> ExperimentConfig:
    basis = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, engine="scripted")
    return replace(basis, **changes)  # type: ignore[arg-type]


def write_rows(path: Path, count: int, *, start: int = 0) -> str:
    rows = [{"question": f"What is {n} + 1?", "answer": f"{n} and one. #### {n + 1}"} for n in range(start, count)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_examples_become_earlier_turns_of_a_chat() -> None:
    draft = few_shot(CHAT, "chat", SHOTS, "train.jsonl")
    assert draft.name == "kind-2-shot"
    assert draft.settings == {"max_tokens": 5}
    filled = Prompt("x", 1, draft.template).fill({"question": "3 + 3?"})
    assert filled == (
        Message("system", "Be kind."),
        Message("user", "1 + 1?"),
        Message("assistant", "one and one {{makes}}\n#### 2"),
        Message("user", "2 + 2?"),
        Message("assistant", "#### 4"),
        Message("user", "3 + 3?"),
    )


def test_examples_precede_a_text_to_complete() -> None:
    prompt = Prompt("qa", 1, "Q: {{question}}\nA:")
    draft = few_shot(prompt, "completion", SHOTS[1:], "train.jsonl")
    filled = Prompt("x", 1, draft.template).fill({"question": "3 + 3?"})
    assert filled == "Q: 2 + 2?\nA: #### 4\n\nQ: 3 + 3?\nA:"


def test_turns_with_the_question_are_repeated_for_each_example() -> None:
    ends_without = (Message("system", "Be short."), Message("user", "{{question}}"), Message("user", "Go."))
    draft = few_shot(Prompt("two", 1, ends_without), "chat", SHOTS[1:], "train.jsonl")
    assert Prompt("x", 1, draft.template).fill({"question": "3 + 3?"}) == (
        Message("system", "Be short."),
        Message("user", "2 + 2?"),
        Message("user", "Go."),
        Message("assistant", "#### 4"),
        Message("user", "3 + 3?"),
        Message("user", "Go."),
    )
    prefilled = (Message("user", "{{question}}"), Message("assistant", "Answer is"))
    with pytest.raises(InputError, match="prompt prefilled/1 takes no examples"):
        few_shot(Prompt("prefilled", 1, prefilled), "chat", SHOTS, "train.jsonl")


def test_braces_in_examples_are_literal() -> None:
    shots = (Question("a", r"f'{question}' and \{\{x\}\}", "{% raw %} {{y}}"),)
    draft = few_shot(CHAT, "chat", shots, "train.jsonl")
    filled = Prompt("x", 1, draft.template).fill({"question": "3 + 3?"})
    assert [turn.content for turn in filled][1:3] == [shots[0].question, shots[0].reference]  # type: ignore[union-attr]


def test_each_prompt_runs_with_and_without_examples(workspace: Workspace, tmp_path: Path) -> None:
    asked = write_rows(tmp_path / "test.jsonl", 6)
    layout = QuestionLayout(("reference=answer",), r"#### (\d+)")
    configured = config(
        workspace,
        prompts=("simple",),
        questions=asked,
        shots=(0, 2),
        shots_from=write_rows(tmp_path / "train.jsonl", 20),  # includes the six questions asked
        layout=layout,
        scorers=("number",),
    )
    result = run_experiment(configured)
    assert [arm.name for arm in result.arms] == ["simple", "simple-2-shot"]
    assert result.arms[1].prompt == "simple-2-shot/1"
    table = load_table(MlflowClient(workspace.tracking_uri), result.run_id)
    assert set(table["reference"]) == {"1", "2", "3", "4", "5", "6"}
    lines = next(Path(workspace.state).rglob("answers.jsonl")).read_text().splitlines()
    prompts = [line["prompt_text"] for line in map(json.loads, lines) if line["arm"] == "simple-2-shot"]
    assert len(prompts) == 6
    for text in prompts:
        *examples, question = text.split("\n\n")
        assert len(examples) == 2
        assert all("and one. ####" in example for example in examples)
        numbers = [int(example.partition("What is ")[2].partition(" +")[0]) for example in examples]
        assert min(numbers) >= 6
        assert "and one" not in question
    again = run_experiment(configured)
    assert [arm.digest for arm in again.arms] == [arm.digest for arm in result.arms]


def test_repeated_experiment_uses_the_same_examples(workspace: Workspace, tmp_path: Path) -> None:
    layout = QuestionLayout(("reference=answer",))
    asked = write_rows(tmp_path / "test.jsonl", 8)
    first = run_experiment(
        config(workspace, prompts=("simple",), shots=(0, 2), questions=asked, limit=4, layout=layout)
    )
    client = MlflowClient(workspace.tracking_uri)
    again = run_experiment(ExperimentConfig.load({**load_settings(client, first.run_id), **vars(workspace)}))
    assert [arm.name for arm in again.arms] == ["simple", "simple-2-shot"]
    assert [arm.digest for arm in again.arms] == [arm.digest for arm in first.arms]


def test_examples_come_from_questions_that_are_not_asked(workspace: Workspace, tmp_path: Path) -> None:
    asked = write_rows(tmp_path / "test.jsonl", 5)
    layout = QuestionLayout(("reference=answer",))
    arms = (ArmConfig("simple"), ArmConfig("simple", "shown", shots=1))
    result = run_experiment(config(workspace, arms=arms, questions=asked, limit=4, layout=layout))
    assert [arm.name for arm in result.arms] == ["simple", "shown"]
    with pytest.raises(InputError, match=r"needs 2 examples with a reference, and .* has 1") as caught:
        run_experiment(config(workspace, prompts=("simple",), shots=(2,), questions=asked, limit=4, layout=layout))
    assert "4 are asked in the experiment" in caught.value.message
    assert "--shots-from" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"shots": (-1,)}, "shots must be numbers from 0 to 64"),
        ({"shots": (65,)}, "shots must be numbers from 0 to 64"),
        ({"shots": ()}, "shots must be numbers from 0 to 64"),
        ({"shots_from": "train.jsonl"}, "needs an arm with examples"),
        ({"answer_pattern": "("}, "invalid regular expression"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises((InputError, ValueError), match=problem):
        ExperimentConfig(**settings)  # type: ignore[arg-type]


def test_answer_pattern_is_scored(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "the answer is Paris, I say", "reference": "paris"}')
    result = run_experiment(
        config(workspace, prompts=("simple",), questions=str(tmp_path / "q.jsonl"), answer_pattern=r"is (\w+)")
    )
    assert "answer_pattern" in result.arms[0].metrics


def test_few_shot_prompt_is_registered_once_for_each_format(workspace: Workspace) -> None:
    store = open_prompts(workspace=workspace)
    chat = few_shot(Prompt("kind", 1, "{{question}}"), "chat", SHOTS, "train.jsonl")
    text = few_shot(Prompt("kind", 1, "{{question}}"), "completion", SHOTS, "train.jsonl")
    first = [register_few_shot(draft, store).version for draft in (chat, text)]
    assert first == [1, 2]
    assert [register_few_shot(draft, store).version for draft in (chat, text)] == first
