"""Scores of one answer: `scorer.py` (what a scorer is and sees), `catalogue.py` (all of them, and a user's own),
`judge.py` (a model that grades), `calibration.py` (a judge against people)."""
