"""Warnings about an arm's answers: empty, truncated, identical, echoing the question, or in another language."""

from collections.abc import Callable, Iterator

import pandas as pd

from fledge.comparison.findings import ArmWarning, Pair, WarningKind
from fledge.scoring.surface import empty, language, truncated

LIMITS: dict[WarningKind, float] = {"empty": 0.1, "truncated": 0.2, "same": 0.99, "echo": 0.2, "language": 0.2}
WORDS: dict[WarningKind, str] = {
    "empty": "are empty",
    "truncated": "were truncated at the token limit (--max-tokens or the context window)",
    "same": "are identical for every question",
    "echo": "repeat the question",
    "language": "are not in the expected language",
}
SPOILING: tuple[WarningKind, ...] = ("empty", "truncated")  # they lower the score of an arm that may not be wrong
ANSWERED = {"answer", "error", "finish_reason", "text", "reference"}
FEWEST_QUESTIONS = 3  # with fewer, identical answers prove nothing
SHORTEST_ECHO = 15  # characters; an answer may contain a shorter question by chance


def find_warnings(table: pd.DataFrame) -> tuple[ArmWarning, ...]:
    """Return warnings for each arm of a table with the columns `arm` and `ANSWERED` (`text` is the question); none if a
    column is missing."""
    if not set(table.columns) >= ANSWERED:
        return ()
    answered = table[table["error"] == ""].assign(reference=table["reference"].fillna(""))
    return tuple(
        ArmWarning(str(arm), kind, share, f"{arm}: {share:.0%} of the answers {WORDS[kind]}")
        for arm, rows in answered.groupby("arm", sort=False)
        for kind, share in _shares(rows)
        if share > LIMITS[kind]
    )


def caveat(pair: Pair, table: pd.DataFrame, metric: str, warnings: tuple[ArmWarning, ...]) -> str:
    """Return the lead of `pair.a` without the questions to which `pair.b`'s answer is empty or truncated, as text; an
    empty string if `pair.b` has no such warning."""
    found = [item for item in warnings if item.arm == pair.b and item.kind in SPOILING]
    if not found:
        return ""
    spoiled = (table["arm"] == pair.b) & pd.concat([_HOLDS[item.kind](table) for item in found], axis=1).any(axis=1)
    left = table[~table["question"].isin(table.loc[spoiled, "question"]) & table["arm"].isin([pair.a, pair.b])]
    means = left.groupby(["question", "arm"])[metric].mean().unstack("arm").dropna()
    rest = "no other question is left"
    if len(means):
        difference = float((means[pair.a] - means[pair.b]).mean())
        rest = f"on the {len(means):,} other questions the difference is {difference:+.3g}"
    return f"{' and '.join(item.text for item in found)}; {rest}"


def _shares(rows: pd.DataFrame) -> Iterator[tuple[WarningKind, float]]:
    written = rows[_empty(rows) == 0]
    for kind, holds in _HOLDS.items():
        values = holds(rows if kind in SPOILING else written).dropna()
        if len(values):
            yield kind, float(values.mean())


def _empty(rows: pd.DataFrame) -> "pd.Series[float]":
    return rows["answer"].map(empty)


def _truncated(rows: pd.DataFrame) -> "pd.Series[float]":
    return rows["finish_reason"].map(truncated)


def _same(rows: pd.DataFrame) -> "pd.Series[float]":
    """Return 1 if all answers are identical, unless all references are too."""
    meant = rows["reference"].nunique() == 1 and rows["reference"].iloc[0] != ""
    alike = rows["text"].nunique() >= FEWEST_QUESTIONS and rows["answer"].str.strip().nunique() == 1 and not meant
    return pd.Series(float(alike), index=rows.index)


def _echo(rows: pd.DataFrame) -> "pd.Series[float]":
    def holds(question: str, answer: str) -> float:
        asked = " ".join(question.split()).casefold()
        return float(len(asked) >= SHORTEST_ECHO and asked in " ".join(answer.split()).casefold())

    return pd.Series(map(holds, rows["text"], rows["answer"]), index=rows.index, dtype=float)


def _language(rows: pd.DataFrame) -> "pd.Series[float]":
    same = map(language, rows["answer"], rows["text"], rows["reference"])
    return 1 - pd.Series(same, index=rows.index, dtype=float)


_HOLDS: dict[WarningKind, Callable[[pd.DataFrame], "pd.Series[float]"]] = {
    "empty": _empty,
    "truncated": _truncated,
    "same": _same,
    "echo": _echo,
    "language": _language,
}
