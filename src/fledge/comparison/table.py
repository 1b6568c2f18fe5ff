"""Score tables: read, check, and average to one score for each question and arm."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fledge.comparison.intervals import ANY_NUMBER, Bounds, Numbers
from fledge.comparison.statistics import PairedSample
from fledge.core.csv_files import read_csv
from fledge.core.errors import InputError
from fledge.core.texts import counted

LARGEST = 1e100  # its square is still finite
TEXTS = ("question", "arm", "topic")
COLUMNS = (*TEXTS, "sample")  # of a long table; every other numeric column is a metric


@dataclass(frozen=True)
class ScoreTable:
    """One metric: `values` has a row for each question and a column for each arm, NaN without an answer.

    `binary`: every score is 0 or 1; `passes`: also no arm answered a question twice. `topics` numbers each question's
    topic, or is None without topics. `missing` counts for each arm the answers without this metric. `bounds` are the
    lowest and highest possible score.
    """

    metric: str
    arms: tuple[str, ...]
    values: Numbers
    passes: bool
    topics: NDArray[np.intp] | None
    missing: tuple[int, ...]
    binary: bool = False
    bounds: Bounds = ANY_NUMBER

    def of(self, arm: str) -> Numbers:
        """Return the finite scores of one arm."""
        values = self.values[:, self.arms.index(arm)]
        return values[np.isfinite(values)]

    def share(self, a: str, b: str) -> bool:
        """Return whether two arms have a question in common."""
        return a in self.arms and b in self.arms and bool(np.isfinite(self._two(a, b)).all(axis=1).any())

    def pair(self, a: str, b: str, *, by_topic: bool = True) -> PairedSample:
        """Return the scores on the questions that both arms answered. Raises `InputError` if there are none.

        Topics become clusters if there is more than one, and one has more than one question.
        """
        two = self._two(a, b)
        both: NDArray[np.bool_] = np.all(np.isfinite(two), axis=1)
        if not both.any():
            raise InputError(
                f"arms {a!r} and {b!r} have no question in common with {self.metric}",
                hint="ask both arms the same questions",
            )
        clusters = self.clusters(both) if by_topic else None
        return PairedSample(two[both, 0], two[both, 1], self.passes, clusters, self.binary, self.bounds)

    def clusters(self, which: NDArray[np.bool_]) -> NDArray[np.intp] | None:
        """Return the topics of the selected questions, numbered from 0; None if they group nothing or everything."""
        if self.topics is None:
            return None
        _, found = np.unique(self.topics[which], return_inverse=True)
        return found if 1 < found.max() + 1 < len(found) else None

    def _two(self, a: str, b: str) -> Numbers:
        return self.values[:, [self.arms.index(a), self.arms.index(b)]]

    def whole(self) -> Numbers:
        """Return the rows of the questions that all arms answered."""
        return self.values[np.isfinite(self.values).all(axis=1)]


def read_scores(source: str | pd.DataFrame) -> pd.DataFrame:
    """Read a long table with the columns `question`, `arm` and metrics from a CSV file, or check a data frame."""
    where = source if isinstance(source, str) else "the table"
    if isinstance(source, str):
        how = ("--scores", "columns: question, arm, and one for each metric")
        table = read_csv(source, *how)
        names = [name for name in TEXTS if name in table]
        texts = read_csv(source, *how, usecols=names, dtype=str, keep_default_na=False, na_values=[""])
        table = table.assign(**{name: texts[name] for name in names})  # an arm may be called "None"
    else:
        table = source.reset_index(drop=True)
    missing = [name for name in ("question", "arm") if name not in table]
    if missing:
        raise InputError(f"{where}: no column {', '.join(missing)}", hint="columns: question, arm, and metrics")
    for name in ("question", "arm"):
        if table[name].isna().any():
            row = int(np.flatnonzero(table[name].isna())[0]) + 1
            raise InputError(f"{where}, row {row}: no {name}", hint="give every row a question and an arm")
    return table


def pick_metric(table: pd.DataFrame, metric: str | None) -> str:
    """Return the given metric, or `token_f1` if it was scored. Raises `InputError` if there is none."""
    numeric = metrics(table)
    if metric is None and "token_f1" in numeric and table["token_f1"].notna().any():
        return "token_f1"
    if metric is not None and metric in table and metric not in COLUMNS:
        return metric  # `by_question` reports the row of a text value
    what = "no metric was given, and there are no references" if metric is None else f"no metric {metric!r}"
    raise InputError(what, hint=f"--metric one of: {', '.join(numeric) or '(the table has no numeric column)'}")


def metrics(table: pd.DataFrame) -> list[str]:
    """Return the metric columns of a long table."""
    return [str(name) for name in table.select_dtypes(["number", "bool"]) if name not in COLUMNS]


def by_question(table: pd.DataFrame, metric: str, bounds: Bounds = ANY_NUMBER) -> ScoreTable:
    """Average scores as in `score_questions`. Raises `InputError` for fewer than two arms or an arm without a score."""
    if table["arm"].nunique() < 2:
        raise InputError("a comparison needs at least two arms", hint="fledge experiment --prompts a,b")
    scores = score_questions(table, metric, bounds)
    arms = [] if scores is None else [arm for arm in scores.arms if len(scores.of(arm))]
    empty = [str(arm) for arm in table["arm"].unique() if str(arm) not in arms]
    if scores is None or empty:
        raise InputError(f"arm {empty[0]!r} has no value of {metric}", hint="choose another --metric")
    return scores


def score_questions(table: pd.DataFrame, metric: str, bounds: Bounds = ANY_NUMBER) -> ScoreTable | None:
    """Average the samples of a long table with columns `question`, `arm`, `metric`, and optionally `topic`.

    Return None if there is no score. Raises `InputError` if the metric holds text.
    """
    arm_codes, arms = pd.factorize(table["arm"].astype(str))
    question_codes, questions = pd.factorize(table["question"])
    scores = _numbers(table[metric], metric)
    finite = np.isfinite(scores)
    if not finite.any():
        return None
    cells = (question_codes * len(arms) + arm_codes)[finite]
    size = len(questions) * len(arms)
    counts = np.bincount(cells, minlength=size).reshape(len(questions), len(arms))
    sums = np.bincount(cells, weights=scores[finite], minlength=size).reshape(counts.shape)
    values = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    binary = bool(np.isin(scores[finite], (0.0, 1.0)).all())
    passes = binary and bool(counts.max() == 1)
    bounds = (0.0, 1.0) if binary else bounds
    missing = np.bincount(arm_codes[~finite], minlength=len(arms))
    topics = _topics(table, question_codes, questions) if "topic" in table else None
    return ScoreTable(metric, tuple(map(str, arms)), values, passes, topics, tuple(map(int, missing)), binary, bounds)


def describe_repeated(table: pd.DataFrame) -> Iterator[str]:
    """Note rows that were averaged although the table does not number samples."""
    count = 0 if "sample" in table else int(table.duplicated(["question", "arm"]).sum())
    if count:
        yield f"{counted(count, 'row')} with a repeated question and arm: averaged as samples"


def describe_missing(scores: ScoreTable) -> Iterator[str]:
    """Note answers without a score, and questions that not every arm answered."""
    for arm, count in zip(scores.arms, scores.missing, strict=True):
        if count:
            yield f"{counted(count, 'answer')} of {arm} without {scores.metric}"
    whole, every = len(scores.whole()), len(scores.values)
    if whole < every:
        yield f"{every - whole:,} of {every:,} questions lack a score of some arm; pairs use the common ones"


def _numbers(column: "pd.Series[Any]", metric: str) -> Numbers:
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return _refuse_large(column.to_numpy(dtype=np.float64, na_value=np.nan), metric)
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = numbers.isna() & column.notna() & (column.astype(str).str.strip() != "")
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"column {metric}, row {place + 1}: {str(column.iloc[place])[:80]!r} is not a number",
            hint="leave a cell empty where there is no score",
        )
    return _refuse_large(numbers.to_numpy(dtype=np.float64, na_value=np.nan), metric)


def _refuse_large(numbers: Numbers, metric: str) -> Numbers:
    large = np.isfinite(numbers) & (np.abs(numbers) > LARGEST)
    if large.any():
        place = int(np.flatnonzero(large)[0])
        raise InputError(f"column {metric}, row {place + 1}: {numbers[place]:g} is too large", hint="use another unit")
    return numbers


def _topics(table: pd.DataFrame, question_codes: NDArray[np.intp], questions: Any) -> NDArray[np.intp] | None:
    """Number the topic of each question; a question without a topic gets its own number."""
    given = table["topic"].astype(object).where(table["topic"].notna(), "").astype(str)
    codes, names = pd.factorize(given)
    if list(names) == [""] or not len(names):
        return None
    lowest = np.full(len(questions), len(names), dtype=np.intp)
    highest = np.full(len(questions), -1, dtype=np.intp)
    np.minimum.at(lowest, question_codes, codes)
    np.maximum.at(highest, question_codes, codes)
    if (lowest != highest).any():
        name = questions[int(np.flatnonzero(lowest != highest)[0])]
        raise InputError(f"question {name!r} has two topics", hint="give every row of a question the same topic")
    alone = np.asarray(names)[lowest] == ""
    lowest[alone] = len(names) + np.flatnonzero(alone)
    return lowest
