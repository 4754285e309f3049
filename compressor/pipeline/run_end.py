"""The end of a run, good or bad: its verdict, and the report on disk in every case."""

from __future__ import annotations

import logging

from compressor.errors import (
    BudgetExceeded,
    CompressorError,
    EnvironmentMismatch,
    NotCertified,
    ReportError,
    Terminated,
)
from compressor.measurements import Verdict
from compressor.pipeline.output import OutputDirectory
from compressor.pipeline.run_record import RunLog
from compressor.report.render import write_report
from compressor.report.run_report import RunReport

logger = logging.getLogger(__name__)

PASSED = "every gate held"


def verdict_of(error: CompressorError) -> Verdict:
    """Return the verdict of a run that `error` stopped."""
    if isinstance(error, NotCertified):
        return "not_certified"
    return "budget_exceeded" if isinstance(error, BudgetExceeded) else "failed"


def stopped_reason(stop: BaseException, *, forced: bool) -> str:
    """Say who stopped a run, and how it resumes: one that was `forced`, without --force."""
    who = "from outside (SIGTERM)" if isinstance(stop, Terminated) else "by you (Ctrl-C)"
    without = ", without --force," if forced else ""
    return f"stopped {who}; run the same command again{without} to resume"


def finish(
    directory: OutputDirectory, log: RunLog, verdict: Verdict, reason: str, guilty: str | None
) -> RunReport:
    """Write the report of everything known and return it.

    Raises `EnvironmentMismatch` when the report of a run that passed cannot be written.
    """
    report = log.report(verdict, reason, guilty)
    try:
        write_report(report, directory.path)
    except ReportError as error:
        if verdict == "passed":
            raise EnvironmentMismatch(str(error)) from error
        # The run already stops for a reason of its own, often the same full disk.
        logger.error("the report could not be written: %s", error)
    return report
