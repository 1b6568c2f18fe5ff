"""Moves of aliases: a log to which anybody may append at any time, and which of its entries count."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

LOG = ".history"  # after a release's name: the registered model whose versions are the entries
IN_JSON = ("time", "who", "name", "alias", "action", "reason", "evidence", "forced", "digest")  # of an entry, in JSON


@dataclass(frozen=True)
class AliasChange:
    """An alias of a model or a prompt, from a version to another; None is no version."""

    kind: Literal["model", "prompt"]
    name: str
    before: int | None
    after: int | None

    @property
    def reversed(self) -> "AliasChange":
        return AliasChange(self.kind, self.name, self.after, self.before)


@dataclass(frozen=True)
class AliasMove:
    """Aliases that move together: the model's, which is the last of `changes`, and those of prompts.

    `follows` is the number of the newest entry that its author saw, `undoes` that of the move that a rollback takes
    back. `owner` is the process that carries it out. `number` and `done` are what the log says of it.
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
    """What happened to a release under an alias without a move of it: `before` is what is served, `after` what was
    tried. Nothing is taken back by a rollback."""

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
    forced: ClassVar[bool] = False  # as nothing was moved
    digest: ClassVar[str] = ""

    def as_dict(self) -> dict[str, Any]:
        """As `history` shows it."""
        shown = {name: getattr(self, name) for name in IN_JSON}
        return {**shown, "from": self.before, "to": self.after, "prompts": [], "number": self.number}


def in_force(moves: Iterable[AliasMove]) -> list[AliasMove]:
    """The entries that count, oldest first: of two that follow the same one the earlier, so that nobody moves what
    somebody else has just moved."""
    kept: list[AliasMove] = []
    for move in sorted(moves, key=lambda item: item.number):
        if not kept or kept[-1].number <= move.follows:
            kept.append(move)
    return kept


def to_undo(moves: Sequence[AliasMove], alias: str) -> AliasMove | None:
    """The move of an alias that a rollback takes back next, of those in force; None where none is left."""
    stack: list[AliasMove] = []
    for move in moves:
        if move.alias != alias:
            continue
        if move.action == "rollback":
            stack = stack[:-1]
        elif move.before != move.after:
            stack.append(move)
    return stack[-1] if stack else None
