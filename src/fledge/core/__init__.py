"""What all packages share, standard library only: `errors.py`, `settings.py`, `state.py` (private files), and the
messages between processes: `events.py` (supervisor and child, sent by `control.py`, parsed strictly by
`decoding.py`), `messages.py` and `frames.py` (engine and client). `endpoint_config.py`, `endpoint_state.py` and
`routes.py` describe an endpoint's processes."""
