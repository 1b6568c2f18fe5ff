"""Models: resolve a name to a snapshot, and check that its files are safe and consistent. Start with `snapshot.py`."""
