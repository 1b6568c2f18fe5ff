"""The configuration of an experiment: the one place where its options are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fledge.core.settings import load, option
from fledge.models.embedded.templates import TEMPLATES
from fledge.models.engine import GenerationParams
from fledge.models.selection import EngineSettings

SAMPLING_TEMPERATURE = 0.7


@dataclass(frozen=True)
class ExperimentConfig(EngineSettings):
    """What is asked, of which model, with which prompts, and where it is recorded."""

    experiment_name: str = option("fledge", "MLflow experiment", env="EXPERIMENT_NAME")
    model: str = option(
        "embedded", "embedded, a local folder, a Hub id org/name[@revision], or the URL of an OpenAI-compatible server"
    )
    prompts: tuple[str, ...] = option(tuple(TEMPLATES), "prompts as name, name/version or name@alias")
    questions: str = option("default", "question set: a .jsonl, .csv or .yaml file")
    limit: int = option(0, "ask at most this many questions, drawn evenly over topics; 0 for all")
    samples: int = option(1, "answers to each question from each arm")
    generation: GenerationParams = field(default_factory=GenerationParams)
    concurrency: int = option(64, "most answers in the making at once")
    order_seed: int = option(0, "seed of the order in which cells are asked, and of --limit")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, low, high in (
            ("samples", self.samples, 1, 1000),
            ("limit", self.limit, 0, 10_000_000),
            ("concurrency", self.concurrency, 1, 1024),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {value}")
        if not self.prompts:
            raise ValueError("prompts must name at least one prompt")

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None) -> "ExperimentConfig":
        """From all sources of settings. Several samples are drawn at temperature 0.7 unless one is set."""
        resolved = load(cls, flags)
        config = resolved.value
        if config.samples > 1 and resolved.origins["temperature"] == "default":
            return replace(config, generation=replace(config.generation, temperature=SAMPLING_TEMPERATURE))
        return config

    def params(self, sample: int) -> GenerationParams:
        """Generation settings of one sample: each has a seed of its own."""
        return replace(self.generation, seed=self.generation.seed + sample)

    def as_dict(self) -> dict[str, Any]:
        """Flat, for MLflow's params."""
        values = asdict(self)
        generation = values.pop("generation")
        flat = {**values, **generation}
        return {name: ",".join(value) if isinstance(value, tuple) else value for name, value in flat.items()}
