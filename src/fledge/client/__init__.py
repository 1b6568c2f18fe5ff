"""Asking an endpoint over HTTP: `client.py` (`Client`, `AsyncClient`) on what does no I/O, `address.py` (URLs, errors),
`calls.py` and `answers.py`; `checks.py` is the smoke test."""
