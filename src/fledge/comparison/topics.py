"""Topics: how many of them it takes for a verdict. Loads nothing, to be asked before an experiment starts."""

import math
from collections.abc import Sequence


def fewest_signs(alpha: float) -> int:
    """Return the number of questions, or of topics, below which sign flips cannot give a p-value of `alpha`."""
    return math.ceil(math.log2(2 / alpha))


def too_few(topics: int, alpha: float) -> str:
    """Say that no difference can ever be shown with so few topics; nothing where it can."""
    fewest = fewest_signs(alpha)
    if topics >= fewest:
        return ""
    return (
        f"{topics} topics are too few to show any difference (at least {fewest} are needed): "
        "ask about more topics, or compare with --independent"
    )


def warn_few_topics(topics: Sequence[str], arms: int, alpha: float) -> str:
    """The same of the topics of questions that are to be asked of `arms` arms. A question without a topic is one of its
    own; a single topic relates nothing, nor do as many as there are questions."""
    count = len({topic for topic in topics if topic}) + sum(not topic for topic in topics)
    clustered = 1 < count < len(topics)
    return too_few(count, alpha / (arms - 1)) if arms > 1 and clustered else ""
