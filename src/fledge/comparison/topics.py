"""How many topics a verdict needs. Imports nothing heavy, so it can run before an experiment starts."""

import math
from collections.abc import Sequence


def fewest_signs(alpha: float) -> int:
    """Return the number of questions, or of topics, below which sign flips cannot give a p-value of `alpha`."""
    return math.ceil(math.log2(2 / alpha))


def explain_few_topics(topics: int, alpha: float) -> str:
    """Return a message if this number of topics cannot show any difference, else an empty string."""
    fewest = fewest_signs(alpha)
    if topics >= fewest:
        return ""
    return (
        f"{topics} topics are too few to show any difference (at least {fewest} are needed): "
        "ask about more topics, or compare with --independent"
    )


def warn_few_topics(topics: Sequence[str], arms: int, alpha: float) -> str:
    """Return `explain_few_topics` for a planned experiment with these question topics, or an empty string.

    Each question without a topic counts as one topic. One topic, or as many topics as questions, form no clusters.
    """
    count = len({topic for topic in topics if topic}) + sum(not topic for topic in topics)
    clustered = 1 < count < len(topics)
    return explain_few_topics(count, alpha / (arms - 1)) if arms > 1 and clustered else ""
