"""Models: finding one by any usual name, and making sure that its files are safe and are what they say. Start with
`snapshot.py`."""
