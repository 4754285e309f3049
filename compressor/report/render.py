"""A report as a page, as Markdown, as a model card, and on disk: what the rest of us calls."""

from __future__ import annotations

from pathlib import Path

from compressor.errors import ReportError
from compressor.files import write_whole
from compressor.measurements import RunReport
from compressor.report.model_card import render_model_card
from compressor.report.report_json import REPORT_JSON, as_read, read_report, to_json
from compressor.report.templating import fill_html, fill_markdown
from compressor.report.terminal import render_summary
from compressor.report.view import view_of

__all__ = [
    "read_report",
    "render_html",
    "render_markdown",
    "render_model_card",
    "render_summary",
    "write_report",
]


def render_html(report: RunReport) -> str:
    """Return a self-contained page: no scripts, nothing loaded from anywhere."""
    return fill_html("report.html.j2", report=report, view=view_of(report))


def render_markdown(report: RunReport) -> str:
    """Return the same facts as `render_html` in GitHub's Markdown, without the chart."""
    return fill_markdown("report.md.j2", report=report, view=view_of(report))


def write_report(report: RunReport, directory: Path) -> None:
    """Write `report.json`, `report.md` and `report.html` into `directory`.

    Each file appears whole or not at all, and the facts (JSON) are written before what is drawn
    from them. A number that is not finite becomes null, with the reason in `missing`.

    Raises `ReportError` when the directory cannot be written or a value is not plain data.
    """
    text, shown = to_json(report), as_read(report)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / REPORT_JSON, text)
        write_whole(directory / "report.md", render_markdown(shown))
        write_whole(directory / "report.html", render_html(shown))
    except OSError as error:
        raise ReportError(
            f"{directory}: the report cannot be written ({error}); give an output directory that "
            f"can be written and has room"
        ) from error
