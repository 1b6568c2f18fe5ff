"""Parts of sentences."""


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 answer`, `1,200 answers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
