"""The words of a report's task, by its name."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.measurements import RunReport
from compressor.tasks import ReportWords, task_class, task_names
from compressor.tasks.thresholds import CHOSEN

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
    told = [task_class(report.task).about_labels(report.labels), _threshold_words(report)]
    sentences = [f"{item[:1].upper()}{item[1:]}." for item in told if item is not None]
    return " ".join(sentences) or None


def _threshold_words(report: RunReport) -> str | None:
    """Say from which probability on labels are predicted, where that is not one half."""
    if not report.thresholds:
        return None
    model = report.recipe.get("model")
    chosen = isinstance(model, Mapping) and model.get("thresholds") == CHOSEN
    how = ", which was chosen by the original's F1 on the search split" if chosen else ""
    listed = ", ".join(f"{name} {value:.3g}" for name, value in report.thresholds.items())
    return f"a label is predicted from this probability on{how}: {listed}"


def output_name(report: RunReport) -> str:
    """Return what the one array is called that a report's model gives."""
    return task_class(report.task).output if report.task in task_names() else "logits"


def output_words(report: RunReport) -> str:
    """Return what people call the outputs of a report's model, such as `logits`."""
    return task_class(report.task).output_words if report.task in task_names() else "logits"
