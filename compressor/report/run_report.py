"""The report that `compressor.run` returns: the facts of a run, which show themselves in Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressor import measurements
from compressor.report import gains, verdict
from compressor.report.report_json import as_read, to_plain
from compressor.report.templating import fill_html
from compressor.report.terminal import summary_text
from compressor.report.view import view_of
from compressor.words import printable


@dataclass(frozen=True, repr=False)
class RunReport(measurements.RunReport):
    """Everything a run found out; what is not known is null, with the reason in `missing`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `report.json`: plain types only, without per-example outcomes."""
        return to_plain(self)

    def __repr__(self) -> str:
        """Return how the run ended and what it gained, in one line."""
        shown = as_read(self)
        gained = gains.gained_shortly(shown) if shown.final else ""
        words = "; ".join(part for part in (verdict.headline(shown), gained) if part)
        return f"<RunReport {' '.join(printable(words).split())}>"

    def _repr_html_(self) -> str:
        """Return the first screen of `report.html` for a notebook, every value escaped."""
        shown = as_read(self)
        return fill_html("fragment.html.j2", report=shown, view=view_of(shown))

    def summary(self) -> str:
        """Return what `compress run` prints at its end, as plain text."""
        return summary_text(as_read(self))
