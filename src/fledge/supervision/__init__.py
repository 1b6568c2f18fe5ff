"""The processes of an endpoint. `endpoints.py` has `serve`, `status`, `stop` and `restart`, `endpoint_health.py`
`monitor`; `supervisor.py` starts, watches and restarts the children (`process.py`) by `policy.py` (pure).
`config.py` has the settings, `checks.py` their validation."""
