"""Engines turn prompts into text, each in its own process. Start with `engine.py` (the interface), then `selection.py`
(the choice of an engine) and `process.py` (the engine process)."""
