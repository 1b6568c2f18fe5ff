"""Conversion to JSON."""

import math
from typing import Any


def jsonable(value: Any) -> Any:
    """Return a value with lists for tuples and None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value
