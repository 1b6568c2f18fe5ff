"""How many topics a verdict needs. Imports nothing heavy, so it can run before an experiment starts."""

import math
from collections.abc import Sequence


def fewest_signs(alpha: float) -> int:
    """Return the number of questions, or of topics, below which sign flips cannot give a p-value of `alpha`."""
    return math.ceil(math.log2(2 / alpha))


def too_few(topics: int, alpha: float) -> str:
    """Return a message if so few topics cannot show any difference, else an empty string."""
    fewest = fewest_signs(alpha)
    if topics >= fewest:
        return ""
    return (
        f"{topics} topics are too few to show any difference (at least {fewest} are needed): "
        "ask about more topics, or compare with --independent"
    )


def warn_few_topics(topics: Sequence[str], arms: int, alpha: float) -> str:
    """Return the message of `too_few` for a planned experiment with these question topics, else an empty string.

    Each question without a topic counts as one topic. One topic, or as many topics as questions, form no clusters.
    """
    count = len({topic for topic in topics if topic}) + sum(not topic for topic in topics)
    clustered = 1 < count < len(topics)
    return too_few(count, alpha / (arms - 1)) if arms > 1 and clustered else ""
