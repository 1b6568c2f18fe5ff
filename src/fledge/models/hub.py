"""The Hugging Face Hub: a revision resolved to a commit once, its files fetched once, and offline from then on.

Files lie in the Hub's own cache, so that other tools find them too. Beside them a record says which commit each
revision that was asked for means here, and which files of it are whole. A weight file that was cut off, whatever the
reason, resumes where it stopped.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection
from io import BufferedRandom
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers

from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.models import weights
from fledge.models.config_files import refuse_adapter, size_limit

Vet = Callable[[Path, Collection[str], str], object]

RECORD = "fledge.json"
INSTEAD = "use --model embedded, or name a local folder"


class Fetched(NamedTuple):
    """A model's folder in the Hub's cache, and the folder of its repository that links in it may lead to."""

    name: str
    commit: str
    folder: Path
    repository: Path


def download(model: str, allowed: Callable[[str], bool], vet: Vet) -> Fetched:
    """Fetch `org/name[@revision]`: files with an allowed name and, once `vet` let those pass, the weights.

    Raises `InputError` where the Hub has no such model, `FledgeError` where it must not be loaded or cannot be had.
    """
    name, _, revision = model.partition("@")

    def fetch(repository: Path, revision: str) -> tuple[str, list[str]]:
        return _fetch(name, revision, repository, allowed, vet)

    return _once(name, revision, "", fetch)


def download_file(model: str, file: str, revision: str) -> Fetched:
    """Fetch one large file of the repository `model`, `org/name`; its path is `file` in the folder returned.

    Raises as `download`.
    """

    def fetch(repository: Path, revision: str) -> tuple[str, list[str]]:
        commit, sizes = _listed(model, revision)
        if file not in sizes:
            others = [name for name in sizes if name.endswith(".gguf")]
            hint = f"--model {model}/{others[0]}" if others else "check the name on the Hub's page of the model"
            raise InputError(f"the Hub's {model} has no file {file!r}", hint=hint)
        _check_room(repository, sizes[file], "*.partial")
        _fetch_weights(model, file, commit, repository)
        return commit, [file]

    return _once(model, revision, file, fetch)


def is_here(name: str, revision: str) -> bool:
    """Whether a snapshot `org/name` of a revision was fetched before."""
    return bool(_recorded(_repository(name), revision, ""))


def _once(name: str, revision: str, file: str, fetch: Callable[[Path, str], tuple[str, list[str]]]) -> Fetched:
    """What `fetch` fetches of a revision, unless it was fetched before: a whole snapshot, or one `file`.

    What a revision means here stays the same, whichever of its files are fetched when.
    """
    constants.DOWNLOAD_CHUNK_SIZE = 2**20  # what an interruption loses at most
    revision = revision or constants.DEFAULT_REVISION
    try:
        repository = _repository(name)
        commit = _recorded(repository, revision, file)
        if not commit:
            commit, files = fetch(repository, _read(repository)["revisions"].get(revision, revision))
            _record(repository, revision, commit, _key(commit, file), files)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        at = f"@{revision}" if revision != constants.DEFAULT_REVISION else ""
        raise _explained(error, f"{name}{f'/{file}' if file else ''}{at}") from None
    return Fetched(name, commit, repository / "snapshots" / commit, repository.resolve())


def _repository(name: str) -> Path:
    folder: str = repo_folder_name(repo_id=name, repo_type="model")
    return Path(constants.HF_HUB_CACHE, folder)


def _recorded(repository: Path, revision: str, file: str) -> str:
    """The commit of a revision whose files are here, empty where they are not."""
    record = _read(repository)
    commit = record["revisions"].get(revision, revision)
    folder = repository / "snapshots" / commit
    files = record["files"].get(_key(commit, file), [])
    return str(commit) if files and all((folder / part).is_file() for part in files) else ""


def _key(commit: str, file: str) -> str:
    return f"{commit}/{file}" if file else commit


def _listed(name: str, revision: str) -> tuple[str, dict[str, int]]:
    """The commit that a revision means, and the sizes of its files."""
    try:
        known = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        sizes = {file.rfilename: file.size or 0 for file in known.siblings or []}
        commit = str(known.sha)
    except (HfHubHTTPError, HFValidationError):
        raise
    except (ValueError, TypeError, AttributeError, KeyError):
        commit = ""
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise FledgeError(f"what answers at {constants.ENDPOINT} is not the Hub", hint=INSTEAD)
    return commit, sizes


def _fetch(
    name: str, revision: str, repository: Path, allowed: Callable[[str], bool], vet: Vet
) -> tuple[str, list[str]]:
    commit, listed = _listed(name, revision)
    sizes = {file: size for file, size in listed.items() if allowed(file)}
    refuse_adapter(sizes, name)
    texts = [file for file in sizes if not file.endswith(".safetensors")]
    if len(texts) == len(sizes):
        raise weights.missing(name, [file for file in listed if file.endswith(".gguf")])
    for file in texts:
        if sizes[file] > size_limit(file):
            raise InputError(f"{name}/{file} has {sizes[file]:,} bytes, too many for what it is", hint=INSTEAD)
        hf_hub_download(name, file, revision=commit)
    vet(repository / "snapshots" / commit, texts, name)
    used = weights.files(repository / "snapshots" / commit, list(sizes), name)
    _check_room(repository, sum(sizes[file] for file in used), "*")
    for file in used:
        _fetch_weights(name, file, commit, repository)
    return commit, sorted([*texts, *used])


def _check_room(repository: Path, size: int, kinds: str) -> None:
    """Raise `FledgeError` unless there is room for `size` bytes, of which blobs of `kinds` are here already."""
    repository.mkdir(parents=True, exist_ok=True)
    kept = sum(path.stat().st_size for path in (repository / "blobs").glob(kinds))
    free = shutil.disk_usage(repository).free
    if free < size - kept:
        raise FledgeError(
            f"no room in {repository}: {free / 1e6:.0f} MB free, {(size - kept) / 1e6:.0f} MB needed",
            hint="free some space, or set HF_HOME to a folder elsewhere",
        )


def _record(repository: Path, revision: str, commit: str, key: str, files: list[str]) -> None:
    with (repository / f"{RECORD}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = _read(repository)
        record["revisions"][revision] = commit
        record["files"][key] = files
        state.write_json(repository / RECORD, record)


def _fetch_weights(name: str, file: str, commit: str, repository: Path) -> None:
    """Put a file's content where the Hub's client looks for it, then let it link the file.

    The client itself starts a file afresh after an interruption; gigabytes are worth going on with.
    """
    url = hf_hub_url(name, file, revision=commit)
    known = get_hf_file_metadata(url)
    if not (known.etag and known.size and known.etag.isalnum()):
        raise FledgeError(f"the Hub does not tell the size and content of {name}/{file}", hint=INSTEAD)
    if known.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        raise FledgeError(
            f"{name}/{file} has {known.size / 1e9:.0f} GB, more than the Hub gives in one file over HTTP",
            hint=f"fetch it with: hf download {name}, and name the folder that it prints",
        )
    blob = repository / "blobs" / known.etag
    partial = blob.with_name(f"{known.etag}.partial")
    if not blob.exists():
        blob.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("a+b") as out:
            fcntl.flock(out, fcntl.LOCK_EX)  # another process may be fetching it
            if not blob.exists():
                if out.seek(0, os.SEEK_END) > known.size:
                    out.truncate(out.seek(0))
                # A token is for the Hub, not for the store that it redirects to.
                headers = build_hf_headers() if urlsplit(known.location).netloc == urlsplit(url).netloc else {}
                http_get(
                    known.location,
                    out,
                    resume_size=out.tell(),
                    headers=headers,
                    expected_size=known.size,
                    displayed_filename=file,
                )
                out.flush()
                os.fsync(out.fileno())
                if not _has_content(out, known.etag):
                    partial.unlink()
                    raise FledgeError(f"what the Hub sent of {name}/{file} is not its content", hint="try again")
                partial.rename(blob)
    hf_hub_download(name, file, revision=commit)


def _has_content(file: BufferedRandom, etag: str) -> bool:
    """The Hub names large files by their SHA-256."""
    file.seek(0)
    return len(etag) != 64 or hashlib.file_digest(file, "sha256").hexdigest() == etag


def _read(repository: Path) -> dict[str, Any]:
    empty: dict[str, Any] = {"revisions": {}, "files": {}}
    try:
        record = json.loads((repository / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return empty
    return record if _is_record(record) else empty


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not all(isinstance(record.get(key), dict) for key in ("revisions", "files")):
        return False
    commits, files = record["revisions"].values(), record["files"].values()
    return all(isinstance(commit, str) for commit in commits) and all(isinstance(names, list) for names in files)


def _explained(error: Exception, model: str) -> FledgeError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
    if isinstance(error, GatedRepoError) or status in (401, 403):
        return InputError(
            f"the Hub does not let you read {model}: it is private or gated, or there is no model of that name",
            hint="export HF_TOKEN=... (from the Hub's settings, with access to the model)",
        )
    if isinstance(error, HFValidationError):
        return InputError(f"{model!r} is not a Hub id: {error}", hint="org/name, or org/name@revision")
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"the Hub's {model.partition('@')[0]} has no such revision", hint="leave @revision out")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return InputError(f"the Hub has no model {model!r}", hint="check the name, or export HF_TOKEN=... if private")
    if isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return FledgeError(
            f"HF_HUB_OFFLINE is set, and {model} has not been fetched before",
            hint=f"{INSTEAD}; or unset HF_HUB_OFFLINE once",
        )
    if isinstance(error, (httpx.ConnectError, httpx.TimeoutException, LocalEntryNotFoundError)):
        return FledgeError(f"the Hub cannot be reached, and {model} has not been fetched before: {error}", hint=INSTEAD)
    return FledgeError(f"cannot fetch {model} from the Hub: {error}", hint=f"try again; or {INSTEAD}")
