"""Prompts: `prompt.py` (types), `template.py` (filling variables), `format.py` (chat or completion), `markdown.py`
(prompt files), `store.py` (versions and aliases, in MLflow's prompt registry or as artifacts)."""
