"""The demo: an end-to-end run through the public verbs (`end_to_end.py`), what it compares (`prompts.py`), its
report."""
