"""Which settings of `prune_structured` go with which method and target; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.passes.prune_structured.settings import PruneStructured

_TIMING = ("latency_precision", "latency_batch_size", "latency_threads", "latency_table")
_ONLY_IN = {
    "scores": ("importance", "scope", "may_empty_layers"),
    "reconstruction": ("target", *_TIMING, "ridge"),
}


def check_method(settings: PruneStructured) -> None:
    """Raise `ValueError` when a setting does nothing with the method or the target it stands by."""
    other = "reconstruction" if settings.method == "scores" else "scores"
    _refuse(settings, _ONLY_IN[other], f"method: {other}")
    if settings.target != "latency":
        _refuse(settings, _TIMING, "target: latency")
    elif settings.latency_precision is None:
        raise ValueError(
            "target: latency needs latency_precision, because times depend on it: int8 where "
            "quantize_dynamic follows, otherwise float32"
        )
    if settings.method == "reconstruction":
        _check_reconstruction(settings)


def _refuse(settings: PruneStructured, names: Sequence[str], owner: str) -> None:
    """Refuse those settings called `names` that are not as they are by default."""
    fields = type(settings).model_fields
    given = [name for name in names if getattr(settings, name) != fields[name].default]
    if given:
        raise ValueError(
            f"{' and '.join(given)} {'belongs' if len(given) == 1 else 'belong'} to {owner}; set "
            f"{owner}, or leave {' and '.join(given)} out"
        )


def _check_reconstruction(settings: PruneStructured) -> None:
    if settings.ratio is None:
        raise ValueError("method: reconstruction needs a ratio, the share of target")
    if settings.head_ratio or settings.neuron_ratio:
        raise ValueError(
            "method: reconstruction decides itself how many heads and neurons go; give ratio "
            "alone, or with head_ratio: 0 or neuron_ratio: 0 to keep all of a kind"
        )
    if settings.head_ratio == 0 and settings.neuron_ratio == 0:
        raise ValueError(
            "head_ratio: 0 and neuron_ratio: 0 keep all heads and all neurons, so no ratio can be "
            "reached; leave one of them out, or use method: scores without ratio to remove layers "
            "alone"
        )
