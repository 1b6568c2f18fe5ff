"""Pure statistics of score tables: `table.py` (read, average by question), `statistics.py` (paired tests), `verdict.py`
(compare arms), `findings.py` (result types), `gates.py` (thresholds for one arm), `report.py` (HTML page)."""
