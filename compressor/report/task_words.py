"""The words of a report's task, by its name."""

from __future__ import annotations

from compressor.measurements import RunReport
from compressor.tasks import ReportWords, task_class, task_names

_WORDS = ReportWords()


def words_of(report: RunReport) -> ReportWords:
    """Return how to speak of predictions; a classifier's words where no task here has the name."""
    return task_class(report.task).words if report.task in task_names() else _WORDS


def output_words(report: RunReport) -> str:
    """Return what people call the outputs of a report's model, such as `logits`."""
    return task_class(report.task).output_words if report.task in task_names() else "logits"
