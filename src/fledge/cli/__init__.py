"""The command line. `main.py` dispatches the commands and maps errors to exit codes. Each command module parses its
flags, calls one function and prints the result through `output.py`. `options.py` turns settings into flags."""
