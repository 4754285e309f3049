"""The end of a run, good or bad: its verdict, and the report on disk in every case."""

from __future__ import annotations

import logging

from compressor.errors import (
    BudgetExceeded,
    CompressorError,
    EnvironmentMismatch,
    NotCertified,
    ReportError,
)
from compressor.measurements import RunReport, Verdict
from compressor.pipeline.log import RunLog
from compressor.pipeline.output import OutputDirectory
from compressor.report.render import write_report

logger = logging.getLogger(__name__)

PASSED = "every gate held"
_RESUME = "run the same command again, without --force, to resume after the last finished step"
STOPPED = f"stopped by you (Ctrl-C); {_RESUME}"
TERMINATED = f"stopped from outside (SIGTERM); {_RESUME}"


def verdict_of(error: CompressorError) -> Verdict:
    """Return the verdict of a run that `error` stopped."""
    if isinstance(error, NotCertified):
        return "not_certified"
    return "budget_exceeded" if isinstance(error, BudgetExceeded) else "failed"


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
