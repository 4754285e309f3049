"""The words of a report's task, by its name."""

from __future__ import annotations

from compressor.measurements import RunReport
from compressor.tasks import ReportWords, task_class, task_names

_WORDS = ReportWords()


def words_of(report: RunReport) -> ReportWords:
    """Return how to speak of predictions; a classifier's words where no task here has the name."""
    return task_class(report.task).words if report.task in task_names() else _WORDS


def cuts_texts(report: RunReport) -> bool:
    """Return whether longer texts are cut to what a model reads."""
    return report.task not in task_names() or task_class(report.task).cuts_texts


def about_labels(report: RunReport) -> str | None:
    """Return what label names say besides what classes are called, such as the scheme of tags."""
    if report.task not in task_names():
        return None
    told = task_class(report.task).about_labels(report.labels)
    return None if told is None else f"{told[:1].upper()}{told[1:]}."


def output_words(report: RunReport) -> str:
    """Return what people call the outputs of a report's model, such as `logits`."""
    return task_class(report.task).output_words if report.task in task_names() else "logits"
