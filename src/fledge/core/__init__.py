"""What all packages share, standard library only: `errors.py`, `settings.py`, `state.py` (private files), and the
messages between processes: `events.py` (supervisor and child, sent by `control.py`, read strictly by `decoding.py`),
`messages.py` and `frames.py` (engine and its client). `endpoint_config.py`, `endpoint_state.py` and `routes.py` hold
what an endpoint's processes are told and tell of themselves."""
