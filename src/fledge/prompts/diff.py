"""Word diff of two texts."""

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
MANY = 4000
"""Above this number of tokens frequent ones are not used as anchors, which would take minutes."""


class DiffPart(NamedTuple):
    """Text that is in both (`equal`), in the first only (`delete`), or in the second only (`insert`)."""

    op: Literal["equal", "delete", "insert"]
    text: str


def word_diff(a: str, b: str) -> list[DiffPart]:
    """Return the diff: `equal` and `delete` parts joined are `a`, `equal` and `insert` parts joined are `b`."""
    old, new = _TOKEN.findall(a), _TOKEN.findall(b)
    parts: list[DiffPart] = []
    matcher = SequenceMatcher(None, old, new, autojunk=len(old) + len(new) > MANY)
    for op, start, end, new_start, new_end in matcher.get_opcodes():
        before, after = "".join(old[start:end]), "".join(new[new_start:new_end])
        if op == "equal":
            parts.append(DiffPart("equal", before))
            continue
        if before:
            parts.append(DiffPart("delete", before))
        if after:
            parts.append(DiffPart("insert", after))
    return parts
