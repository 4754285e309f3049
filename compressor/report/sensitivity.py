"""What each layer costs when it is quantized: the reason why some are left in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressor.report import units
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
    """The layers of one pass, those that change the answers most first."""

    title: str
    rows: tuple[LayerBar, ...]
    note: str
    converted_to: str  # the type that layers are stored as where they are not left in float


def sensitivity_views(data: dict[str, Any]) -> list[Sensitivity]:
    """Return a profile for each pass that recorded `facts.sensitivity`."""
    return [
        _view(f"{number} · {record['kind']}", record["facts"]["sensitivity"])
        for number, record in enumerate(data["passes"], start=1)
        if _is_profile(record["facts"].get("sensitivity"))
    ]


def _is_profile(value: Any) -> bool:
    """Tell whether a pass recorded layers in this form; `facts` is free, so another may use it."""
    keys = {"name", "logit_rms", "bytes_saved", "kept_in_float"}
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and keys <= item.keys() for item in value)
        and all(isinstance(item["logit_rms"], int | float) for item in value)
    )


def _view(title: str, layers: list[dict[str, Any]]) -> Sensitivity:
    ranked = sorted(layers, key=lambda item: -item["logit_rms"])
    largest = ranked[0]["logit_rms"] or 1.0
    rest = len(ranked) - MAX_SHOWN
    kept = sum(bool(item["kept_in_float"]) for item in ranked)
    note = (
        f"{kept} of {counted(len(ranked), 'layer')} {'was' if kept == 1 else 'were'} left in float."
    )
    if rest > 0:
        note += f" The {rest} least sensitive ones are in report.json only."
    return Sensitivity(
        title=title,
        rows=tuple(
            LayerBar(
                name=str(item["name"]),
                logit_rms=units.number(item["logit_rms"]),
                saved=units.megabytes(item["bytes_saved"]),
                share=round(100 * item["logit_rms"] / largest, 1),
                kept_in_float=bool(item["kept_in_float"]),
            )
            for item in ranked[:MAX_SHOWN]
        ),
        note=note,
        converted_to=str(ranked[0].get("converted_to", "int8")),
    )
