"""Scoring of single answers: `scorer.py` (scorer and response types), `catalogue.py` (built-in and user scorers),
`judge.py` (LLM judge), `calibration.py` (agreement of a judge with human labels)."""
