"""When to start a child again: pure functions of what happened and the clock."""

from dataclasses import dataclass, replace

LONGEST_DELAY_S = 60.0
HEALTHY_S = 600.0
LOOP_CRASHES = 5
LOOP_S = 120.0
KEPT_CRASHES = 8  # enough for the longest delay
PING_S = 2.0


@dataclass(frozen=True)
class Restarts:
    """A child's record: times of its crashes (seconds of a monotonic clock) and its restarts in all."""

    crashes: tuple[float, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class Decision:
    """Start again after `delay_s`, or `give_up`."""

    delay_s: float
    give_up: bool
    record: Restarts


def after_crash(record: Restarts, now: float, *, candidate: bool = False) -> Decision:
    """Delays of 1, 2, 4 ... 60 s; forgotten after ten healthy minutes; five crashes in two minutes are a crash loop.
    For what is a `candidate` five are enough, whatever time they took: it may load for minutes before it dies."""
    recent = record.crashes if record.crashes and now - record.crashes[-1] < HEALTHY_S else ()
    crashes = (*recent, now)[-KEPT_CRASHES:]
    counted = [moment for moment in crashes if candidate or now - moment <= LOOP_S]
    delay = min(LONGEST_DELAY_S, 2.0 ** (len(crashes) - 1))
    return Decision(delay, len(counted) >= LOOP_CRASHES, replace(record, crashes=crashes, count=record.count + 1))


def is_hung(heard: float, now: float, patience_s: float) -> bool:
    """Whether a child that was last heard of at `heard` is to be killed."""
    return now - heard > patience_s


def suspended_s(before: float, now: float) -> float:
    """Seconds for which the supervisor itself was stopped since it last looked, as on a laptop that was shut: nobody
    could be heard then."""
    return max(0.0, now - before - 2 * PING_S)
