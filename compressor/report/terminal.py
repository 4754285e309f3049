"""A run in a few lines on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from compressor.report import provenance, target, units, verdict
from compressor.report.table import table_rows
from compressor.report.templating import printable

STYLES = {
    "passed": "green",
    "budget_exceeded": "yellow",
    "not_certified": "yellow",
    "failed": "red",
    "stopped": "yellow",
    "internal_error": "red",
}
_DOUBT = "yellow"


def render_summary(data: dict[str, Any]) -> Group:
    """Return what to print when a run ends, from the content of its `report.json`."""
    doubts = [Text(printable(text), style=_DOUBT) for text in verdict.doubts(data)]
    style = STYLES[data["verdict"]]
    if doubts and data["verdict"] == "passed":
        style = _DOUBT  # it passed what proves nothing
    banner = Text(f"{verdict.title(data)}: ", style=f"bold {style}")
    banner.append_text(plain(verdict.headline(data)))
    if (goal := target.met_words(data)) is not None:
        banner.append_text(plain(f". {goal}"))
    parts = [banner]
    if (lengths := provenance.length_words(data)) is not None:
        parts.append(plain(lengths))
    if data["baseline"] is None:
        return Group(*parts, *doubts)
    noise = provenance.noise_words(data)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("step", overflow="fold")
    metric = units.metric_words(data["metric"])
    for heading in ("MB", "parameters", plain(metric), "points", "time"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in table_rows(data):
        table.add_row(
            plain(row.name),
            row.megabytes,
            row.parameters,
            row.score,
            row.change,
            row.seconds,
            Text(row.verdict, style=STYLES.get(row.state, "dim")),
            style="bold" if row.role == "final" else "",
        )
    busy = [Text(noise, style="yellow")] if noise else []
    return Group(*parts, *doubts, *busy, table)


def plain(text: str) -> Text:
    """Return text in which neither markup nor control characters have an effect."""
    return Text(printable(" ".join(text.split())))
