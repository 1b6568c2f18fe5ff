"""Preferences: for each question, whether a judge prefers an arm's answer to the baseline's."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from mlflow import MlflowClient

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.types import Progress, no_progress
from fledge.experiments._mlflow_experiments import load_artifact, load_settings
from fledge.scoring._mlflow_judge import open_judge
from fledge.scoring.judge import (
    PREFERENCE,
    TRY_JUDGE,
    JudgeConfig,
    JudgeCounts,
    JudgeError,
    Preference,
    describe_counts,
    same_model,
)

Known = dict["TextPair", Preference]


class TextPair(NamedTuple):
    """The texts that a judge compares, without arms, so that equal texts are judged once."""

    question: str
    reference: str
    a: str
    b: str

    @property
    def swapped(self) -> "TextPair":
        return self._replace(a=self.b, b=self.a)


def add_preferences(
    client: MlflowClient,
    run_id: str,
    folder: Path,
    table: pd.DataFrame,
    baseline: str,
    judging: JudgeConfig,
    progress: Progress = no_progress,
) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of a run with the column `preference`, and notes on the judgements.

    The preference is 1 if the judge prefers the arm's answer to the baseline's for the same sample of the question, -1
    for the opposite, 0 for a tie and for the baseline itself. It is missing if one of the answers failed or there is no
    judgement. Earlier judgements of the run by the same judge and criteria are reused: each is stored in the
    experiment's `folder` immediately, and in the run at the end. Raises `FledgeError` if there are no judgements.
    """
    pairs = dict(_find_pairs(table, baseline))
    different = {pair for pair in pairs.values() if pair.a != pair.b}
    file = state.ensure(folder) / _artifact_path(judging).replace("/", "-")
    known = {**_load_recorded(client, run_id, judging), **_load_file(file)}
    for pair in different:
        if pair not in known and pair.swapped in known:
            known[pair] = replace(known[pair.swapped], value=-known[pair.swapped].value)
    missing = [pair for pair in dict.fromkeys(pairs.values()) if pair in different and pair not in known]
    counts, error = JudgeCounts(), ""
    if missing:
        judge = open_judge(judging)
        try:
            for pair, judgement in judge.ask_all(
                missing,
                lambda pair: judge.prefer(pair.question, pair.a, pair.b, pair.reference or None),
                lambda done, every: progress(done, every, "pairs judged"),
            ):
                if isinstance(judgement, JudgeError):
                    error = judgement.message
                else:
                    known[pair] = judgement
                    with state.open_to_append(file) as output:
                        output.write(json.dumps(_to_row(pair, judgement)).encode() + b"\n")
        finally:
            with shield_from_interrupts():
                _record(client, run_id, judging, known)
        counts = judge.counts
    found = {pair: known[pair] for pair in different if pair in known}
    if different and not found:
        raise FledgeError(f"there is no judgement on any of {len(different):,} pairs: {error}", hint=TRY_JUDGE)

    values = {
        row: 0.0 if pair.a == pair.b else float(found[pair].value)
        for row, pair in pairs.items()
        if pair.a == pair.b or pair in found
    }
    column = pd.Series(values, dtype=float).reindex(table.index)
    column[(table["arm"] == baseline) & (table["error"] == "")] = 0.0
    alike = sum(pair.a == pair.b for pair in pairs.values())
    settings = load_settings(client, run_id)
    notes = [*_describe(judging, counts, list(found.values()), alike), *_warn_of_self_judging(judging, settings)]
    return table.assign(**{PREFERENCE: column}), notes


def _find_pairs(table: pd.DataFrame, baseline: str) -> Iterator[tuple[int, TextPair]]:
    """Yield the pairs to compare, with the row of the arm's answer."""
    answered = table[table["error"] == ""]
    base = answered[answered["arm"] == baseline]
    texts = dict(zip(zip(base["question"], base["sample"], strict=True), base["answer"], strict=True))
    others = answered[answered["arm"] != baseline]
    for index, row in zip(others.index, others.to_dict("records"), strict=True):
        text = texts.get((row["question"], row["sample"]))
        if text is not None:
            reference = row["reference"] if isinstance(row["reference"], str) else ""
            yield index, TextPair(row["text"], reference, row["answer"], text)


def _describe(judging: JudgeConfig, counts: JudgeCounts, found: Sequence[Preference], alike: int) -> Iterator[str]:
    yield f"preference is the verdict of the judge {judging.judge}, asked in both orders, by: {judging.criteria}"
    if counts.asked:
        yield describe_counts(counts._replace(inconsistent=0))
    inconsistent = sum(not preference.agreed for preference in found)
    if inconsistent:
        yield f"{inconsistent:,} of {len(found):,} pairs were judged differently when swapped, and count as ties"
    if alike:
        yield f"{alike:,} pairs of the same text count as ties and were not judged"


def _warn_of_self_judging(judging: JudgeConfig, settings: Mapping[str, Any]) -> list[str]:
    arms = [arm["model"] for arm in settings.get("arms", ()) if arm.get("model")]
    models = dict.fromkeys([settings["model"], *settings.get("more_models", ()), *arms])
    return [text for model in models if (text := same_model(judging.judge, model))]


def _artifact_path(judging: JudgeConfig) -> str:
    what = hashlib.sha256(f"{judging.judge}\n{judging.criteria}".encode()).hexdigest()[:12]
    return f"preferences/{what}.json"


def _load_recorded(client: MlflowClient, run_id: str, judging: JudgeConfig) -> Known:
    artifact = _artifact_path(judging)
    if artifact not in [item.path for item in client.list_artifacts(run_id, "preferences")]:
        return {}
    return _read(load_artifact(client, run_id, artifact, hint="try again")["preferences"])


def _load_file(file: Path) -> Known:
    """Return the judgements on disk, which may be missing in MLflow after a kill."""
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    return _read(json.loads(line) for line in lines if line.endswith(b"\n"))


def _read(rows: Iterable[Mapping[str, Any]]) -> Known:
    return {
        TextPair(*(row[name] for name in TextPair._fields)): Preference(row["value"], row["agreed"], row["rationale"])
        for row in rows
    }


def _to_row(pair: TextPair, preference: Preference) -> dict[str, Any]:
    return {**pair._asdict(), **vars(preference)}


def _record(client: MlflowClient, run_id: str, judging: JudgeConfig, known: Known) -> None:
    rows = [_to_row(pair, preference) for pair, preference in known.items()]
    content = {"judge": judging.judge, "criteria": judging.criteria, "preferences": rows}
    client.log_text(run_id, json.dumps(content, indent=1), _artifact_path(judging))
