"""The path of a request: `connection.py`, `lifecycle.py`, `security.py`, `app.py`, then `openai.py` or
`invocations.py`, `endpoint.py` (routing and admission), `completions.py` (the response), `events.py` (streams),
`outbox.py`. Bodies are in `request_models.py` and `response_models.py`. `server.py` is the process."""
