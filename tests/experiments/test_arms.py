"""Arms: their names, settings, formats and digests."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines.selection import RemoteModel
from fledge.experiments.arms import (
    Arm,
    Model,
    build_arms,
    build_chain_arms,
    check_variables,
    default_generation,
    default_prompt,
    select_arms,
)
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.models import snapshot
from fledge.prompts.prompt import Prompt, PromptFormat
from fledge.questions.question_set import Question, QuestionSet
from tests.models.instruct_model import write_instruct_model

CHAT = (Message("user", "Q: {{question}}"),)


def _prompt(label: str, **changes: Any) -> Prompt:
    name, _, version = label.partition("/")
    return Prompt(name, int(version or 1), "Q: {{question}}", **changes)


def _build(config: ExperimentConfig) -> list[Arm]:
    asked = select_arms(config)
    models = {arm.model: snapshot.resolve("embedded") for arm in asked}
    return build_arms(config, asked, [_prompt(arm.prompt) for arm in asked], models)


def test_each_prompt_is_combined_with_each_model() -> None:
    arms = _build(ExperimentConfig(prompts=("a", "b"), model="embedded", more_models=("org/other", "org/other")))
    assert [(arm.name, arm.model) for arm in arms] == [
        ("a:embedded", "embedded"),
        ("a:other", "org/other"),
        ("b:embedded", "embedded"),
        ("b:other", "org/other"),
    ]


def test_arm_names_omit_versions_unless_needed() -> None:
    assert [arm.name for arm in _build(ExperimentConfig(prompts=("a", "b/2")))] == ["a", "b"]
    assert [arm.name for arm in _build(ExperimentConfig(prompts=("a/1", "a/2")))] == ["a/1", "a/2"]


def test_duplicate_arm_is_rejected() -> None:
    with pytest.raises(InputError, match="duplicate arm: a"):
        _build(ExperimentConfig(prompts=("a", "a")))


def test_arms_can_differ_in_generation_settings() -> None:
    config = ExperimentConfig(
        arms=(ArmConfig("a", "cold"), ArmConfig("a", "hot", generation={"temperature": 0.9, "max_tokens": 7})),
        generation=GenerationParams(top_k=3),
    )
    cold, hot = _build(config)
    assert (cold.name, cold.generation.temperature, cold.generation.top_k) == ("cold", 0.0, 3)
    assert (hot.name, hot.generation.temperature, hot.generation.top_k, hot.generation.max_tokens) == ("hot", 0.9, 3, 7)


def test_settings_of_an_arm_override_its_prompt_which_overrides_the_experiment() -> None:
    settings = {"temperature": 0.4, "max_tokens": 11, "stop_sequences": ["x"], "provider": "openai"}
    prompt = _prompt("a", settings=settings)
    config = ExperimentConfig(generation=GenerationParams(max_tokens=5, top_p=0.5))
    arms = [ArmConfig("a", model="m", generation={"temperature": 0.1})]
    (arm,) = build_arms(config, arms, [prompt], {"m": snapshot.resolve("embedded")})
    assert arm.generation == GenerationParams(max_tokens=11, temperature=0.1, top_p=0.5, stop=("x",))


def test_invalid_settings_of_a_prompt_are_refused() -> None:
    with pytest.raises(InputError, match=r"invalid settings .* of prompt a/1: .*temperature must be from 0 to 2"):
        build_arms(
            ExperimentConfig(),
            [ArmConfig("a", model="m")],
            [_prompt("a", settings={"temperature": 3.0})],
            {"m": snapshot.resolve("embedded")},
        )


def test_digest_covers_everything_that_determines_answers() -> None:
    arm = Arm("a", _prompt("a"), "embedded", GenerationParams(), model_digest="d")
    assert arm.digest == replace(arm, name="other", run_id="r", model_id="m", model="elsewhere").digest
    assert arm.digest == replace(arm, prompt=_prompt("a", aliases=("champion",), tags={"x": "y"})).digest
    different = [
        replace(arm, prompt=_prompt("a/2")),
        replace(arm, prompt=replace(_prompt("a"), template="{{question}}?")),
        replace(arm, prompt=_prompt("a", settings={"temperature": 0.5})),
        replace(arm, model_digest="e"),
        replace(arm, generation=GenerationParams(temperature=0.5)),
        replace(arm, format="chat"),
        replace(arm, format="chat", prompt=_prompt("a", system="Be kind.")),
    ]
    assert len({arm.digest, *(other.digest for other in different)}) == 8
    assert arm.digest == replace(arm, format="completion").digest  # the format that older plans imply


def test_prompt_format_depends_on_the_model(tmp_path: Path) -> None:
    models: dict[str, Model] = {
        "embedded": snapshot.resolve("embedded"),
        "instruct": snapshot.resolve(str(write_instruct_model(tmp_path / "instruct"))),
        "http://127.0.0.1:1/v1#m": RemoteModel("http://127.0.0.1:1/v1#m"),
    }
    config = ExperimentConfig(prompts=("a",), model="embedded", more_models=tuple(models))
    asked = select_arms(config)
    arms = build_arms(config, asked, [_prompt("a") for _ in asked], models)
    assert [arm.format for arm in arms] == ["completion", "chat", "chat"]
    assert [arm.sent_prompt and arm.sent_prompt.template for arm in arms] == ["Q: {{question}}"] + [CHAT] * 2


def test_format_of_an_arm_overrides_the_experiment_which_overrides_the_prompt(tmp_path: Path) -> None:
    models: dict[str, Model] = {"m": snapshot.resolve(str(write_instruct_model(tmp_path / "instruct")))}

    def resolve_format(config: PromptFormat, arm: PromptFormat, own: PromptFormat) -> str | None:
        arms = [ArmConfig("a", model="m", format=arm)]
        (found,) = build_arms(ExperimentConfig(format=config), arms, [_prompt("a", format=own)], models)
        return found.format

    assert resolve_format("auto", "auto", "completion") == "completion"
    assert resolve_format("chat", "auto", "completion") == "chat"
    assert resolve_format("chat", "completion", "chat") == "completion"


def test_chat_format_needs_a_chat_template() -> None:
    with pytest.raises(InputError, match="prompt a/1 cannot be sent as chat: embedded has no chat template"):
        _build(ExperimentConfig(prompts=("a",), format="chat"))


def test_default_prompt_depends_on_the_chat_template(tmp_path: Path) -> None:
    instruct = snapshot.resolve(str(write_instruct_model(tmp_path / "instruct")))
    assert default_prompt(snapshot.resolve("embedded")) == "simple"
    assert default_prompt(instruct) == default_prompt(RemoteModel("http://127.0.0.1:1/v1")) == "question"


def test_sampling_settings_of_the_model_are_defaults(tmp_path: Path) -> None:
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}
    models: dict[str, Model] = {"m": snapshot.resolve(str(write_instruct_model(tmp_path / "instruct", **sampling)))}

    def resolve_generation(flags: dict[str, Any], prompt: Prompt, **arm: Any) -> GenerationParams:
        config = ExperimentConfig.load({"generation_defaults": "model", **flags})
        again = ExperimentConfig.load({**config.as_dict()})  # like --like
        (found,) = build_arms(config, [ArmConfig("a", model="m", **arm)], [prompt], models)
        (repeated,) = build_arms(again, [ArmConfig("a", model="m", **arm)], [prompt], models)
        assert found.generation == repeated.generation
        return found.generation

    own = GenerationParams(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1)
    assert resolve_generation({}, _prompt("a")) == own
    assert resolve_generation({"samples": 3}, _prompt("a")) == own
    assert resolve_generation({"temperature": 0.0, "seed": 4}, _prompt("a")) == replace(own, temperature=0.0, seed=4)
    assert resolve_generation({}, _prompt("a", settings={"top_p": 0.5})) == replace(own, top_p=0.5)
    assert resolve_generation({}, _prompt("a"), generation={"top_k": 3}) == replace(own, top_k=3)
    greedy = ExperimentConfig.load({})
    assert build_arms(greedy, [ArmConfig("a", model="m")], [_prompt("a")], models)[0].generation == GenerationParams()


@pytest.mark.parametrize(("value", "problem"), [(5, "temperature must be from 0 to 2, not 5"), ("hot", "a number")])
def test_invalid_sampling_settings_of_a_model_are_refused(tmp_path: Path, value: object, problem: str) -> None:
    folder = write_instruct_model(tmp_path / "instruct", do_sample=True, temperature=value)
    config = ExperimentConfig(generation_defaults="model")
    with pytest.raises(InputError, match=rf"instruct/generation_config.json.*{problem}"):
        build_arms(config, [ArmConfig("a", model="m")], [_prompt("a")], {"m": snapshot.resolve(str(folder))})
    with pytest.raises(InputError, match="cannot read the settings of a URL"):
        default_generation(config, RemoteModel("http://127.0.0.1:1/v1"))


def test_each_sample_has_its_own_seed() -> None:
    seeds = {
        first: [Arm("a", _prompt("a"), "embedded", GenerationParams(seed=first)).params(it).seed for it in range(3)]
        for first in (5, 6, 2**63 - 1)
    }
    assert all(found[0] == first for first, found in seeds.items())
    assert len({seed for found in seeds.values() for seed in found}) == 9
    assert all(0 <= seed < 2**53 for found in seeds.values() for seed in found[1:])


def test_answer_key_depends_on_arm_question_sample_seed_and_mode() -> None:
    arm, question = Arm("a", _prompt("a"), "embedded", GenerationParams(seed=1)), Question("q", "Why?")
    other = replace(arm, generation=GenerationParams(seed=2))
    keys = {
        arm.key(question, 0),
        replace(arm, name="b").key(question, 0),
        other.key(question, 0),
        arm.key(replace(question, question="Who?"), 0),
        arm.key(replace(question, id="r"), 0),
        arm.key(question, 1),
        replace(arm, mode="fast").key(question, 0),
    }
    assert len(keys) == 7
    assert arm.key(replace(question, reference="Because.", topic="t"), 0) in keys


def test_prompt_variables_must_be_columns_of_the_questions() -> None:
    questions = QuestionSet("a.csv", (Question("1", "Why?", columns={"level": "5"}),))
    arm = Arm("a", replace(_prompt("a"), template="{{question}} at {{level}}, {x} {{}}"), "m", GenerationParams())
    check_variables([arm], questions)
    for template, text in (
        ("{{question}} {{topics}}", "prompt a/1 needs 'topics', which question '1' of a.csv does not have"),
        ("{{question}} at {level}", "prompt a/1 has {level} in single braces"),
    ):
        with pytest.raises(InputError, match=re.escape(text)):
            check_variables([replace(arm, prompt=replace(_prompt("a"), template=template))], questions)


def test_custom_chain_has_the_same_key_in_another_process() -> None:
    def chain() -> Any:
        return RunnableLambda(str.upper) | RunnableLambda(str.strip)

    assert build_chain_arms({"mine": chain()}, [])[0].digest == build_chain_arms({"mine": chain()}, [])[0].digest
    with pytest.raises(InputError, match="duplicate arm: a"):
        build_chain_arms({"a": chain()}, [Arm("a", None, "", GenerationParams())])


def test_all_problems_are_reported_together() -> None:
    flags = {
        "samples": 0,
        "concurrency": "many",
        "temperature": 9.0,
        "max_tokens": 0,
        "scorers": ("nonsense",),
        "tags": ("plain",),
        "cache_gb": -1,
    }
    with pytest.raises(InputError) as caught:
        ExperimentConfig.load(flags)
    for text in (
        "samples must be from 1 to 1000, not 0",
        "concurrency = 'many' (flag)",
        "temperature must be from 0 to 2, not 9",
        "max_tokens must be from 1 to 4096, not 0",
        "unknown scorer 'nonsense'",
        "tags must be key=value, not plain",
        "cache_gb must be from 0 to 4096, not -1",
    ):
        assert text in caught.value.message


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_settings_are_read_from_a_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"experiment.{suffix}"
    path.write_text(
        {
            "toml": 'samples = 3\nmax_tokens = 9\n[[arms]]\nprompt = "simple"\nname = "hot"\n'
            "generation = {temperature = 0.9}\n",
            "yaml": "samples: 3\nmax_tokens: 9\n"
            "arms:\n- prompt: simple\n  name: hot\n  generation: {temperature: 0.9}\n",
        }[suffix]
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEDGE_MAX_TOKENS", "10")
    (tmp_path / "fledge.toml").write_text("samples = 4\nlimit = 2\n")
    config = ExperimentConfig.load({"order_seed": 5}, file=path)
    assert (config.samples, config.generation.max_tokens, config.limit, config.order_seed) == (3, 10, 2, 5)
    assert config.arms == (ArmConfig("simple", "hot", generation={"temperature": 0.9}),)
    assert config.generation.temperature == 0.7  # the default for several samples


def test_unknown_setting_in_a_file_is_rejected(tmp_path: Any) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("sample: 3\n")
    with pytest.raises(InputError, match=r"experiment.yaml: unknown setting 'sample'"):
        ExperimentConfig.load(file=path)
    path.write_text("- a\n")
    with pytest.raises(InputError, match="no settings in it"):
        ExperimentConfig.load(file=path)
    path.write_text("a: [")
    with pytest.raises(InputError, match=r"experiment.yaml: "):
        ExperimentConfig.load(file=path)
    with pytest.raises(InputError, match="there is no such file"):
        ExperimentConfig.load(file=tmp_path / "none.toml")


def test_invalid_arm_in_a_file_is_rejected() -> None:
    with pytest.raises(InputError, match=r"arm 'hot': temperature must be from 0 to 2"):
        ExperimentConfig.load({"arms": [{"prompt": "a", "name": "hot", "generation": {"temperature": 5}}]})
    with pytest.raises(InputError, match="unexpected keyword argument 'heat'"):
        ExperimentConfig.load({"arms": [{"prompt": "a", "generation": {"heat": 5}}]})
