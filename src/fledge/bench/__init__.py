"""Programs that measure fledge against what one would use instead: `engines.py`, `experiments.py`, `serving.py`. What
they measure runs in processes of its own (`processes.py`, `servers.py`); `ratios.py` and `rounds.py` make the
figures."""
