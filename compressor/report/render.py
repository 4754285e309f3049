"""`report.json` as a page, as Markdown, as a model card, and on disk: what the rest of us calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressor.errors import ReportError
from compressor.files import write_whole
from compressor.measurements import RunReport
from compressor.report.files import REPORT_JSON, read_report, to_json
from compressor.report.model_card import render_model_card
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


def render_html(data: dict[str, Any]) -> str:
    """Return a self-contained page: no scripts, nothing loaded from anywhere.

    `data` is the content of a `report.json`, as `read_report` or `RunReport.to_dict` returns it.
    """
    return fill_html("report.html.j2", data=data, view=view_of(data))


def render_markdown(data: dict[str, Any]) -> str:
    """Return the same facts as `render_html` in GitHub's Markdown, without the chart."""
    return fill_markdown("report.md.j2", data=data, view=view_of(data))


def write_report(report: RunReport, directory: Path) -> None:
    """Write `report.json`, `report.md` and `report.html` into `directory`.

    Each file appears whole or not at all, and the facts (JSON) are written before what is drawn
    from them. A number that is not finite becomes null, with the reason in `missing`.

    Raises `ReportError` when the directory cannot be written or a value is not plain data.
    """
    data, text = to_json(report.to_dict())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / REPORT_JSON, text)
        write_whole(directory / "report.md", render_markdown(data))
        write_whole(directory / "report.html", render_html(data))
    except OSError as error:
        raise ReportError(
            f"{directory}: the report cannot be written ({error}); give an output directory that "
            f"can be written and has room"
        ) from error
