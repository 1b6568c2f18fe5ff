"""The log of alias moves in MLflow.

The log of NAME is the registered model `NAME.history`. Each entry is one of its versions and refers to the version that
the alias moves to. MLflow numbers versions consecutively, so all processes see the same order; an entry is valid unless
another one came in between (`moves.select_valid`). An entry is written before the aliases move. A process that finds an
unfinished entry finishes it first.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fledge.core.errors import ConflictError, InputError
from fledge.core.types import Say
from fledge.prompts.prompt import PromptStore
from fledge.registry._mlflow_versions import add_version
from fledge.registry.moves import LOG, AliasChange, AliasMove, HistoryNote, select_valid
from fledge.releases._mlflow_releases import PROMPT_TAG

LEASE_S = 10.0  # a move that takes longer is finished by the next process
POLL_S = 0.1
ATTEMPTS = 10
ENTRY_TAG = "fledge.move"
NOTE_TAG = "fledge.note"
DONE_TAG = "fledge.done"


class MoveLog:
    """The moves of the aliases of one registered model."""

    def __init__(self, client: MlflowClient, name: str, prompts: PromptStore, say: Say) -> None:
        self._client = client
        self._name = name
        self._prompts = prompts
        self._say = say

    def read(self) -> list[AliasMove]:
        """Return the valid moves, oldest first."""
        return select_valid(_parse_entry(item) for item in self._list_entries() if ENTRY_TAG in item.tags)

    def notes(self) -> list[HistoryNote]:
        """Return the notes, oldest first."""
        noted = (item for item in self._list_entries() if NOTE_TAG in item.tags)
        return sorted(
            (HistoryNote(**json.loads(item.tags[NOTE_TAG]), number=int(item.version)) for item in noted),
            key=lambda item: item.number,
        )

    def note(self, note: HistoryNote) -> None:
        """Append a note; notes do not affect moves."""
        content = asdict(note)
        del content["number"]
        self._add_entry(NOTE_TAG, content, note.after, f"{note.alias}: {note.action}, {note.reason}")

    def _list_entries(self) -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token: str | None = ""
        while token is not None:
            page = self._client.search_model_versions(
                f"name = '{self._name}{LOG}'", max_results=1000, page_token=token or None
            )
            found += page
            token = page.token or None
        return found

    def finish_pending(self) -> list[AliasMove]:
        """Finish moves that another process left unfinished, then return the valid moves."""
        moves = self.read()
        seen = time.monotonic()
        while pending := [move for move in moves if not move.done]:
            if all(_is_gone(move.owner) for move in pending) or time.monotonic() - seen > LEASE_S:
                for move in pending:
                    self._finish(move)
                return self.read()
            time.sleep(POLL_S)
            moves = self.read()
        return moves

    def add(self, make_move: Callable[[Sequence[AliasMove]], AliasMove]) -> AliasMove:
        """Log and apply the move that `make_move` returns for the valid moves so far.

        Raises `ConflictError`, with nothing moved, if another process moves the alias at the same time.
        """
        for _ in range(ATTEMPTS):
            moves = self.finish_pending()
            began = time.monotonic()
            move = make_move(moves)
            move = self._append(replace(move, follows=moves[-1].number if moves else 0))
            now = self.read()
            # If MLflow's response was lost, the client wrote the entry twice; only the first one is valid.
            mine = next((other for other in now if (other.owner, other.time) == (move.owner, move.time)), None)
            if mine is not None:
                self._apply(mine, began)
                return mine
            rival = next(other for other in now if other.number > move.follows)
            if rival.alias == move.alias:
                raise ConflictError(
                    f"{rival.who} moved {rival.name}@{rival.alias} to {rival.after} at the same time; your move was "
                    "not made",
                    hint=f"fledge history {rival.name}",
                )
        raise ConflictError(f"other processes keep moving the aliases of {self._name}", hint="try again")

    def current(self, alias: str) -> int | None:
        """Return the version that an alias refers to, None if there is none."""
        try:
            found = self._client.get_registered_model(self._name).aliases.get(alias)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise InputError(f"no registered model {self._name!r}", hint="fledge register") from None
        return int(found) if found is not None else None

    def is_shared(self, prompt: str, alias: str) -> bool:
        """Return whether a release with another name uses the prompt `name/version` and has the same alias."""
        using = self._client.search_model_versions(f"tags.`{PROMPT_TAG}` = '{prompt}'")
        versions = {(item.name, str(item.version)) for item in using if item.name != self._name}
        aliases = {name: self._client.get_registered_model(name).aliases for name, _ in versions}
        return any(str(aliases[name].get(alias)) == version for name, version in versions)

    def _append(self, move: AliasMove) -> AliasMove:
        content = asdict(move)
        del content["number"], content["done"]
        words = f"{move.alias}: {move.before or 'none'} -> {move.after}, by {move.who}: {move.reason}"
        return replace(move, number=self._add_entry(ENTRY_TAG, content, move.after, words))

    def _add_entry(self, tag: str, content: dict[str, Any], version: int | None, words: str) -> int:
        entry = add_version(
            self._client,
            f"{self._name}{LOG}",
            f"models:/{self._name}/{version}",
            tags={tag: json.dumps(content)},
            description=words,
            about={
                "tags": {"fledge.kind": "history"},
                "description": f"Who moved which alias of {self._name}, when and why: fledge history {self._name}",
            },
        )
        return int(entry.version)

    def _finish(self, move: AliasMove) -> None:
        """Apply an unfinished move of another process, if its version still exists."""
        where = f"{move.name}@{move.alias}"
        try:
            self._apply(move)
            self._say(f"{where}: finished the interrupted move to {move.after} by {move.who}")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._mark_done(move)
            self._say(f"{where}: dropped the interrupted move by {move.who}: version {move.after} no longer exists")

    def _mark_done(self, move: AliasMove) -> None:
        self._client.set_model_version_tag(f"{self._name}{LOG}", str(move.number), DONE_TAG, identify_process())

    def _apply(self, move: AliasMove, began: float | None = None) -> None:
        """Set the aliases and mark the entry as done; when late, stop if a newer move was logged."""
        for change in move.changes:
            late = began is not None and time.monotonic() - began > LEASE_S / 2
            if late and self.read()[-1].number != move.number:
                return
            self._set(change, move.alias)
        self._mark_done(move)
        newest = [other for other in self.read() if other.alias == move.alias][-1]
        if newest.number != move.number:  # this process was suspended, and a newer move was made meanwhile
            for change in newest.changes:
                self._set(change, newest.alias)

    def _set(self, change: AliasChange, alias: str) -> None:
        if change.kind == "model":
            self._client.set_registered_model_alias(change.name, alias, str(change.after))
            return
        try:
            if change.after is None:
                self._prompts.delete_alias(change.name, alias)
            else:
                self._prompts.set_alias(change.name, alias, change.after)
        except InputError:
            if change.after is not None:  # else there is no alias to delete
                self._say(f"prompt {change.name}/{change.after} no longer exists; its alias was not moved")


def identify_process() -> str:
    """Return host, process id and start time, by which other processes can tell whether this one is alive."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def _is_gone(owner: str) -> bool:
    """Return whether a process has ended; one on another machine counts as alive."""
    host, pid, created = owner.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != created
    except psutil.NoSuchProcess:
        return True


def _parse_entry(stored: ModelVersion) -> AliasMove:
    content = json.loads(stored.tags[ENTRY_TAG])
    content["changes"] = tuple(AliasChange(**change) for change in content["changes"])
    return AliasMove(**content, number=int(stored.version), done=DONE_TAG in stored.tags)
