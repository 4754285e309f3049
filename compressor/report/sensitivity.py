"""What each layer costs when it is quantized: the reason why some are left in float."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from compressor.measurements import LayerSensitivity, RunReport
from compressor.report import units
from compressor.stored_types import read_facts
from compressor.words import counted

MAX_SHOWN = 24  # layers; the rest is in report.json


@dataclass(frozen=True)
class LayerBar:
    """One layer; `share` is its change of the logits over the largest, in per cent."""

    name: str
    logit_rms: str
    saved: str
    share: float
    kept_in_float: bool


@dataclass(frozen=True)
class Sensitivity:
    """The layers of one pass, those that change the predictions most first."""

    title: str
    rows: tuple[LayerBar, ...]
    note: str
    converted_to: str  # the type that layers are stored as where they are not left in float


def sensitivity_views(report: RunReport) -> list[Sensitivity]:
    """Return a profile for each pass that recorded `facts.sensitivity`."""
    return [
        _view(f"{number} · {record.kind}", layers)
        for number, record in enumerate(report.passes, start=1)
        if (layers := _layers(record.facts.get("sensitivity")))
    ]


def _layers(fact: object) -> list[LayerSensitivity]:
    """Return the layers that a pass recorded; none of a fact in another form, which is free."""
    try:
        return read_facts(list[LayerSensitivity], fact)
    except ValidationError:
        return []


def _view(title: str, layers: list[LayerSensitivity]) -> Sensitivity:
    ranked = sorted(layers, key=lambda item: -item.logit_rms)
    largest = ranked[0].logit_rms or 1.0
    rest = len(ranked) - MAX_SHOWN
    kept = sum(item.kept_in_float for item in ranked)
    note = (
        f"{kept} of {counted(len(ranked), 'layer')} {'was' if kept == 1 else 'were'} left in float."
    )
    if rest > 0:
        note += f" The {rest} least sensitive ones are in report.json only."
    return Sensitivity(
        title=title,
        rows=tuple(
            LayerBar(
                name=item.name,
                logit_rms=units.number(item.logit_rms),
                saved=units.megabytes(item.bytes_saved),
                share=round(100 * item.logit_rms / largest, 1),
                kept_in_float=item.kept_in_float,
            )
            for item in ranked[:MAX_SHOWN]
        ),
        note=note,
        converted_to=ranked[0].converted_to,
    )
