"""Download models from the Hugging Face Hub: resolve a revision once, fetch its files once, then work offline.

Files are in the Hub's own cache, where other tools find them too. A record beside them maps each revision to its
commit and lists the complete files. Interrupted downloads of weights resume.
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
ALTERNATIVES = "use --model embedded, or name a local folder"


class Fetched(NamedTuple):
    """A model's folder in the Hub's cache, and the repository's folder, which its links may point into."""

    name: str
    commit: str
    folder: Path
    repository: Path


def download(model: str, allowed: Callable[[str], bool], vet: Vet) -> Fetched:
    """Fetch `org/name[@revision]`: files with an allowed name and, after `vet` has passed them, the weights.

    Raises `InputError` if the Hub has no such model, `FledgeError` if it is refused or cannot be fetched.
    """
    name, _, revision = model.partition("@")

    def fetch(repository: Path, revision: str) -> tuple[str, list[str]]:
        return _fetch_snapshot(name, revision, repository, allowed, vet)

    return _fetch_once(name, revision, "", fetch)


def download_file(model: str, file: str, revision: str) -> Fetched:
    """Fetch one large file of the repository `model` (`org/name`), to the path `file` in the returned folder.

    Raises as `download`.
    """

    def fetch(repository: Path, revision: str) -> tuple[str, list[str]]:
        commit, sizes = _list_files(model, revision)
        if file not in sizes:
            others = [name for name in sizes if name.endswith(".gguf")]
            hint = f"--model {model}/{others[0]}" if others else "check the name on the model's page on the Hub"
            raise InputError(f"the Hub's {model} has no file {file!r}", hint=hint)
        _check_space(repository, sizes[file], "*.partial")
        _fetch_weights(model, file, commit, repository)
        return commit, [file]

    return _fetch_once(model, revision, file, fetch)


def is_cached(name: str, revision: str) -> bool:
    """Return whether the snapshot `org/name` of a revision is in the cache."""
    return bool(_cached_commit(_repository_folder(name), revision, ""))


def _fetch_once(name: str, revision: str, file: str, fetch: Callable[[Path, str], tuple[str, list[str]]]) -> Fetched:
    """Fetch a snapshot, or one `file`, unless it is cached. A revision keeps its commit for all later files."""
    constants.DOWNLOAD_CHUNK_SIZE = 2**20  # the most that an interruption loses
    revision = revision or constants.DEFAULT_REVISION
    try:
        repository = _repository_folder(name)
        commit = _cached_commit(repository, revision, file)
        if not commit:
            commit, files = fetch(repository, _read_record(repository)["revisions"].get(revision, revision))
            _write_record(repository, revision, commit, _key(commit, file), files)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        at = f"@{revision}" if revision != constants.DEFAULT_REVISION else ""
        raise _explain_error(error, f"{name}{f'/{file}' if file else ''}{at}") from None
    return Fetched(name, commit, repository / "snapshots" / commit, repository.resolve())


def _repository_folder(name: str) -> Path:
    folder: str = repo_folder_name(repo_id=name, repo_type="model")
    return Path(constants.HF_HUB_CACHE, folder)


def _cached_commit(repository: Path, revision: str, file: str) -> str:
    """Return the commit of a revision whose files are cached, empty if they are not."""
    record = _read_record(repository)
    commit = record["revisions"].get(revision, revision)
    folder = repository / "snapshots" / commit
    files = record["files"].get(_key(commit, file), [])
    return str(commit) if files and all((folder / part).is_file() for part in files) else ""


def _key(commit: str, file: str) -> str:
    return f"{commit}/{file}" if file else commit


def _list_files(name: str, revision: str) -> tuple[str, dict[str, int]]:
    """Return the commit of a revision, and the sizes of its files in bytes."""
    try:
        known = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        sizes = {file.rfilename: file.size or 0 for file in known.siblings or []}
        commit = str(known.sha)
    except (HfHubHTTPError, HFValidationError):
        raise
    except (ValueError, TypeError, AttributeError, KeyError):
        commit = ""
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise FledgeError(f"the server at {constants.ENDPOINT} is not the Hub", hint=ALTERNATIVES)
    return commit, sizes


