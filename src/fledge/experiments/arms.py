"""Arms: what is compared, one thing each of prompt version x model x generation settings."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import Format
from fledge.engines.selection import RemoteModel
from fledge.experiments.config import SAMPLING_TEMPERATURE, ArmConfig, ExperimentConfig
from fledge.models.generation_config import read_sampling
from fledge.models.snapshot import Snapshot
from fledge.prompts import format as formats
from fledge.prompts.prompt import Prompt, PromptFormat, parse_reference
from fledge.questions.question_set import KNOWN, Question, QuestionSet

# What MLflow calls a prompt's settings, and the field of GenerationParams that it sets.
PROMPT_SETTINGS = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
}

Model = Snapshot | RemoteModel
HIDDEN = tuple(name for name in KNOWN if name != "question")
_SINGLE_BRACES = re.compile(r"(?<!\{)\{([A-Za-z_]\w*)\}(?!\})")


@dataclass(frozen=True)
class Arm:
    """One arm, pinned: the prompt's text, the model's digest (a remote one's URL), mode, and generation settings.

    `prompt` is None for a chain of the user's own, whose `chain` describes it. `run_id` and `model_id` are MLflow's.
    `engine` is the name of the engine that answers, and `format` how the prompt is put to the model; both are unknown
    in older plans.
    """

    name: str
    prompt: Prompt | None
    model: str
    generation: GenerationParams
    model_digest: str = ""
    mode: str = "exact"
    chain: str = ""
    run_id: str = ""
    model_id: str = ""
    format: Format | None = None
    engine: str = ""

    @property
    def asked(self) -> Prompt | None:
        """The prompt with the template that the model is asked by."""
        return formats.apply_format(self.prompt, self.format) if self.prompt else None

    @property
    def label(self) -> str:
        """The prompt version as `name/version`; empty for a chain of the user's own."""
        return self.prompt.label if self.prompt else ""

    @property
    def digest(self) -> str:
        """SHA-256 over all that makes an answer: prompt version with its settings, as it is put to the model; model,
        generation settings."""
        prompt = self.asked
        content = {
            "prompt": [prompt.label, prompt.text, dict(prompt.settings)] if prompt else self.chain,
            "model": self.model_digest,
            "generation": asdict(self.generation),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def params(self, sample: int) -> GenerationParams:
        """Generation settings of one sample: each has a seed of its own."""
        return self.generation.for_sample(sample)

    def key(self, question: Question, sample: int) -> str:
        """What tells one answer from every other: two cells with the same key have the same answer."""
        parts = [self.name, self.digest, question.id, question.question, sample, self.params(sample).seed, self.mode]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def select_arms(config: ExperimentConfig) -> list[ArmConfig]:
    """The arms that a configuration means: its own, or each of its prompts with each number of examples and model.

    Raises `InputError` for what cannot be the name of a prompt.
    """
    models = list(dict.fromkeys((config.model, *config.more_models)))
    counts = list(dict.fromkeys(config.shots))
    arms = config.arms or [
        ArmConfig(prompt, "", model, shots=count) for prompt in config.prompts for count in counts for model in models
    ]
    for arm in arms:
        parse_reference(arm.prompt or "question")
    return [replace(arm, model=arm.model or config.model) for arm in arms]


def build_arms(
    config: ExperimentConfig, arms: Sequence[ArmConfig], prompts: Sequence[Prompt], models: Mapping[str, Model]
) -> list[Arm]:
    """An arm for each pair of what is wanted and its loaded prompt; `models` are what the arms' models name.

    A prompt's own settings (MLflow's `model_config`) come before the experiment's, an arm's before both; of formats an
    arm's comes before the experiment's, and that before the prompt's own. Raises `InputError` for two arms of the same
    name, settings that no engine takes, or a format that a model does not.
    """
    built = []
    for arm, prompt in zip(arms, prompts, strict=True):
        model = models[arm.model]
        generation = resolve_generation(default_generation(config, model), prompt, arm.generation)
        form = resolve_format(prompt, model, arm.format if arm.format != "auto" else config.format)
        built.append(Arm(arm.name, prompt, arm.model, generation, format=form))
    named = [replace(arm, name=name) for arm, name in zip(built, _names(built), strict=True)]
    twice = [name for name, count in Counter(arm.name for arm in named).items() if count > 1]
    if twice:
        raise InputError(f"prompt named twice: {', '.join(twice)}", hint="give each arm once, or a name of its own")
    return named


def default_prompt(model: Model) -> str:
    """The prompt of a model where none is named: a model that chats is asked the question itself."""
    return "question" if isinstance(model, RemoteModel) or model.has_chat_template else "simple"


def resolve_format(prompt: Prompt, model: Model, wanted: PromptFormat = "auto") -> Format:
    """How a prompt is put to a model. Raises `InputError` where it cannot be as `wanted`, or as the prompt says."""
    takes: list[Format] = []
    if isinstance(model, RemoteModel) or model.has_chat_template:
        takes.append("chat")
    if isinstance(model, Snapshot):
        takes.append("completion")
    return formats.resolve_format(prompt, wanted, model.source, takes)


def default_generation(config: ExperimentConfig, model: Model) -> GenerationParams:
    """Generation settings before those of a prompt: as configured, and with `--generation model` what is not set as the
    model's own file says. Raises `InputError` where that cannot be."""
    if config.generation_defaults == "greedy":
        return config.generation
    if isinstance(model, RemoteModel):
        raise InputError(
            f"{model.source} is a URL, whose own generation settings cannot be read",
            hint="leave out --generation model",
        )
    drawn = {"temperature": SAMPLING_TEMPERATURE} if config.samples > 1 else {}
    values = {name: value for name, value in {**drawn, **read_sampling(model)}.items() if not config.sets(name)}
    try:
        return replace(config.generation, **values)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{model.source}/generation_config.json: {error}", hint="set it yourself, or leave out --generation model"
        ) from None


def resolve_generation(
    generation: GenerationParams, prompt: Prompt, own: Mapping[str, Any] = MappingProxyType({})
) -> GenerationParams:
    """Generation settings with those that the prompt itself brings along, and then `own`.

    Raises `InputError` for settings that no engine takes.
    """
    found: dict[str, Any] = {
        field: prompt.settings[name] for name, field in PROMPT_SETTINGS.items() if name in prompt.settings
    }
    found |= own
    if "stop" in found:
        found["stop"] = tuple(found["stop"])
    try:
        return replace(generation, **found)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"prompt {prompt.label} with its settings {dict(prompt.settings)}: {error}", hint="fix its settings"
        ) from None


