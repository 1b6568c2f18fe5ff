"""What a colleague would say of an arm's answers: that many are empty, cut, alike, echoes, or in another language."""

from collections.abc import Callable, Iterator

import pandas as pd

from fledge.comparison.findings import ArmWarning, Pair, WarningKind
from fledge.scoring.surface import empty, language, truncated

LIMITS: dict[WarningKind, float] = {"empty": 0.1, "truncated": 0.2, "same": 0.99, "echo": 0.2, "language": 0.2}
WORDS: dict[WarningKind, str] = {
    "empty": "are empty",
    "truncated": "were truncated at the token limit (--max-tokens or the context window)",
    "same": "are identical, whatever the question",
    "echo": "repeat the question",
    "language": "are not in the expected language",
}
SPOILING: tuple[WarningKind, ...] = ("empty", "truncated")  # an arm loses by these without being wrong
ANSWERED = {"answer", "error", "finish_reason", "text", "reference"}
FEWEST_QUESTIONS = 3  # below, answers that are all alike say nothing
SHORTEST_ECHO = 15  # characters of a question; a shorter one may be in an answer by chance


def warnings_of(table: pd.DataFrame) -> tuple[ArmWarning, ...]:
    """Warnings on each arm of a table with the columns `arm` and `ANSWERED`, `text` being the question; none of a table
    that lacks one of them."""
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
    """What is left of the lead of `pair.a` on the questions to which `pair.b` has an answer that is neither empty nor
    cut; empty where there is no warning of those."""
    found = [item for item in warnings if item.arm == pair.b and item.kind in SPOILING]
    if not found:
        return ""
    spoiled = (table["arm"] == pair.b) & pd.concat([_HOLDS[item.kind](table) for item in found], axis=1).any(axis=1)
    left = table[~table["question"].isin(table.loc[spoiled, "question"]) & table["arm"].isin([pair.a, pair.b])]
    means = left.groupby(["question", "arm"])[metric].mean().unstack("arm").dropna()
    rest = "no question is left without those"
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
    """Not so where the questions have one reference too."""
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
