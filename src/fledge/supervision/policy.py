"""When to restart a child: pure functions of its crashes and the clock."""

from dataclasses import dataclass, replace

LONGEST_DELAY_S = 60.0
HEALTHY_S = 600.0
LOOP_CRASHES = 5
LOOP_S = 120.0
KEPT_CRASHES = 8  # enough for the longest delay
PING_S = 2.0


@dataclass(frozen=True)
class Restarts:
    """The times of a child's crashes (seconds of a monotonic clock) and the number of its restarts."""

    crashes: tuple[float, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class Decision:
    """Whether to restart after `delay_s` or to give up."""

    delay_s: float
    give_up: bool
    record: Restarts


def after_crash(record: Restarts, now: float, *, candidate: bool = False) -> Decision:
    """Return the decision after a crash: delays of 1, 2, 4 ... 60 s, reset after ten healthy minutes.

    Five crashes in two minutes are a crash loop. A `candidate` is given up after five crashes in any time, as it may
    load for minutes before each.
    """
    recent = record.crashes if record.crashes and now - record.crashes[-1] < HEALTHY_S else ()
    crashes = (*recent, now)[-KEPT_CRASHES:]
    counted = [moment for moment in crashes if candidate or now - moment <= LOOP_S]
    delay = min(LONGEST_DELAY_S, 2.0 ** (len(crashes) - 1))
    return Decision(delay, len(counted) >= LOOP_CRASHES, replace(record, crashes=crashes, count=record.count + 1))


def is_hung(last_heard: float, now: float, timeout_s: float) -> bool:
    """Return whether to kill a child that last responded at `last_heard`."""
    return now - last_heard > timeout_s


def suspended_s(before: float, now: float) -> float:
    """Return the seconds for which the supervisor was suspended since `before`, such as by a closed laptop."""
    return max(0.0, now - before - 2 * PING_S)
