"""Asking a model from here: the interactive session behind `fledge chat`, of turns and commands (`dialogue.py`,
`commands.py`), whoever answers (`partner.py`, `endpoint_partner.py`), and what ties them together (`session.py`); and
`load_model` for programs (`loaded_model.py`)."""
