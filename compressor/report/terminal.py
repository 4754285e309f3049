"""A run in a few lines on a terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compressor.measurements import RunReport
from compressor.report import (
    certificates,
    gains,
    provenance,
    runtimes,
    scores,
    target,
    units,
    verdict,
)
from compressor.report.predictions import prediction_lines
from compressor.report.table import table_rows
from compressor.words import printable

STYLES = {
    "passed": "green",
    "doubtful": "yellow",
    "budget_exceeded": "yellow",
    "not_certified": "yellow",
    "failed": "red",
    "stopped": "cyan",
    "internal_error": "red",
}
_WARNING = "yellow"
_WIDTH = 100  # of the summary as plain text


def render_summary(report: RunReport, *, with_reason: bool = False) -> Group:
    """Return what to print when a run ends, from the content of its `report.json`.

    With `with_reason` a run that did not end well says why; `compress` prints its error instead.
    """
    parts: list[RenderableType] = [headline_text(report)]
    parts += [Text(printable(text), style=_WARNING) for text in certificates.doubts(report)]
    if report.certification and (warning := certificates.readings_words(report)):
        parts.append(Text(printable(f"{warning}."), style=_WARNING))
    if with_reason and report.verdict in ("failed", "internal_error"):
        parts.append(plain(report.reason))
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True, min_width=len("measured"))
    facts.add_column(overflow="fold")
    for name, text in _facts(report):
        facts.add_row(name, plain(text))
    noise = provenance.noise_words(report)
    parts += [facts, *([Text(noise, style=_WARNING)] if noise else [])]
    if report.baseline is not None:
        parts.append(Padding(_steps(report), (1, 0, 0, 0)))
    lines = prediction_lines(report)
    parts += [Text(line) for line in (["", *lines] if lines else [])]
    return Group(*parts)


def summary_text(report: RunReport) -> str:
    """Return the summary as plain text, without colours."""
    console = Console(width=_WIDTH, no_color=True, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render_summary(report, with_reason=True))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def headline_text(report: RunReport) -> Text:
    """Return the headline with its full stop; how the run ended is coloured."""
    text = plain(f"{verdict.headline(report)}.")
    text.stylize(f"bold {STYLES[verdict.tone(report)]}", 0, len(plain(verdict.title(report))))
    return text


def plain(text: str) -> Text:
    """Return text in which neither markup nor control characters have an effect."""
    return Text(printable(" ".join(text.split())))


def _facts(report: RunReport) -> list[tuple[str, str]]:
    """Return what was measured, gained and comes next, each with its name."""
    proof = report.certificate
    is_proven = proof is not None and proof.verdict == "certified"
    # Elsewhere the headline says what was measured.
    found = [("measured", scores.measured_words(report) if is_proven else None)]
    found += [("gained", gains.gained_words(report)), ("goal", target.met_words(report))]
    found += [("fastest", runtimes.runtime_words(report))]
    found += [("reads", provenance.length_words(report))]
    found += [("code", provenance.own_code_words(report))]
    found += [("took", provenance.duration_words(report)), ("next", verdict.next_step(report))]
    return [(name, text) for name, text in found if text]


def _steps(report: RunReport) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("step", overflow="fold")
    metric = plain(units.metric_words(report.metric)).plain
    # A long name stands in two lines, so that those of the passes fit into one.
    score = Text(metric.replace(" ", "\n") if len(metric) > len("parameters") else metric)
    for heading in ("MB", "parameters", score, "points", "time"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in table_rows(report):
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
    return table
