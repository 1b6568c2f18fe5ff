"""The log of moves in MLflow, and carrying them out.

The log of NAME is the registered model `NAME.history`: each entry is a version of it, which refers to the version that
the alias moves to. MLflow numbers versions one after the other, so there is one order for everybody, and an entry
counts unless another one came in between (`moves.in_force`). An entry is written before any alias moves: whoever finds
one that was not carried out to its end does that first.
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
from fledge.registry.moves import LOG, AliasChange, AliasMove, HistoryNote, in_force
from fledge.releases._mlflow_releases import PROMPT_TAG

LEASE_S = 10.0  # a move that takes longer is finished by whoever comes next
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
        """The moves in force, oldest first."""
        return in_force(_entry(item) for item in self._entries() if ENTRY_TAG in item.tags)

    def notes(self) -> list[HistoryNote]:
        """What was noted beside the moves, oldest first."""
        noted = (item for item in self._entries() if NOTE_TAG in item.tags)
        return sorted(
            (HistoryNote(**json.loads(item.tags[NOTE_TAG]), number=int(item.version)) for item in noted),
            key=lambda item: item.number,
        )

    def note(self, note: HistoryNote) -> None:
        """Append a note. It stands in nobody's way: moves do not see it."""
        content = asdict(note)
        del content["number"]
        self._add_entry(NOTE_TAG, content, note.after, f"{note.alias}: {note.action}, {note.reason}")

    def _entries(self) -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token: str | None = ""
        while token is not None:
            page = self._client.search_model_versions(
                f"name = '{self._name}{LOG}'", max_results=1000, page_token=token or None
            )
            found += page
            token = page.token or None
        return found

    def settle(self) -> list[AliasMove]:
        """The moves in force, after those that were begun and not ended have been ended."""
        moves = self.read()
        seen = time.monotonic()
        while undone := [move for move in moves if not move.done]:
            if all(_is_gone(move.owner) for move in undone) or time.monotonic() - seen > LEASE_S:
                for move in undone:
                    self._end(move)
                return self.read()
            time.sleep(POLL_S)
            moves = self.read()
        return moves

    def add(self, wanted: Callable[[Sequence[AliasMove]], AliasMove]) -> AliasMove:
        """Carry out the move that `wanted` makes of those in force.

        Raises `ConflictError` where somebody else moves the alias meanwhile; nothing has moved then.
        """
        for _ in range(ATTEMPTS):
            moves = self.settle()
            began = time.monotonic()
            move = wanted(moves)
            move = self._append(replace(move, follows=moves[-1].number if moves else 0))
            now = self.read()
            # Where MLflow's answer was lost on its way, it was written twice, and the first one counts.
            mine = next((other for other in now if (other.owner, other.time) == (move.owner, move.time)), None)
            if mine is not None:
                self._carry_out(mine, began)
                return mine
            rival = next(other for other in now if other.number > move.follows)
            if rival.alias == move.alias:
                raise ConflictError(
                    f"{rival.who} has just moved {rival.name}@{rival.alias} to {rival.after}; nothing else was moved",
                    hint=f"fledge history {rival.name}",
                )
        raise ConflictError(f"others keep moving the aliases of {self._name}", hint="try again")

    def current(self, alias: str) -> int | None:
        """The version that an alias means."""
        try:
            found = self._client.get_registered_model(self._name).aliases.get(alias)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise InputError(f"no registered model {self._name!r}", hint="fledge register") from None
        return int(found) if found is not None else None

    def is_shared(self, prompt: str, alias: str) -> bool:
        """Whether a release of another model has the prompt `name/version` and the same alias."""
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

    def _end(self, move: AliasMove) -> None:
        """Carry out what somebody else began, as far as what it moves is still there."""
        where = f"{move.name}@{move.alias}"
        try:
            self._carry_out(move)
            self._say(f"{where}: {move.who} began to move it to {move.after} and did not end; ended now")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._mark_done(move)
            self._say(f"{where}: {move.who} began to move it to {move.after}, which is not there any more")

    def _mark_done(self, move: AliasMove) -> None:
        self._client.set_model_version_tag(f"{self._name}{LOG}", str(move.number), DONE_TAG, owner())

    def _carry_out(self, move: AliasMove, began: float | None = None) -> None:
        """Set the aliases and mark the entry. One that is late looks first whether it still is its turn."""
        for change in move.changes:
            late = began is not None and time.monotonic() - began > LEASE_S / 2
            if late and self.read()[-1].number != move.number:
                return
            self._set(change, move.alias)
        self._mark_done(move)
        newest = [other for other in self.read() if other.alias == move.alias][-1]
        if newest.number != move.number:  # it went to sleep, and woke up when others had moved on
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
            if change.after is not None:  # else it is gone, as it should be
                self._say(f"prompt {change.name}/{change.after} is not there any more, and its alias stays as it is")


def owner() -> str:
    """This process, so that others can tell whether it lives."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def _is_gone(owner: str) -> bool:
    """Whether a process has ended, as far as can be told from here: that of another machine may be alive."""
    host, pid, created = owner.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != created
    except psutil.NoSuchProcess:
        return True


def _entry(stored: ModelVersion) -> AliasMove:
    content = json.loads(stored.tags[ENTRY_TAG])
    content["changes"] = tuple(AliasChange(**change) for change in content["changes"])
    return AliasMove(**content, number=int(stored.version), done=DONE_TAG in stored.tags)
