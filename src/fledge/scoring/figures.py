"""Latency, token counts and cost of an answer, as scores."""


def latency_s(latency_s: float) -> float:
    """Seconds to the whole answer. Lower is better. Source: the engine."""
    return latency_s


def ttft_s(ttft_s: float) -> float:
    """Seconds to the first token. Lower is better. Source: the engine."""
    return ttft_s


def prompt_tokens(prompt_tokens: int) -> float:
    """Tokens of the prompt. Neither way is better. Source: the engine."""
    return float(prompt_tokens)


def completion_tokens(completion_tokens: int) -> float:
    """Tokens of the answer. Neither way is better. Source: the engine."""
    return float(completion_tokens)


def cost(cost: float) -> float:
    """Cost of the answer at the configured prices. Lower is better. Source: tokens and prices."""
    return cost