def _names(arms: Sequence[Arm]) -> list[str]:
    """The prompt's name; with its version where several are compared, and with the model where there are several."""
    versions: dict[str, set[str]] = {}
    for arm in arms:
        versions.setdefault(arm.label.rpartition("/")[0], set()).add(arm.label)
    several = len({arm.model for arm in arms}) > 1
    names = []
    for arm in arms:
        prompt = arm.label.rpartition("/")[0]
        name = arm.label if len(versions[prompt]) > 1 else prompt
        model = arm.model.rstrip("/").rpartition("/")[2].rpartition("#")[2]
        names.append(arm.name or (f"{name}:{model}" if several else name))
    return names


def check_variables(arms: Sequence[Arm], questions: QuestionSet) -> None:
    """Raise `InputError` unless every question has what every prompt asks for, and no prompt asks in single braces."""
    columns = {name for item in questions.questions for name in item.variables}
    for arm in arms:
        if arm.prompt is None:
            continue
        for name in arm.prompt.variables:
            if name in HIDDEN and name not in columns:
                what = f"prompt {arm.label} asks for {name!r}, which no model is shown"
                raise InputError(what, hint="a prompt takes question, and further columns")
            for item in questions.questions:
                if name not in item.variables:
                    raise InputError(
                        f"prompt {arm.label} needs {name!r}, which question {item.id!r} of {questions.source} does not "
                        "have",
                        hint=f"add a column {name!r} to the question set, or leave the prompt out with --prompts",
                    )
        single = sorted(columns & set(_SINGLE_BRACES.findall(arm.prompt.text)))
        if single:
            raise InputError(
                f"prompt {arm.label} has {{{single[0]}}} in single braces, which nothing fills in",
                hint=f"write {{{{{single[0]}}}}}: fledge prompts register FILE",
            )


def check_room(arms: Sequence[Arm], models: Mapping[str, Model]) -> None:
    """Raise `InputError` for an answer that may be as long as the model's context."""
    for arm in arms:
        model, tokens = models[arm.model], arm.generation.max_tokens
        if isinstance(model, Snapshot) and tokens >= model.context:
            raise InputError(
                f"--max-tokens {tokens} leaves no room for a prompt: the context window of {arm.model} is "
                f"{model.context} tokens",
                hint=f"--max-tokens {model.context // 4}",
            )


def own_arms(chains: Mapping[str, Any], taken: Sequence[Arm]) -> list[Arm]:
    """An arm for each chain of the user's own."""
    twice = sorted({arm.name for arm in taken} & set(chains))
    if twice:
        raise InputError(f"arm named twice: {', '.join(twice)}", hint="give your chain another name")
    return [Arm(name, None, "", GenerationParams(), chain=_described(chain)) for name, chain in chains.items()]


def _described(chain: Any) -> str:
    """What a chain is made of, as LangChain tells it; without addresses, which differ from process to process."""
    return re.sub(r"0x[0-9a-f]+", "", repr(chain))
