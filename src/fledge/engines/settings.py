"""`EngineSettings`: how a model runs. Imports nothing heavy, since help pages need it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fledge.core.settings import Workspace, option, out_of_range

EngineName = Literal["auto", "openvino", "llamacpp", "transformers", "remote", "scripted"]


@dataclass(frozen=True)
class EngineSettings(Workspace):
    """How a model runs."""

    GROUP: ClassVar = "Engine"

    engine: EngineName = option("auto", "auto, openvino, llamacpp, transformers, remote or scripted")
    device: Literal["auto", "cpu", "gpu"] = option("auto", "auto, cpu or gpu")
    mode: Literal["exact", "fast", "auto"] = option(
        "exact", "exact: same greedy tokens as transformers; fast: int8; auto: fast within --fast-limit"
    )
    fast_limit: float = option(1.02, "maximum perplexity ratio of int8 to exact, for --mode auto")
    cache_gb: float = option(0.0, "size of the KV cache in GB; 0: 12,288 tokens, in at most 1 GB")
    remote_concurrency: int = option(8, "maximum number of concurrent requests to a remote model")
    prompt_price: float = option(0.0, "price per million prompt tokens of a remote model")
    completion_price: float = option(0.0, "price per million generated tokens of a remote model")

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """Return an error message for each invalid value."""
        return out_of_range(
            self,
            ("fast_limit", 1, 10),
            ("cache_gb", 0, 4096),
            ("remote_concurrency", 1, 1024),
            ("prompt_price", 0, 1e9),
            ("completion_price", 0, 1e9),
        )
