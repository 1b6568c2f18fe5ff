"""Asking an endpoint over HTTP, as any program would: `checks.py` (smoke test, feedback), `events.py` (streams)."""
