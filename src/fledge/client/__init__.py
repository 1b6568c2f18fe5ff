"""HTTP client of an endpoint: `client.py` (`Client`, `AsyncClient`) does the I/O, `address.py` has URLs and errors,
`calls.py` the requests, `answers.py` the responses, and `checks.py` a smoke test."""
