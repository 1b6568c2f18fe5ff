"""The interactive session behind `fledge chat` (`session.py`): turns and commands (`dialogue.py`, `commands.py`) and
the partner that answers (`partner.py`, `endpoint_partner.py`); and `load_model` for programs (`loaded_model.py`)."""