def _fetch_snapshot(
    name: str, revision: str, repository: Path, allowed: Callable[[str], bool], vet: Vet
) -> tuple[str, list[str]]:
    commit, listed = _list_files(name, revision)
    sizes = {file: size for file, size in listed.items() if allowed(file)}
    refuse_adapter(sizes, name)
    texts = [file for file in sizes if not file.endswith(".safetensors")]
    if len(texts) == len(sizes):
        raise weights.missing_weights_error(name, [file for file in listed if file.endswith(".gguf")])
    for file in texts:
        if sizes[file] > size_limit(file):
            raise InputError(
                f"{name}/{file} has {sizes[file]:,} bytes; at most {size_limit(file):,} are accepted", hint=ALTERNATIVES
            )
        hf_hub_download(name, file, revision=commit)
    vet(repository / "snapshots" / commit, texts, name)
    used = weights.list_files(repository / "snapshots" / commit, list(sizes), name)
    _check_space(repository, sum(sizes[file] for file in used), "*")
    for file in used:
        _fetch_weights(name, file, commit, repository)
    return commit, sorted([*texts, *used])


def _check_space(repository: Path, size: int, kinds: str) -> None:
    """Raise `FledgeError` unless the disk has room for `size` bytes, minus the blobs matching `kinds`."""
    repository.mkdir(parents=True, exist_ok=True)
    kept = sum(path.stat().st_size for path in (repository / "blobs").glob(kinds))
    free = shutil.disk_usage(repository).free
    if free < size - kept:
        raise FledgeError(
            f"not enough space in {repository}: {free / 1e6:.0f} MB free, {(size - kept) / 1e6:.0f} MB needed",
            hint="free some space, or set HF_HOME to a folder on another disk",
        )


def _write_record(repository: Path, revision: str, commit: str, key: str, files: list[str]) -> None:
    with (repository / f"{RECORD}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = _read_record(repository)
        record["revisions"][revision] = commit
        record["files"][key] = files
        state.write_json(repository / RECORD, record)


def _fetch_weights(name: str, file: str, commit: str, repository: Path) -> None:
    """Download a file to the blob that the Hub's client expects, then let the client link it.

    The client itself would restart an interrupted download.
    """
    url = hf_hub_url(name, file, revision=commit)
    known = get_hf_file_metadata(url)
    if not (known.etag and known.size and known.etag.isalnum()):
        raise FledgeError(f"the Hub does not report the size and ETag of {name}/{file}", hint=ALTERNATIVES)
    if known.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        raise FledgeError(
            f"{name}/{file} has {known.size / 1e9:.0f} GB, more than the Hub serves over HTTP in one file",
            hint=f"run: hf download {name}, and name the folder that it prints",
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
                # Send the token to the Hub only, not to the store that it redirects to.
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
                if not _matches_etag(out, known.etag):
                    partial.unlink()
                    raise FledgeError(f"the download of {name}/{file} does not match its SHA-256", hint="try again")
                partial.rename(blob)
    hf_hub_download(name, file, revision=commit)


def _matches_etag(file: BufferedRandom, etag: str) -> bool:
    """Return whether a file matches its ETag; that of a large file is its SHA-256."""
    file.seek(0)
    return len(etag) != 64 or hashlib.file_digest(file, "sha256").hexdigest() == etag


def _read_record(repository: Path) -> dict[str, Any]:
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


def _explain_error(error: Exception, model: str) -> FledgeError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
    if isinstance(error, GatedRepoError) or status in (401, 403):
        return InputError(
            f"the Hub denies access to {model}: it is private, gated or does not exist",
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
            hint=f"{ALTERNATIVES}; or unset HF_HUB_OFFLINE once",
        )
    if isinstance(error, (httpx.ConnectError, httpx.TimeoutException, LocalEntryNotFoundError)):
        return FledgeError(
            f"the Hub cannot be reached, and {model} has not been fetched before: {error}", hint=ALTERNATIVES
        )
    return FledgeError(f"cannot fetch {model} from the Hub: {error}", hint=f"try again; or {ALTERNATIVES}")
