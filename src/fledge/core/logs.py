"""Logging of an endpoint's processes: lines `LEVEL: TEXT` on stderr, which the supervisor merges into one log."""

import logging


def start_logging(level: int = logging.INFO) -> None:
    """Write fledge's log records of at least `level` to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log = logging.getLogger("fledge")
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False
