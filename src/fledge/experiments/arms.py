"""Arms: the variants of an experiment, each a combination of prompt version, model and generation settings."""

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

# MLflow's names of a prompt's settings, and the fields of GenerationParams.
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
    """One arm with everything that determines its answers: prompt, model digest (a URL for a remote one), mode,
    generation settings.

    `prompt` is None for a custom chain, which `chain` describes. `run_id` and `model_id` are MLflow's. `engine` is the
    engine's name and `format` the prompt's; both are unset in plans of older versions.
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
    def sent_prompt(self) -> Prompt | None:
        """The prompt in the format in which it is sent to the model."""
        return formats.apply_format(self.prompt, self.format) if self.prompt else None

    @property
    def label(self) -> str:
        """The prompt version as `name/version`; empty for a custom chain."""
        return self.prompt.label if self.prompt else ""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines an answer: the prompt as sent, its settings, model, generation
        settings."""
        prompt = self.sent_prompt
        content = {
            "prompt": [prompt.label, prompt.text, dict(prompt.settings)] if prompt else self.chain,
            "model": self.model_digest,
            "generation": asdict(self.generation),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def params(self, sample: int) -> GenerationParams:
        """Return the generation settings of one sample, with its own seed."""
        return self.generation.for_sample(sample)

    def key(self, question: Question, sample: int) -> str:
        """Return the key of a cell; cells with the same key have the same answer."""
        parts = [self.name, self.digest, question.id, question.question, sample, self.params(sample).seed, self.mode]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def select_arms(config: ExperimentConfig) -> list[ArmConfig]:
    """Return the arms of a configuration: `arms` if set, else each prompt with each number of examples and model.

    Raises `InputError` for an invalid prompt name.
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
    """Return an arm for each configured arm and its loaded prompt; `models` holds the arms' models by name.

    Generation settings take precedence in the order arm, prompt (MLflow's `model_config`), experiment; formats in the
    order arm, experiment, prompt. Raises `InputError` for duplicate names, invalid settings, or a format that the
    model does not support.
    """
    built = []
    grammar = config.grammar
    for arm, prompt in zip(arms, prompts, strict=True):
        model = models[arm.model]
        generation = resolve_generation(default_generation(config, model), prompt, arm.generation)
        generation = replace(generation, grammar=grammar) if grammar else generation
        form = resolve_format(prompt, model, arm.format if arm.format != "auto" else config.format)
        built.append(Arm(arm.name, prompt, arm.model, generation, format=form))
    named = [replace(arm, name=name) for arm, name in zip(built, _names(built), strict=True)]
    twice = [name for name, count in Counter(arm.name for arm in named).items() if count > 1]
    if twice:
        raise InputError(f"duplicate arm: {', '.join(twice)}", hint="list each arm once, or give it its own name")
    return named


def default_prompt(model: Model) -> str:
    """Return the name of a model's default prompt: `question` for a chat model, else `simple`."""
    return "question" if isinstance(model, RemoteModel) or model.has_chat_template else "simple"


def resolve_format(prompt: Prompt, model: Model, wanted: PromptFormat = "auto") -> Format:
    """Return the format of a prompt for a model. Raises `InputError` if the model does not support the `wanted` one,
    or the prompt's own."""
    takes: list[Format] = []
    if isinstance(model, RemoteModel) or model.has_chat_template:
        takes.append("chat")
    if isinstance(model, Snapshot):
        takes.append("completion")
    return formats.resolve_format(prompt, wanted, model.source, takes)


def default_generation(config: ExperimentConfig, model: Model) -> GenerationParams:
    """Return the generation settings that a prompt's settings override: the configured ones, and with
    `--generation model` the model's own for those not set. Raises `InputError` if the model has no valid ones."""
    if config.generation_defaults == "greedy":
        return config.generation
    if isinstance(model, RemoteModel):
        raise InputError(
            f"--generation model cannot read the settings of a URL: {model.source}",
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
    """Return generation settings, overridden by the prompt's and then by `own`. Raises `InputError` if invalid."""
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
            f"invalid settings {dict(prompt.settings)} of prompt {prompt.label}: {error}", hint="fix the settings"
        ) from None


def _names(arms: Sequence[Arm]) -> list[str]:
    """Return the arms' names: the prompt's, plus its version or the model where the arms differ in them."""
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
    """Raise `InputError` if a question lacks a variable of a prompt, or a prompt has one in single braces."""
    columns = {name for item in questions.questions for name in item.variables}
    for arm in arms:
        if arm.prompt is None:
            continue
        for name in arm.prompt.variables:
            if name in HIDDEN and name not in columns:
                what = f"prompt {arm.label} uses the column {name!r}, which is never sent to a model"
                raise InputError(what, hint="use {{question}} and columns of your own")
            for item in questions.questions:
                if name not in item.variables:
                    raise InputError(
                        f"prompt {arm.label} needs {name!r}, which question {item.id!r} of {questions.source} does not "
                        "have",
                        hint=f"add a column {name!r} to the question set, or leave the prompt out of --prompts",
                    )
        single = sorted(columns & set(_SINGLE_BRACES.findall(arm.prompt.text)))
        if single:
            raise InputError(
                f"prompt {arm.label} has {{{single[0]}}} in single braces, which is not a variable",
                hint=f"write {{{{{single[0]}}}}}: fledge prompts register FILE",
            )


def check_room(arms: Sequence[Arm], models: Mapping[str, Model]) -> None:
    """Raise `InputError` if `max_tokens` of an arm fills the model's context window."""
    for arm in arms:
        model, tokens = models[arm.model], arm.generation.max_tokens
        if isinstance(model, Snapshot) and tokens >= model.context:
            raise InputError(
                f"--max-tokens {tokens} leaves no room for a prompt: the context window of {arm.model} is "
                f"{model.context} tokens",
                hint=f"--max-tokens {model.context // 4}",
            )


def build_chain_arms(chains: Mapping[str, Any], taken: Sequence[Arm]) -> list[Arm]:
    """Return an arm for each custom chain. Raises `InputError` for a name that is already taken."""
    twice = sorted({arm.name for arm in taken} & set(chains))
    if twice:
        raise InputError(f"duplicate arm: {', '.join(twice)}", hint="give your chain another name")
    return [Arm(name, None, "", GenerationParams(), chain=_describe_chain(chain)) for name, chain in chains.items()]


def _describe_chain(chain: Any) -> str:
    """Return LangChain's description of a chain, without addresses, which differ between processes."""
    return re.sub(r"0x[0-9a-f]+", "", repr(chain))
