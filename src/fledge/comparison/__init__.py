"""Statistics over a table of scores, pure: `table.py` (read, averaged by question), `statistics.py` (paired tests),
`verdict.py` (who is better), `findings.py` (what that gives), `gates.py` for one arm, `report.py` (the page)."""
