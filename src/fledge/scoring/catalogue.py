"""Registry of built-in and user scorers by name."""

import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, overload

from fledge.core.api_key import without_key
from fledge.core.errors import InputError
from fledge.scoring import assertions, figures, overlap, short_answers, surface
from fledge.scoring.judge import JUDGE, PREFERENCE
from fledge.scoring.scorer import Function, Response, Scorer


def _built_in(function: Function, higher: bool | None, low: float, high: float, *, default: bool = True) -> Scorer:
    return Scorer(function.__name__, function, higher, low, high, default)


def _recorded_figure(function: Function, higher: bool | None) -> Scorer:
    return Scorer(function.__name__, function, higher, 0.0, default=False, recorded=True)


BUILT_IN: Final = {
    scorer.name: scorer
    for scorer in (
        _built_in(overlap.token_f1, True, 0, 1),
        _built_in(overlap.exact_match, True, 0, 1),
        _built_in(overlap.chrf, True, 0, 1),
        _built_in(overlap.bleu, True, 0, 1, default=False),
        _built_in(overlap.rouge_1, True, 0, 1, default=False),
        _built_in(overlap.rouge_2, True, 0, 1, default=False),
        _built_in(overlap.rouge_l, True, 0, 1, default=False),
        _built_in(overlap.similarity, True, 0, 1),
        _built_in(short_answers.number, True, 0, 1, default=False),
        _built_in(short_answers.choice, True, 0, 1, default=False),
        _built_in(short_answers.answer_pattern, True, 0, 1, default=False),
        _built_in(surface.response_length, None, 0, math.inf),
        _built_in(surface.response_quality, True, 0, 1),
        _built_in(surface.empty, False, 0, 1),
        _built_in(surface.truncated, False, 0, 1),
        _built_in(surface.refusal, False, 0, 1),
        _built_in(surface.rep_4, False, 0, 1),
        _built_in(surface.distinct_1, True, 0, 1, default=False),
        _built_in(surface.distinct_2, True, 0, 1, default=False),
        _built_in(surface.language, True, 0, 1, default=False),
        _built_in(surface.readability, None, -math.inf, math.inf, default=False),
        _built_in(surface.perplexity, False, 1, math.inf, default=False),
        _built_in(assertions.contains, True, 0, 1),
        _built_in(assertions.not_contains, True, 0, 1),
        _built_in(assertions.matches, True, 0, 1),
        _built_in(assertions.json_valid, True, 0, 1),
        _recorded_figure(figures.latency_s, False),
        _recorded_figure(figures.ttft_s, False),
        _recorded_figure(figures.prompt_tokens, None),
        _recorded_figure(figures.completion_tokens, None),
        _recorded_figure(figures.cost, False),
    )
}
PATTERN: Final = short_answers.answer_pattern.__name__
# Metrics aggregated over answers, and whether higher is better.
DERIVED: Final[dict[str, bool | None]] = {
    "latency_p95_s": False,
    "error_rate": False,
    "success_rate": True,
    PREFERENCE: True,
    JUDGE: True,
}
# Metrics recorded for every answer, regardless of scorers.
RECORDED: Final = (*(item.name for item in BUILT_IN.values() if item.recorded), "error_rate")
# Names of answer columns and arm figures.
RESERVED: Final = frozenset(
    {
        *("question_id", "question", "topic", "reference", "arm", "sample", "answer", "text", "error", "finish_reason"),
        *("turns_left_out", "score_errors", "trace_id", "cells", "failed", "seconds", "success", "question_quality"),
        *("effectiveness", "latency_mean_s", "ttft_mean_s"),
    }
)
_user_scorers: dict[str, Scorer] = {}


class AnswerScores(NamedTuple):
    """Scores of one answer by scorer, errors of scorers that failed, and rationales if given."""

    values: dict[str, float]
    errors: dict[str, str]
    rationales: dict[str, str]


@overload
def scorer(
    function: Function,
    *,
    name: str = "",
    higher_is_better: bool | None = True,
    low: float = -math.inf,
    high: float = math.inf,
) -> Function: ...


@overload
def scorer(
    function: None = None,
    *,
    name: str = "",
    higher_is_better: bool | None = True,
    low: float = -math.inf,
    high: float = math.inf,
) -> Callable[[Function], Function]: ...


def scorer(
    function: Function | None = None,
    *,
    name: str = "",
    higher_is_better: bool | None = True,
    low: float = -math.inf,
    high: float = math.inf,
) -> Function | Callable[[Function], Function]:
    """Register a function as a scorer: `fledge.scorer(polite)`, or as a decorator.

    The function's parameters name its inputs: `answer`, `question`, `reference`, other fields of `Response`, or columns
    of the question set. It returns a number, or None for no score. Raises `InputError` for an invalid or reserved name.
    """

    def register(given: Function) -> Function:
        called = name or given.__name__
        if called in BUILT_IN or called in DERIVED or called in RESERVED:
            raise InputError(f"{called!r} is a name that fledge uses", hint="give your scorer another name")
        if not re.fullmatch(r"[A-Za-z_]\w{0,99}", called):
            raise InputError(f"{called!r} cannot be the name of a scorer", hint="letters, digits and '_': name=...")
        if inspect.iscoroutinefunction(given):
            raise InputError(f"scorer {called} is async, which is not supported", hint=f"def {called}(answer): ...")
        _user_scorers[called] = Scorer(called, given, higher_is_better, low, high, default=False)
        return given

    return register if function is None else register(function)


