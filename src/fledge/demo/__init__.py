"""The demo: an end-to-end run with the public API (`end_to_end.py`), its prompts (`prompts.py`) and its report."""
