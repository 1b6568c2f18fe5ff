"""Alias moves: a log that any process may append to at any time, and which of its entries are valid."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

LOG = ".history"  # suffix of the registered model whose versions are the log entries
IN_JSON = ("time", "who", "name", "alias", "action", "reason", "evidence", "forced", "digest")  # fields of an entry


@dataclass(frozen=True)
class AliasChange:
    """A change of a model's or prompt's alias from version `before` to `after`; None is no version."""

    kind: Literal["model", "prompt"]
    name: str
    before: int | None
    after: int | None

    @property
    def reversed(self) -> "AliasChange":
        return AliasChange(self.kind, self.name, self.after, self.before)


@dataclass(frozen=True)
class AliasMove:
    """Aliases that move together: those of prompts, and the model's as the last of `changes`.

    `follows` is the number of the newest entry that its author saw, `undoes` the number of the move that a rollback
    reverts. `owner` is the process that applies it. `number` and `done` come from the log.
    """

    name: str
    alias: str
    action: Literal["promote", "rollback"]
    changes: tuple[AliasChange, ...]
    time: float
    who: str
    owner: str
    reason: str
    evidence: str | None = None
    forced: bool = False
    digest: str = ""
    undoes: int | None = None
    follows: int = 0
    number: int = 0
    done: bool = False

    @property
    def before(self) -> int | None:
        return self.changes[-1].before

    @property
    def after(self) -> int | None:
        return self.changes[-1].after

    def as_dict(self) -> dict[str, Any]:
        """As `history` shows it."""
        prompts = [asdict(change) for change in self.changes[:-1]]
        shown = {name: getattr(self, name) for name in IN_JSON}
        return {**shown, "from": self.before, "to": self.after, "prompts": prompts, "number": self.number}


@dataclass(frozen=True)
class HistoryNote:
    """An event under an alias that did not move it: `before` is the served version, `after` the one that was tried.
    A rollback ignores notes."""

    name: str
    alias: str
    action: Literal["refused", "canary"]
    before: int | None
    after: int
    time: float
    who: str
    reason: str
    evidence: str | None = None
    number: int = 0
    forced: ClassVar[bool] = False  # nothing was moved
    digest: ClassVar[str] = ""

    def as_dict(self) -> dict[str, Any]:
        """As `history` shows it."""
        shown = {name: getattr(self, name) for name in IN_JSON}
        return {**shown, "from": self.before, "to": self.after, "prompts": [], "number": self.number}


def select_valid(moves: Iterable[AliasMove]) -> list[AliasMove]:
    """Return the valid entries, oldest first: of entries that follow the same one, only the earliest, so that no
    process overwrites a move that it has not seen."""
    valid: list[AliasMove] = []
    for move in sorted(moves, key=lambda item: item.number):
        if not valid or valid[-1].number <= move.follows:
            valid.append(move)
    return valid


def find_undoable(moves: Sequence[AliasMove], alias: str) -> AliasMove | None:
    """Return the valid move of an alias that a rollback reverts next, None if none is left."""
    stack: list[AliasMove] = []
    for move in moves:
        if move.alias != alias:
            continue
        if move.action == "rollback":
            stack = stack[:-1]
        elif move.before != move.after:
            stack.append(move)
    return stack[-1] if stack else None
