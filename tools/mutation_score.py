"""Report the mutation score of each package: `mutmut results --all true | python tools/mutation_score.py`."""

import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable

log = logging.getLogger("mutation_score")

LEAST = 0.85
DETECTED = ("killed", "timeout")


def scores(results: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return for each package how many mutants the tests detect, and how many there are. `results` are lines such as
    `fledge.comparison.power.x_plan__mutmut_1: killed`."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in results:
        name, _, status = line.strip().partition(": ")
        if status and status != "not checked":
            found[name.split(".")[1]][status] += 1
    return {package: (sum(found[package][status] for status in DETECTED), found[package].total()) for package in found}


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    all_scores = scores(sys.stdin)
    for package, (detected, total) in all_scores.items():
        log.info("%-12s %5.1f %%  %d of %d mutants detected", package, 100 * detected / total, detected, total)
    if not all_scores or any(detected / total < LEAST for detected, total in all_scores.values()):
        sys.exit(f"error: a package is below {LEAST:.0%}; `mutmut show NAME` shows a mutant of `mutmut results`")
