"""HTTP client of an endpoint: `client.py` (`Client`, `AsyncClient`) does the I/O for `address.py` (URLs, errors),
`calls.py` (requests) and `answers.py` (responses); `checks.py` is the smoke test."""
