"""The command line. `main.py` has the commands, their errors and exit codes; a file for each family of them parses,
calls a verb and hands the result to `output.py`, the one file that prints. `options.py` makes flags of settings."""
