"""A recipe carried out: passes and their gates, export, certificate, benchmark, report.

`run.py` goes through it from top to bottom; `step_store.py` and `output.py` keep what a stopped
run has done, so that the next one goes on from there.
"""
