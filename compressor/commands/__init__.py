"""Commands of `compress`, one in a file; `cli.py` has the usual ones."""
