"""Benchmarks of fledge against alternatives: `engines.py`, `experiments.py`, `serving.py`. Subjects run in their own
processes (`processes.py`, `servers.py`); `ratios.py` and `rounds.py` compute the figures."""
