"""Engines turn prompts into text, each in a process of its own. Start with `engine.py` (what an engine is), then
`selection.py` (which one runs a model here) and `process.py` (where it runs)."""
