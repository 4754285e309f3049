"""What became of the goal of `budget.target`, in words."""

from __future__ import annotations

from compressor.measurements import RunReport, TargetRecord
from compressor.report import units

MISSED_TITLE = "Goal not reached"


def is_missed(report: RunReport) -> bool:
    """Tell whether the run stopped because nothing within the budget reached its goal."""
    target = report.target
    return report.verdict == "budget_exceeded" and target is not None and not target.met


def missed_words(report: RunReport) -> str:
    """Say how near the search came to the goal that it missed."""
    target = _searched(report)
    best = "no fraction that was tried is within the budget"
    if target.reached is not None:
        best = f"the best within the budget is {_figure(target)}"
    return f"asked for {target.goal}, and {best}"


def met_words(report: RunReport) -> str | None:
    """Say with which fraction the goal was met; None without a goal, or when it was not met."""
    target = report.target
    if target is None or not target.met:
        return None
    if not target.share:
        return (
            f"asked for {target.goal}, reached {_figure(target)}, with pass "
            f"{target.position + 1} left out"
        )
    return (
        f"asked for {target.goal}, reached {_figure(target)}, with "
        f"{100 * target.share:g}% of the fraction that the recipe allows in pass "
        f"{target.position + 1}"
    )


def advice(report: RunReport) -> str:
    """Say what to do about a goal that was missed."""
    tries = "the tries of the pass show what each fraction came to"
    tables = ""
    target = _searched(report)
    if target.kind == "max_megabytes" and report.task != "image-classification":
        tables = (
            " The fraction leaves the tables of words as they are: trim_vocabulary and int4 "
            "(embeddings of quantize_dynamic) make those smaller."
        )
    if target.share == 1:
        return f"Ask for less in budget.target, or let more go in the recipe; {tries}.{tables}"
    return (
        f"Ask for less in budget.target, raise budget.max_drop if that loss is acceptable, or "
        f"train longer after the cut; {tries}.{tables}"
    )


def _searched(report: RunReport) -> TargetRecord:
    assert report.target is not None
    return report.target


def _figure(target: TargetRecord) -> str:
    assert target.reached is not None
    if target.kind == "speedup":
        return f"{units.number(target.reached)} times as fast"
    return f"{units.megabytes(round(1e6 * target.reached))} MB"
