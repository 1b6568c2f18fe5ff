"""The interactive session behind `fledge chat`: turns and commands (`dialogue.py`, `commands.py`), whoever answers
(`partner.py`, `endpoint_partner.py`), and what ties them together (`session.py`)."""
