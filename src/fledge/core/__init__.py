"""What all packages share, standard library only: `errors.py`, `settings.py`, `state.py` (private files), and the
messages between processes: `control.py` (supervisor and child), `messages.py` and `frames.py` (engine and its
client)."""
