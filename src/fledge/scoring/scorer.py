"""What a scorer is, and what it sees of an answer."""

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
    """One answer and all that is known of it. Times are in seconds; `columns` are further ones of the question set."""

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
        """A field or a column; None where it is not known."""
        if name in _FIELDS:
            found = getattr(self, name)
            return None if found == () else found
        return self.columns.get(name) or None


_FIELDS = {item.name for item in fields(Response)} - {"columns"}


@dataclass(frozen=True)
class Scorer:
    """A named score from `low` to `high`; `higher_is_better` is None where neither way is.

    The parameters of `function` are what it needs: fields of `Response`, or columns of the question set. Where one of
    them without a default is not known there is no score. `default` scorers run unless others are named; what is
    `recorded` is in the table of answers anyway.
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
        """The parameters of the function, and whether each must be known."""
        found = inspect.signature(self.function).parameters.items()
        rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {name: item.default is item.empty for name, item in found if item.kind not in rest}

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be known of an answer."""
        return tuple(name for name, needed in self.parameters.items() if needed)

    def applies(self, response: Response) -> bool:
        """Whether all that it needs is known."""
        return all(response.value(name) is not None for name in self.needs)

    def __call__(self, response: Response) -> float | None:
        """The score, None where there is none. Raises `ValueError` for one that is no number in its range."""
        grade = self.grade(response)
        return None if grade is None else grade.value

    def grade(self, response: Response) -> Grade | None:
        """The score with its rationale, empty where the function gives none. Raises as calling the scorer does."""
        known = {name: response.value(name) for name in self.parameters}
        found = self.function(**{name: value for name, value in known.items() if value is not None})
        if found is None:
            return None
        given = found if isinstance(found, Grade) else Grade(found, "")
        if not isinstance(given.value, (bool, int, float)):
            raise ValueError(f"{type(given.value).__name__} is no score")
        score = float(given.value)
        if not (math.isfinite(score) and self.low <= score <= self.high):
            raise ValueError(f"a score of {score:g} is not from {self.low:g} to {self.high:g}")
        return Grade(score, given.rationale)
