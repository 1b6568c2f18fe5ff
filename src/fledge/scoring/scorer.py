"""The scorer type and the response that it scores."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Grade:
    """A score and why it was given."""

    value: float
    rationale: str


Function = Callable[..., float | bool | Grade | None]


@dataclass(frozen=True)
class Response:
    """One answer and its metadata. Times are in seconds; `columns` are the extra columns of the question set."""

    answer: str
    question: str = ""
    reference: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    latency_s: float | None = None
    cost: float | None = None
    logprobs: tuple[float, ...] = ()

    def value(self, name: str) -> Any:
        """Return a field or a column, None if unknown."""
        if name in _FIELDS:
            found = getattr(self, name)
            return None if found == () else found
        return self.columns.get(name) or None


_FIELDS = {item.name for item in fields(Response)} - {"columns"}


@dataclass(frozen=True)
class Scorer:
    """A named score from `low` to `high`; `higher_is_better` is None if the metric has no better direction.

    The parameters of `function` are its inputs: fields of `Response`, or columns of the question set. If an input
    without a default is unknown there is no score. `default` scorers run unless others are named; `recorded` ones are
    always in the table of answers.
    """

    name: str
    function: Function
    higher_is_better: bool | None
    low: float = -math.inf
    high: float = math.inf
    default: bool = True
    recorded: bool = False

    @cached_property
    def parameters(self) -> Mapping[str, bool]:
        """The parameters of the function, and whether each is required."""
        found = inspect.signature(self.function).parameters.items()
        rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {name: item.default is item.empty for name, item in found if item.kind not in rest}

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the required inputs."""
        return tuple(name for name, needed in self.parameters.items() if needed)

    def applies(self, response: Response) -> bool:
        """Return whether all required inputs are known."""
        return all(response.value(name) is not None for name in self.needs)

    def __call__(self, response: Response) -> float | None:
        """Return the score or None. Raises `ValueError` if it is not a number in its range."""
        grade = self.grade(response)
        return None if grade is None else grade.value

    def grade(self, response: Response) -> Grade | None:
        """Return the score with its rationale, or None. Raises `ValueError` if it is not a number in its range."""
        known = {name: response.value(name) for name in self.parameters}
        found = self.function(**{name: value for name, value in known.items() if value is not None})
        if found is None:
            return None
        given = found if isinstance(found, Grade) else Grade(found, "")
        if not isinstance(given.value, (bool, int, float)):
            raise ValueError(f"{type(given.value).__name__} is not a score")
        score = float(given.value)
        if not (math.isfinite(score) and self.low <= score <= self.high):
            raise ValueError(f"score {score:g} is not from {self.low:g} to {self.high:g}")
        return Grade(score, given.rationale)
