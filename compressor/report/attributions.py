"""How far attributions agree with the original's, for a person to read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressor.measurements import AttributionRecord, RunReport
from compressor.report.slices_and_flips import PLACES, SLICE_STATES
from compressor.words import about, counted


@dataclass(frozen=True)
class AgreementView:
    """The agreement, its bound and its verdict; figures are text."""

    summary: str
    agreement: str
    bound: str
    allowed: str
    verdict: str
    state: str
    uninformed: str


def agreement_view(report: RunReport) -> AgreementView | None:
    """Return what to show of `attributions`; None where the recipe asks for none."""
    found = report.attributions
    if found is None:
        return None
    return AgreementView(
        summary=_summary(report, found),
        agreement=f"{found.agreement:.3f}",
        bound=_rounded_down(found.lower_bound),
        allowed=f"{found.min_agreement:g}",
        verdict=found.verdict,
        state=SLICE_STATES[found.verdict],
        uninformed=f"{found.uninformed}: {found.uninformed_agreement:.3f}",
    )


def lost_agreement_words(report: RunReport) -> str | None:
    """Say that attributions agree too little, where they do; None where they do not."""
    found = report.attributions
    if found is None or found.agreement >= found.min_agreement:
        return None
    return (
        f"attributions agree with the original's by {found.agreement:.3f}, the budget asks for "
        f"{found.min_agreement:g}"
    )


def unproven_agreement_words(report: RunReport) -> str | None:
    """Say what is proven of attributions where that is not enough; None where it is."""
    found = report.attributions
    if found is None or found.verdict == "certified":
        return None
    words = (
        f"attributions agree with the original's by {found.agreement:.3f}, with "
        f"{100 * found.confidence:g}% confidence by at least {_rounded_down(found.lower_bound)}; "
        f"the budget asks for {found.min_agreement:g}"
    )
    if (guess := passing_attributions(found)) is not None:
        return f"{words}, and {guess}"
    if found.needed_examples is None:
        return words
    return f"{words}, and {about(found.needed_examples)} examples would settle it"


def passing_attributions(found: AttributionRecord) -> str | None:
    """Say which attributions would pass that know nothing of an example; None where none would."""
    if found.uninformed_most < found.min_agreement:
        return None
    return (
        f"the agreement of {found.uninformed} is {found.uninformed_agreement:.3f}, and that would "
        f"pass too"
    )


def _summary(report: RunReport, found: AttributionRecord) -> str:
    place = PLACES.get(report.compared_split or "", "the data")
    left = ""
    if found.left_out:
        left = (
            f" {counted(found.left_out, 'further row')} said nothing: too few pieces, or the "
            f"original tells none apart."
        )
    return (
        f"What predictions rest on, before and after, on {counted(found.num_examples, 'row')} of "
        f"{place}. Each piece was hidden in turn, and its attribution is by how much the "
        f"{found.explained} falls. The agreement of a row is the rank correlation of both "
        f"attributions: 1 is the same order, 0 an unrelated one.{left}"
    )


def _rounded_down(value: float) -> str:
    """Return a lower bound with three decimals that it does not exceed."""
    return f"{math.floor(1000 * value) / 1000:.3f}"
