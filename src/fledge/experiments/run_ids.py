"""References to runs: an id, a unique prefix of one, or `last`."""

from collections.abc import Collection

from fledge.core.errors import InputError

LAST = "last"
MIN_PREFIX = 4  # characters of a prefix
SHORT = 8
LISTED = 10
LIST_RUNS = f"fledge runs lists them; name one by its id, {MIN_PREFIX} or more characters of it, or {LAST}"


def match_run(name: str, run_ids: Collection[str]) -> str | None:
    """Return the run id that equals `name` or starts with it, None if there is none.

    Raises `InputError` if several start with it.
    """
    if name in run_ids:
        return name
    found = sorted(run_id for run_id in run_ids if run_id.startswith(name)) if len(name) >= MIN_PREFIX else []
    if len(found) > 1:
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise InputError(
            f"{len(found)} runs begin with {name!r}: {', '.join(found[:LISTED])}{more}", hint="add characters to it"
        )
    return found[0] if found else None


def short_id(run_id: str, others: Collection[str] = ()) -> str:
    """Return a prefix of `run_id` that no other id has, of at least 8 characters."""
    length = SHORT
    while length < len(run_id) and any(other.startswith(run_id[:length]) for other in others if other != run_id):
        length += 1
    return run_id[:length]