def find_scorer(name: str) -> Scorer:
    """Return a scorer by its name, or load `file.py:function` or `package.module:function`.

    Raises `InputError` if there is none.
    """
    known = BUILT_IN.get(name) or _user_scorers.get(name)
    if known is not None:
        return known
    place, colon, function = name.rpartition(":")
    if not colon:
        hint = f"one of: {', '.join(BUILT_IN)}; your own as my_scorers.py:function"
        raise InputError(f"unknown scorer {name!r}", hint=hint)
    found = getattr(_import(place, name), function, None)
    if not callable(found):
        raise InputError(f"{place} has no function {function!r}", hint=f"define it there: def {function}(answer): ...")
    for item in _user_scorers.values():  # the file may have registered it already
        if item.function is found:
            return item
    scorer(found, name=function)
    return _user_scorers[function]


def choose_scorers(names: Sequence[str], pattern: str = "") -> tuple[Scorer, ...]:
    """Return the named scorers, the default ones without names, or all built-in ones for `all`; with a `pattern`, also
    `answer_pattern` that searches for it."""
    if pattern:
        own = replace(BUILT_IN[PATTERN], function=partial(short_answers.answer_pattern, answer_pattern=pattern))
        return (*(item for item in choose_scorers(names) if item.name != PATTERN), own)
    if not names:
        return tuple(item for item in BUILT_IN.values() if item.default)
    every = [item for item in BUILT_IN.values() if not item.recorded]
    found = [item for name in names for item in (every if name == "all" else [find_scorer(name)])]
    distinct = tuple(dict.fromkeys(item for item in found if not item.recorded))
    twice = [name for name, count in Counter(item.name for item in distinct).items() if count > 1]
    if twice:
        raise InputError(f"two scorers are called {twice[0]!r}", hint="give one another name: fledge.scorer(name=...)")
    return distinct


def score(response: Response, scorers: Sequence[Scorer]) -> AnswerScores:
    """Score a response with each scorer whose inputs are known, and record errors by scorer."""
    values: dict[str, float] = {}
    errors: dict[str, str] = {}
    rationales: dict[str, str] = {}
    for item in scorers:
        if not item.applies(response):
            continue
        try:
            found = item.grade(response)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a user's function; the answer is kept)
            errors[item.name] = without_key(f"{type(error).__name__}: {error}")[:500]
            continue
        if found is not None:
            values[item.name] = found.value
            if found.rationale:
                rationales[item.name] = found.rationale
    return AnswerScores(values, errors, rationales)


def is_known_metric(metric: str) -> bool:
    """Return whether the direction of a metric is known."""
    return metric in BUILT_IN or metric in _user_scorers or metric in DERIVED


def direction_of(metric: str) -> bool | None:
    """Return whether higher is better; None if the metric has no better direction or is unknown."""
    if metric in DERIVED:
        return DERIVED[metric]
    item = BUILT_IN.get(metric) or _user_scorers.get(metric)
    return item.higher_is_better if item else None


def range_of(metric: str) -> tuple[float, float]:
    """Return the lowest and highest possible score of a metric, infinite if unknown."""
    if metric == PREFERENCE:
        return (-1.0, 1.0)
    if metric in DERIVED:
        return (0.0, math.inf if metric == "latency_p95_s" else 1.0)
    item = BUILT_IN.get(metric) or _user_scorers.get(metric)
    return (item.low, item.high) if item else (-math.inf, math.inf)


def _import(place: str, name: str) -> object:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).resolve()
        title = f"fledge_scorers_{path.stem}"
        if title not in sys.modules or getattr(sys.modules[title], "__file__", "") != str(path):
            spec = importlib.util.spec_from_file_location(title, path)
            if spec is None or spec.loader is None:
                raise ImportError(f"{path} cannot be loaded")
            module = importlib.util.module_from_spec(spec)
            sys.modules[title] = module
            spec.loader.exec_module(module)
        return sys.modules[title]
    except FileNotFoundError:
        raise InputError(f"{place} does not exist", hint="check the path given to --scorers") from None
    except (Exception, SystemExit) as error:
        sys.modules.pop(f"fledge_scorers_{Path(place).stem}", None)
        hint = "fix the file, or check the name: my_scorers.py:function"
        raise InputError(f"scorer {name!r}: {type(error).__name__}: {error}", hint=hint) from error
