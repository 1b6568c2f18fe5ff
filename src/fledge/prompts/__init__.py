"""Prompts: `prompt.py` (what one is), `template.py` (filling it in one pass), `format.py` (chat or completion),
`markdown.py` (prompts as files), `store.py` (versions and aliases, in MLflow's prompt registry or as artifacts)."""
