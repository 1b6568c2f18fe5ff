"""Preferences: whether a judge finds an arm's answers better than those of the baseline, question by question."""

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

Known = dict["Two", Preference]


class Two(NamedTuple):
    """What a judge is shown: texts alone, so that the same ones are judged once, whichever arms they come from."""

    question: str
    reference: str
    a: str
    b: str

    @property
    def swapped(self) -> "Two":
        return self._replace(a=self.b, b=self.a)


def with_preferences(
    client: MlflowClient,
    run_id: str,
    folder: Path,
    table: pd.DataFrame,
    baseline: str,
    judging: JudgeConfig,
    progress: Progress = no_progress,
) -> tuple[pd.DataFrame, list[str]]:
    """The long table of a run with the column `preference`, and what to know about it.

    It is 0 for the baseline; for another arm's answer 1 where the judge finds it better than the baseline's answer to
    the same sample of the question, -1 where worse, 0 where neither. It is missing where one of the two failed or
    the judge gave no judgement. What the same judge judged by the same criteria before in this run is not judged
    again: each judgement is in the experiment's `folder` at once, and in the run at the end. Raises `FledgeError` where
    the judge gave no judgement at all.
    """
    pairs = dict(_pairs(table, baseline))
    different = {two for two in pairs.values() if two.a != two.b}
    file = state.ensure(folder) / _artifact(judging).replace("/", "-")
    known = {**_load(client, run_id, judging), **_load_file(file)}
    for two in different:
        if two not in known and two.swapped in known:
            known[two] = replace(known[two.swapped], value=-known[two.swapped].value)
    wanted = [two for two in dict.fromkeys(pairs.values()) if two in different and two not in known]
    counts, error = JudgeCounts(), ""
    if wanted:
        judge = open_judge(judging)
        try:
            for two, said in judge.ask_all(
                wanted,
                lambda two: judge.prefer(two.question, two.a, two.b, two.reference or None),
                lambda done, every: progress(done, every, "pairs judged"),
            ):
                if isinstance(said, JudgeError):
                    error = said.message
                else:
                    known[two] = said
                    with state.open_to_append(file) as kept:
                        kept.write(json.dumps(_row(two, said)).encode() + b"\n")
        finally:
            with shield_from_interrupts():
                _keep(client, run_id, judging, known)
        counts = judge.counts
    found = {two: known[two] for two in different if two in known}
    if different and not found:
        raise FledgeError(f"there is no judgement on any of {len(different):,} pairs: {error}", hint=TRY_JUDGE)

    values = {row: 0.0 if two.a == two.b else float(found[two].value) for row, two in pairs.items() if _is(two, found)}
    column = pd.Series(values, dtype=float).reindex(table.index)
    column[(table["arm"] == baseline) & (table["error"] == "")] = 0.0
    alike = sum(two.a == two.b for two in pairs.values())
    settings = load_settings(client, run_id)
    notes = [*_notes(judging, counts, list(found.values()), alike), *_itself(judging, settings)]
    return table.assign(**{PREFERENCE: column}), notes


def _is(two: Two, found: Known) -> bool:
    return two.a == two.b or two in found


def _pairs(table: pd.DataFrame, baseline: str) -> Iterator[tuple[int, Two]]:
    """What is to be compared, by the row of the arm's answer."""
    answered = table[table["error"] == ""]
    base = answered[answered["arm"] == baseline]
    texts = dict(zip(zip(base["question"], base["sample"], strict=True), base["answer"], strict=True))
    others = answered[answered["arm"] != baseline]
    for index, row in zip(others.index, others.to_dict("records"), strict=True):
        text = texts.get((row["question"], row["sample"]))
        if text is not None:
            reference = row["reference"] if isinstance(row["reference"], str) else ""
            yield index, Two(row["text"], reference, row["answer"], text)


def _notes(judging: JudgeConfig, counts: JudgeCounts, found: Sequence[Preference], alike: int) -> Iterator[str]:
    yield f"preference is what the judge {judging.judge} says, asked both ways round, by: {judging.criteria}"
    if counts.asked:
        yield describe_counts(counts._replace(inconsistent=0))
    inconsistent = sum(not preference.agreed for preference in found)
    if inconsistent:
        yield f"{inconsistent:,} of {len(found):,} pairs were judged otherwise when swapped, and count as ties"
    if alike:
        yield f"{alike:,} pairs of the same text count as ties, and were not judged"


def _itself(judging: JudgeConfig, settings: Mapping[str, Any]) -> list[str]:
    arms = [arm["model"] for arm in settings.get("arms", ()) if arm.get("model")]
    models = dict.fromkeys([settings["model"], *settings.get("more_models", ()), *arms])
    return [text for model in models if (text := same_model(judging.judge, model))]


def _artifact(judging: JudgeConfig) -> str:
    what = hashlib.sha256(f"{judging.judge}\n{judging.criteria}".encode()).hexdigest()[:12]
    return f"preferences/{what}.json"


def _load(client: MlflowClient, run_id: str, judging: JudgeConfig) -> Known:
    artifact = _artifact(judging)
    if artifact not in [item.path for item in client.list_artifacts(run_id, "preferences")]:  # it was never asked
        return {}
    return _read(load_artifact(client, run_id, artifact, hint="try again")["preferences"])


def _load_file(file: Path) -> Known:
    """What was judged and may not be in MLflow, as when the process was killed."""
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    return _read(json.loads(line) for line in lines if line.endswith(b"\n"))


def _read(rows: Iterable[Mapping[str, Any]]) -> Known:
    return {
        Two(*(row[name] for name in Two._fields)): Preference(row["value"], row["agreed"], row["rationale"])
        for row in rows
    }


def _row(two: Two, preference: Preference) -> dict[str, Any]:
    return {**two._asdict(), **vars(preference)}


def _keep(client: MlflowClient, run_id: str, judging: JudgeConfig, known: Known) -> None:
    rows = [_row(two, preference) for two, preference in known.items()]
    content = {"judge": judging.judge, "criteria": judging.criteria, "preferences": rows}
    client.log_text(run_id, json.dumps(content, indent=1), _artifact(judging))
