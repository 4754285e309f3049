"""What a person reads after a run: the report in three forms, the model card, comparisons of runs.

Everything here is made from `report.json` alone, so that a report can be drawn again years later
and on a machine without torch.
"""
