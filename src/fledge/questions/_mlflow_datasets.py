"""Question sets as MLflow's evaluation datasets, which `mlflow.genai.evaluate` takes as they are.

The question and the further columns are a record's inputs, the reference is its expected response, and id, topic and
split are tags.
"""

import contextlib
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetRecord, EvaluationDataset
from mlflow.exceptions import MlflowException

from fledge.core.errors import FledgeError, InputError
from fledge.core.interrupts import shield_from_interrupts
from fledge.questions.layout import PLAIN, QuestionLayout
from fledge.questions.question_set import QuestionSet
from fledge.questions.rows import Reading, Row, collect
from fledge.questions.versions import Progress, QuestionSetVersion

VERSION_TAG = "fledge.version"
DIGEST_TAG = "fledge.digest"  # set last: without it a version is not whole
POSITION_TAG = "fledge.position"  # MLflow keeps records in no order
RECORD_TAGS = ("id", "topic", "split")
PAGE = 100
BATCH = 1000  # records in a call: about a second
ATTEMPTS = 8
NO_DATASETS = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED")


def read_dataset(client: MlflowClient, name: str, layout: QuestionLayout = PLAIN) -> Reading:
    """The questions of a dataset, by its id or name; of a registered set the newest version, unless one is named.

    Raises `InputError` where there is none, or several, or a version whose records were changed in MLflow.
    """
    with _datasets():
        found = _find(client, name)
        records = found.records
    source = f"dataset:{name if found.dataset_id == name else found.name}"
    rows = [Row(line, _values(record)) for line, record in enumerate(_in_order(records), 1)]
    layout.refuse_header_row(source)
    reading = collect(source, "record", rows)
    registered = found.tags.get(DIGEST_TAG, "")
    changed = bool(reading.errors) or not QuestionSet(source, reading.questions).has_digest(registered)
    if registered and changed and found.dataset_id != name:
        again = f"fledge questions register dataset:{found.dataset_id} --name {found.name.rpartition('/')[0]}"
        raise InputError(f"{source} was changed in MLflow since it was registered", hint=f"as a new version: {again}")
    return reading if layout == PLAIN else collect(source, "record", rows, layout=layout)


def versions(client: MlflowClient, name: str = "") -> list[QuestionSetVersion]:
    """All whole versions of one set, or of all, by name and newest first."""
    with _datasets():
        found = [dataset for dataset in _search(client, f"name LIKE '{name}/%'" if name else "") if _is_whole(dataset)]
    rows = [_version(dataset) for dataset in found]
    return sorted((row for row in rows if name in ("", row.name)), key=lambda row: (row.name, -row.version))


def register(
    client: MlflowClient, experiment_id: str, questions: QuestionSet, name: str, progress: Progress
) -> QuestionSetVersion:
    """Write a version, whole or not at all."""
    records = _records(questions)
    newest = next(iter(versions(client, name)), None)
    if newest and questions.has_digest(newest.digest):
        return newest
    with _datasets():
        if _named(client, name):
            raise InputError(f"MLflow has a dataset {name!r} that is no question set's", hint="choose another name")
        dataset = _create(client, experiment_id, name)
        try:
            for start in range(0, len(records), BATCH):
                progress(start, len(records))
                dataset.merge_records(records[start : start + BATCH])
            client.set_dataset_tags(dataset.dataset_id, {DIGEST_TAG: questions.digest})
        except BaseException:
            with shield_from_interrupts(), contextlib.suppress(MlflowException):
                client.delete_dataset(dataset.dataset_id)
            raise
        return _version(client.get_dataset(dataset.dataset_id), new=True)


@contextlib.contextmanager
def _datasets() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        hint = "give a file of questions, or another MLFLOW_TRACKING_URI"
        if error.error_code in NO_DATASETS:
            what = "the tracking server keeps no datasets: it is older than MLflow 3.4, or has no SQL store"
            raise FledgeError(what, hint=hint) from None
        if "500 error" in str(error):  # as a server of MLflow 3 that keeps its runs in files
            what = "the tracking server fails when it is asked for datasets; they need a SQL store"
            raise FledgeError(what, hint=hint) from None
        raise


def _find(client: MlflowClient, name: str) -> EvaluationDataset:
    if re.fullmatch("d-[0-9a-f]{32}", name):
        with contextlib.suppress(MlflowException):
            return client.get_dataset(name)
    found = _named(client, name)
    numbered = [dataset for dataset in _numbered(client, name).values() if _is_whole(dataset)]
    if len(found) + bool(numbered) > 1:
        ids = ", ".join(f"dataset:{dataset.dataset_id} ({dataset.name})" for dataset in [*found, *numbered])
        raise InputError(f"MLflow has several datasets that {name!r} may mean", hint=f"name one by its id: {ids}")
    if not (found or numbered):
        raise InputError(f"MLflow has no dataset {name!r}", hint="fledge questions list, or see the Datasets of MLflow")
    if found and VERSION_TAG in found[0].tags and not _is_whole(found[0]):
        raise InputError(
            f"dataset {name!r} is not whole: its registration goes on, or was interrupted", hint="register it again"
        )
    return found[0] if found else numbered[-1]


