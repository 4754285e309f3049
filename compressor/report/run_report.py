"""The report that `compressor.run` returns: the facts of a run, which show themselves in Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressor import measurements
from compressor.report import gains, verdict
from compressor.report.files import to_json
from compressor.report.templating import fill_html
from compressor.report.terminal import summary_text
from compressor.report.view import view_of
from compressor.words import printable


@dataclass(frozen=True, repr=False)
class RunReport(measurements.RunReport):
    """Everything a run found out; what is not known is null, with the reason in `missing`."""

    def __repr__(self) -> str:
        """Return how the run ended and what it gained, in one line."""
        data = self._shown()
        gained = gains.gained_shortly(data) if data["final"] else ""
        words = "; ".join(part for part in (verdict.headline(data), gained) if part)
        return f"<RunReport {' '.join(printable(words).split())}>"

    def _repr_html_(self) -> str:
        """Return the first screen of `report.html` for a notebook, every value escaped."""
        data = self._shown()
        return fill_html("fragment.html.j2", data=data, view=view_of(data))

    def summary(self) -> str:
        """Return what `compress run` prints at its end, as plain text."""
        return summary_text(self._shown())

    def _shown(self) -> dict[str, Any]:
        return to_json(self.to_dict())[0]
