"""The configuration of an experiment: all of its options."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import regex
import yaml

from fledge.core.errors import InputError, StructureError
from fledge.core.generation import REQUEST_ONLY, GenerationParams
from fledge.core.settings import ENCODING, load, option, options, out_of_range
from fledge.engines.grammars.json_schema import json_schema_grammar
from fledge.engines.settings import EngineSettings
from fledge.models.embedded.templates import TEMPLATES
from fledge.prompts.prompt import PromptFormat
from fledge.questions.layout import QuestionLayout
from fledge.questions.question_set import QuestionSet
from fledge.scoring.catalogue import BUILT_IN, choose_scorers, find_scorer
from fledge.scoring.judge import JudgeConfig
from fledge.scoring.scorer import Scorer

SAMPLING_TEMPERATURE = 0.7
MOST_SHOTS = 64


@dataclass(frozen=True)
class ArmConfig:
    """One arm of a configuration; fields left out are as in the experiment.

    `generation` holds fields of `GenerationParams`. An empty `prompt` is the model's default: `question` for a chat
    model, else `simple`. `shots` is the number of examples before the question.
    """

    prompt: str
    name: str = ""
    model: str = ""
    generation: dict[str, Any] = field(default_factory=dict)
    format: PromptFormat = "auto"
    shots: int = 0


@dataclass(frozen=True)
class ExperimentConfig(EngineSettings):
    """Settings of an experiment: questions, models, prompts, scoring and recording."""

    experiment_name: str = option("fledge", "MLflow experiment", env="EXPERIMENT_NAME", group="Recording")
    model: str = option(
        "embedded",
        "embedded, smollm2, a local folder or GGUF file, a Hub model (org/name[/FILE.gguf][@revision]), or the URL of "
        "an OpenAI-compatible server",
    )
    more_models: tuple[str, ...] = option((), "further models to run every prompt on")
    prompts: tuple[str, ...] = option(tuple(TEMPLATES), "prompts as name, name/version or name@alias")
    arms: tuple[ArmConfig, ...] = option((), "arms of prompt, model and generation, instead of --prompts", flag=False)
    format: PromptFormat = option(
        "auto",
        "prompt format: chat (a message, through the chat template), completion (plain text), or auto: the prompt's "
        "own, else chat if the model has a chat template",
    )
    questions: str = option(
        "default", "question set: a .jsonl, .csv, .yaml or .parquet file, dataset:NAME for one in MLflow, or default"
    )
    shots: tuple[int, ...] = option(
        (0,), "numbers of examples before the question; 0,3 runs each prompt without and with 3", group="Question files"
    )
    shots_from: str = option(
        "",
        "question set to draw examples from; by default the questions that are not asked",
        group="Question files",
    )
    layout: QuestionLayout = field(default_factory=QuestionLayout)
    limit: int = option(0, "ask at most this many questions, drawn evenly over topics; 0 for all")
    samples: int = option(1, "answers to each question from each arm")
    generation: GenerationParams = field(default_factory=GenerationParams)
    generation_defaults: Literal["greedy", "model"] = option(
        "greedy",
        "generation defaults: greedy, or model: the sampling values in its generation_config.json",
        env="FLEDGE_GENERATION",
        flag="generation",
        group="Generation",
    )
    json_schema: str = option("", "file with a JSON schema for which all answers are valid", group="Generation")
    chosen_settings: tuple[str, ...] = ()  # fields of `generation` that the user set; used by `generation_defaults`
    scorers: tuple[str, ...] = option(
        (), f"scorers of answers: {', '.join(BUILT_IN)}; all; or your own as file.py:function"
    )
    answer_pattern: str = option(
        "",
        "regular expression that extracts the answer: the first group of its last match is compared with the "
        "reference, for example 'answer is (\\w+)'",
    )
    judging: JudgeConfig = field(default_factory=JudgeConfig)
    concurrency: int = option(64, "maximum number of answers generated at the same time", group="Asking")
    latency: bool = option(False, "generate one answer at a time, to measure latency", group="Asking")
    order_seed: int = option(0, "seed of the order of cells, and of --limit", group="Asking")
    metric: str = option("", "pre-registered primary metric; token_f1 if there are references", group="Verdict")
    margin: float | None = option(None, "equivalence margin, in units of that metric", group="Verdict")
    alpha: float = option(0.05, "family-wise error rate", group="Verdict")
    nested_cells: bool = option(False, "record a nested run for each answer, not only for each arm", group="Recording")
    tags: tuple[str, ...] = option((), "tags of the runs, as key=value", group="Recording")
    tracking_timeout: float = option(
        300.0, "seconds to wait at the end for an unavailable tracking server", group="Recording"
    )

    def problems(self) -> list[str]:
        found = super().problems() + out_of_range(
            self,
            ("samples", 1, 1000),
            ("limit", 0, 10_000_000),
            ("concurrency", 1, 1024),
            ("tracking_timeout", 0, 86_400),
            ("alpha", 1e-6, 0.5),
            *([] if self.margin is None else [("margin", 1e-9, 1e9)]),
        )
        found += [problem for name in self.scorers if name != "all" and (problem := _unknown(name))]
        try:
            regex.compile(self.answer_pattern)
        except (regex.error, RecursionError, OverflowError) as error:
            found.append(f"invalid regular expression for answer_pattern {self.answer_pattern!r}: {error}")
        if self.arms and any(self.shots):
            found.append("shots cannot be combined with arms: give each arm its own shots")
        counts = [arm.shots for arm in self.arms] or self.shots
        if not self.shots or not all(0 <= count <= MOST_SHOTS for count in counts):
            found.append(f"shots must be numbers from 0 to {MOST_SHOTS}, not {', '.join(map(str, counts)) or 'none'}")
        if self.shots_from and not any(counts):
            found.append("shots_from needs an arm with examples: --shots 0,3")
        strange = [tag for tag in self.tags if not tag.partition("=")[0] or "=" not in tag]
        if strange:
            found.append(f"tags must be key=value, not {', '.join(strange)}")
        return found + [problem for arm in self.arms if (problem := self._problem(arm))]

    def _problem(self, arm: ArmConfig) -> str:
        try:
            replace(self.generation, **arm.generation)
        except (TypeError, ValueError) as error:
            return f"arm {arm.name or arm.prompt!r}: {str(error).removeprefix('GenerationParams.')}"
        return ""

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, *, file: Path | None = None) -> "ExperimentConfig":
        """Load from all sources of settings and a TOML or YAML `file`, which takes precedence over `fledge.toml`.

        The default temperature is 0.7 if `samples` is above 1. Raises `InputError` for invalid settings.
        """
        resolved = load(cls, flags, file=(str(file), _read(file)) if file else None)
        config = resolved.value
        if config.generation_defaults == "model":
            chosen = [item.name for item in options(GenerationParams) if resolved.origins[item.name] != "default"]
            return replace(config, chosen_settings=tuple(chosen))
        if config.samples > 1 and resolved.origins["temperature"] == "default":
            return replace(config, generation=replace(config.generation, temperature=SAMPLING_TEMPERATURE))
        return config

    def sets(self, name: str) -> bool:
        """Return whether the user set a generation setting, so that a model's own value does not replace it."""
        return name in self.chosen_settings or getattr(self.generation, name) != getattr(GenerationParams(), name)

    @property
    def chosen_scorers(self) -> tuple[Scorer, ...]:
        """The scorers of each answer."""
        return choose_scorers(self.scorers, self.answer_pattern)

    @property
    def logprobs(self) -> bool:
        """Whether a scorer needs the log probabilities of tokens."""
        return any("logprobs" in scorer.needs for scorer in self.chosen_scorers)

    @property
    def grammar(self) -> str:
        """The grammar of the answers, empty without a JSON schema. Raises `InputError` for an invalid one."""
        if not self.json_schema:
            return ""
        try:
            schema = json.loads(Path(self.json_schema).read_text(encoding=ENCODING))
        except OSError as error:
            raise InputError(f"{self.json_schema} cannot be read: {error.strerror}", hint="name a JSON file") from None
        except ValueError as error:
            raise InputError(f"{self.json_schema} is not JSON: {error}", hint="correct the file") from None
        try:
            return json_schema_grammar(schema)
        except StructureError as error:
            raise InputError(f"{self.json_schema}: {error.message}", error.hint) from None

    @property
    def max_concurrency(self) -> int:
        """The maximum number of answers generated at the same time."""
        return 1 if self.latency else self.concurrency

    @property
    def run_tags(self) -> dict[str, str]:
        return dict(tag.split("=", 1) for tag in self.tags)

    def as_dict(self) -> dict[str, Any]:
        """Return a flat dict, as a settings file holds it and `load` takes it, without the locations of records."""
        values = asdict(self)
        generation = values.pop("generation")
        del values["tracking_uri"], values["state"], values["cache"], values["chosen_settings"]
        judging, layout = values.pop("judging"), values.pop("layout")
        unset = {name: generation.pop(name) for name in REQUEST_ONLY}
        if self.generation_defaults == "model":  # unset values are each model's own
            generation = {name: value for name, value in generation.items() if self.sets(name)}
        return {**values, **layout, **generation, **judging, **({"ignore_eos": True} if unset["ignore_eos"] else {})}

    def as_params(self) -> dict[str, str]:
        """Return the settings as texts, for MLflow's params."""
        return {name: as_param(value) for name, value in self.as_dict().items()}


def planned_metric(config: ExperimentConfig, questions: QuestionSet) -> str:
    """Return the primary metric: the configured one, else `token_f1` if it is scored against references, else empty."""
    judged = any(item.reference for item in questions.questions)
    judged = judged and any(item.name == "token_f1" for item in config.chosen_scorers)
    return config.metric or ("token_f1" if judged else "")


def _unknown(scorer: str) -> str:
    try:
        find_scorer(scorer)
    except InputError as error:
        return f"{error.message}; {error.hint}"
    return ""


def as_param(value: Any) -> str:
    """Return the text of an MLflow param: tuples of texts joined by commas, other tuples as JSON."""
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding=ENCODING)
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file", hint="check the path given to --config") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError also for an invalid date
        raise InputError(f"{path}: {error}", hint="write settings as TOML or YAML") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: no settings in it", hint="write one per line, for example samples: 3")
    return content
