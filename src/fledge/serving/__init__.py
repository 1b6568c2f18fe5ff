"""The path of a request: `connection.py`, `lifecycle.py`, `security.py`, `app.py`, then `openai.py` or
`invocations.py`, `endpoint.py` (who answers, and is there room), `events.py` (streams), `outbox.py`. `server.py` is the
process."""