def _create(client: MlflowClient, experiment_id: str, name: str) -> EvaluationDataset:
    """An empty dataset for the next version.

    MLflow lets two have one name, and its times are no order: whoever finds another of the name tries again later.
    The number may then be left out, as a third has taken the next one meanwhile.
    """
    for attempt in range(ATTEMPTS):
        version = max(_numbered(client, name), default=0) + 1
        made = client.create_dataset(f"{name}/{version}", experiment_id, {VERSION_TAG: str(version)})
        if len(_named(client, made.name)) == 1:
            return made
        client.delete_dataset(made.dataset_id)
        time.sleep(random.uniform(0, 0.1 * 2**attempt))
    raise FledgeError(f"others keep registering {name!r} at the same time", hint="try again")


def _numbered(client: MlflowClient, name: str) -> dict[int, EvaluationDataset]:
    """All datasets called `name/1`, `name/2`, ..., in order."""
    found: dict[int, EvaluationDataset] = {}
    for dataset in _search(client, f"name LIKE {_quoted(name + '/%')}"):
        number = dataset.name.removeprefix(f"{name}/")
        if dataset.name.startswith(f"{name}/") and re.fullmatch("[1-9][0-9]{0,8}", number):
            found[int(number)] = dataset
    return dict(sorted(found.items()))


def _named(client: MlflowClient, name: str) -> list[EvaluationDataset]:
    return [dataset for dataset in _search(client, f"name = {_quoted(name)}") if dataset.name == name]


def _quoted(text: str) -> str:
    if "'" in text and '"' in text:
        raise InputError(f"a dataset cannot be looked for as {text!r}", hint="name it by its id: dataset:d-...")
    return f'"{text}"' if "'" in text else f"'{text}'"


def _search(client: MlflowClient, filter_string: str) -> Iterator[EvaluationDataset]:
    token: str | None = ""
    while token is not None:
        page = client.search_datasets(filter_string=filter_string or None, max_results=PAGE, page_token=token or None)
        yield from page
        token = page.token or None


def _is_whole(dataset: EvaluationDataset) -> bool:
    return VERSION_TAG in dataset.tags and DIGEST_TAG in dataset.tags


def _version(dataset: EvaluationDataset, *, new: bool = False) -> QuestionSetVersion:
    name, _, number = dataset.name.rpartition("/")
    count = json.loads(dataset.profile or "{}").get("num_records", 0)
    digest, created = dataset.tags[DIGEST_TAG], dataset.created_time / 1000
    return QuestionSetVersion(name, int(number), dataset.dataset_id, digest, count, created, new)


def _records(questions: QuestionSet) -> list[dict[str, Any]]:
    seen: dict[str, str] = {}
    records = []
    for position, item in enumerate(questions.questions):
        inputs = item.variables
        first = seen.setdefault(json.dumps(inputs, sort_keys=True), item.id)
        if first != item.id:
            raise InputError(
                f"{questions.source}: questions {first!r} and {item.id!r} are the same, which MLflow keeps once",
                hint=f"keep one of them; fledge questions validate {questions.source} shows all",
            )
        tags = {name: getattr(item, name) for name in RECORD_TAGS if getattr(item, name)}
        records.append(
            {
                "inputs": inputs,
                "expectations": {"expected_response": item.reference} if item.reference else {},
                "tags": {**tags, POSITION_TAG: str(position)},
                "source": {"source_type": "DOCUMENT", "source_data": {"doc_uri": questions.source}},
            }
        )
    return records


def _in_order(records: Sequence[DatasetRecord]) -> list[DatasetRecord]:
    """As they were registered; what others have added comes last."""

    def place(record: DatasetRecord) -> tuple[bool, int, int, str]:
        position = (record.tags or {}).get(POSITION_TAG, "")
        known = position.isdecimal()
        return not known, int(position) if known else 0, record.created_time, record.dataset_record_id

    return sorted(records, key=place)


def _values(record: DatasetRecord) -> dict[str, Any]:
    """As a row; of a dataset by others, what is expected beside the reference becomes columns."""
    tags = {name: text for name, text in (record.tags or {}).items() if name in RECORD_TAGS}
    expected = dict(record.expectations or {})
    reference = expected.pop("expected_response", None)
    if reference is None and isinstance(expected.get("expected_facts"), list):
        reference = "\n".join(map(str, expected.pop("expected_facts")))
    return {**tags, **expected, "reference": reference, **record.inputs}
