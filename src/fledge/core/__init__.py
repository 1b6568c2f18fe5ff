"""Shared by all packages: `errors.py`, `settings.py`, `state.py` (private files), and the messages between processes:
`events.py` (supervisor and child, sent by `control.py`, validated by `decoding.py`), `messages.py` and `frames.py`
(engine and its client). `endpoint_config.py`, `endpoint_state.py` and `routes.py` define configuration and status of an
endpoint's processes."""
