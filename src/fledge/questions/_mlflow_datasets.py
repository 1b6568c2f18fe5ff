"""Question sets as MLflow evaluation datasets, usable directly in `mlflow.genai.evaluate`.

The question and the extra columns are a record's inputs, the reference is its expected response, and id, topic and
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
from fledge.core.types import Progress
from fledge.questions.layout import PLAIN, QuestionLayout
from fledge.questions.question_set import QuestionSet
from fledge.questions.rows import Reading, Row, collect
from fledge.questions.set_version import QuestionSetVersion

VERSION_TAG = "fledge.version"
DIGEST_TAG = "fledge.digest"  # set last; a version without it is incomplete
POSITION_TAG = "fledge.position"  # MLflow does not keep the order of records
RECORD_TAGS = ("id", "topic", "split")
PAGE = 100
BATCH = 1000  # records per call, about a second
ATTEMPTS = 8
NO_DATASETS = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED")


def read_dataset(client: MlflowClient, name: str, layout: QuestionLayout = PLAIN) -> Reading:
    """Read a dataset by id or name; for a registered set the newest version, unless one is given.

    Raises `InputError` if there is none, if the name is ambiguous, or if a version's records were changed in MLflow.
    """
    with _explain_errors():
        found = _find_dataset(client, name)
        records = found.records
    source = f"dataset:{name if found.dataset_id == name else found.name}"
    rows = [Row(line, _to_row(record)) for line, record in enumerate(_sort_records(records), 1)]
    layout.refuse_header_row(source)
    reading = collect(source, "record", rows)
    registered = found.tags.get(DIGEST_TAG, "")
    changed = bool(reading.errors) or not QuestionSet(source, reading.questions).has_digest(registered)
    if registered and changed and found.dataset_id != name:
        again = f"fledge questions register dataset:{found.dataset_id} --name {found.name.rpartition('/')[0]}"
        raise InputError(
            f"{source} was changed in MLflow since it was registered", hint=f"register it as a new version: {again}"
        )
    return reading if layout == PLAIN else collect(source, "record", rows, layout=layout)


def versions(client: MlflowClient, name: str = "") -> list[QuestionSetVersion]:
    """List all complete versions of one set, or of all sets, by name and newest first."""
    with _explain_errors():
        found = [
            dataset for dataset in _search(client, f"name LIKE '{name}/%'" if name else "") if _is_complete(dataset)
        ]
    rows = [_to_version(dataset) for dataset in found]
    return sorted((row for row in rows if name in ("", row.name)), key=lambda row: (row.name, -row.version))


def register(
    client: MlflowClient, experiment_id: str, questions: QuestionSet, name: str, progress: Progress
) -> QuestionSetVersion:
    """Write a version, or nothing on failure. Return the newest version if its questions are the same."""
    records = _to_records(questions)
    newest = next(iter(versions(client, name)), None)
    if newest and questions.has_digest(newest.digest):
        return newest
    with _explain_errors():
        if _find_named(client, name):
            raise InputError(f"MLflow has a dataset {name!r} that is not a question set", hint="choose another name")
        dataset = _create(client, experiment_id, name)
        try:
            for start in range(0, len(records), BATCH):
                progress(start, len(records), "records")
                dataset.merge_records(records[start : start + BATCH])
            client.set_dataset_tags(dataset.dataset_id, {DIGEST_TAG: questions.digest})
        except BaseException:
            with shield_from_interrupts(), contextlib.suppress(MlflowException):
                client.delete_dataset(dataset.dataset_id)
            raise
        return _to_version(client.get_dataset(dataset.dataset_id), new=True)


@contextlib.contextmanager
def _explain_errors() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        hint = "give a file of questions, or another MLFLOW_TRACKING_URI"
        if error.error_code in NO_DATASETS:
            what = "the tracking server does not support datasets: it is older than MLflow 3.4, or has no SQL store"
            raise FledgeError(what, hint=hint) from None
        if "500 error" in str(error):  # MLflow 3 with a file store
            what = "the tracking server fails to list datasets; they need a SQL store"
            raise FledgeError(what, hint=hint) from None
        raise


def _find_dataset(client: MlflowClient, name: str) -> EvaluationDataset:
    if re.fullmatch("d-[0-9a-f]{32}", name):
        with contextlib.suppress(MlflowException):
            return client.get_dataset(name)
    found = _find_named(client, name)
    numbered = [dataset for dataset in _find_numbered(client, name).values() if _is_complete(dataset)]
    if len(found) + bool(numbered) > 1:
        ids = ", ".join(f"dataset:{dataset.dataset_id} ({dataset.name})" for dataset in [*found, *numbered])
        raise InputError(f"{name!r} matches several datasets in MLflow", hint=f"give one by its id: {ids}")
    if not (found or numbered):
        raise InputError(f"MLflow has no dataset {name!r}", hint="fledge questions list, or see Datasets in MLflow")
    if found and VERSION_TAG in found[0].tags and not _is_complete(found[0]):
        raise InputError(
            f"dataset {name!r} is incomplete: its registration is running or was interrupted", hint="register it again"
        )
    return found[0] if found else numbered[-1]


def _create(client: MlflowClient, experiment_id: str, name: str) -> EvaluationDataset:
    """Create an empty dataset for the next version.

    MLflow allows duplicate names, and its creation times give no order: a writer that finds a duplicate deletes its own
    and retries. Version numbers can then have gaps.
    """
    for attempt in range(ATTEMPTS):
        version = max(_find_numbered(client, name), default=0) + 1
        made = client.create_dataset(f"{name}/{version}", experiment_id, {VERSION_TAG: str(version)})
        if len(_find_named(client, made.name)) == 1:
            return made
        client.delete_dataset(made.dataset_id)
        time.sleep(random.uniform(0, 0.1 * 2**attempt))
    raise FledgeError(f"cannot register {name!r}: other processes register it at the same time", hint="try again")


def _find_numbered(client: MlflowClient, name: str) -> dict[int, EvaluationDataset]:
    """Return all datasets called `name/1`, `name/2`, ... by version, in order."""
    found: dict[int, EvaluationDataset] = {}
    for dataset in _search(client, f"name LIKE {_quote(name + '/%')}"):
        number = dataset.name.removeprefix(f"{name}/")
        if dataset.name.startswith(f"{name}/") and re.fullmatch("[1-9][0-9]{0,8}", number):
            found[int(number)] = dataset
    return dict(sorted(found.items()))


def _find_named(client: MlflowClient, name: str) -> list[EvaluationDataset]:
    return [dataset for dataset in _search(client, f"name = {_quote(name)}") if dataset.name == name]


def _quote(text: str) -> str:
    if "'" in text and '"' in text:
        raise InputError(f"cannot search for a dataset called {text!r}", hint="give its id: dataset:d-...")
    return f'"{text}"' if "'" in text else f"'{text}'"


def _search(client: MlflowClient, filter_string: str) -> Iterator[EvaluationDataset]:
    token: str | None = ""
    while token is not None:
        page = client.search_datasets(filter_string=filter_string or None, max_results=PAGE, page_token=token or None)
        yield from page
        token = page.token or None


def _is_complete(dataset: EvaluationDataset) -> bool:
    return VERSION_TAG in dataset.tags and DIGEST_TAG in dataset.tags


def _to_version(dataset: EvaluationDataset, *, new: bool = False) -> QuestionSetVersion:
    name, _, number = dataset.name.rpartition("/")
    count = json.loads(dataset.profile or "{}").get("num_records", 0)
    digest, created = dataset.tags[DIGEST_TAG], dataset.created_time / 1000
    return QuestionSetVersion(name, int(number), dataset.dataset_id, digest, count, created, new)


def _to_records(questions: QuestionSet) -> list[dict[str, Any]]:
    seen: dict[str, str] = {}
    records = []
    for position, item in enumerate(questions.questions):
        inputs = item.variables
        first = seen.setdefault(json.dumps(inputs, sort_keys=True), item.id)
        if first != item.id:
            raise InputError(
                f"{questions.source}: questions {first!r} and {item.id!r} are the same, which MLflow stores once",
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


def _sort_records(records: Sequence[DatasetRecord]) -> list[DatasetRecord]:
    """Return records in the order of registration, then those added by others."""

    def place(record: DatasetRecord) -> tuple[bool, int, int, str]:
        position = (record.tags or {}).get(POSITION_TAG, "")
        known = position.isdecimal()
        return not known, int(position) if known else 0, record.created_time, record.dataset_record_id

    return sorted(records, key=place)


def _to_row(record: DatasetRecord) -> dict[str, Any]:
    """Return a record as a row; expectations other than the reference become columns."""
    tags = {name: text for name, text in (record.tags or {}).items() if name in RECORD_TAGS}
    expected = dict(record.expectations or {})
    reference = expected.pop("expected_response", None)
    if reference is None and isinstance(expected.get("expected_facts"), list):
        reference = "\n".join(map(str, expected.pop("expected_facts")))
    return {**tags, **expected, "reference": reference, **record.inputs}
