"""Ask a model: `fledge chat` (`session.py`) with conversation (`dialogue.py`), commands (`commands.py`) and partners
(`partner.py`, `endpoint_partner.py`), and `load_model` for programs (`loaded_model.py`)."""
