"""What `compress explain` finds, as values: attributions of examples before and after."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from compressor.attribution.agreement import kendall_agreement, rank_agreement
from compressor.attribution.attentions import AttentionMaps
from compressor.tasks.hiding import Cell, Part, Piece

Method = Literal["occlusion", "integrated-gradients"]
Floats = NDArray[np.float64]
_CONFIDENCE = 0.95
_RESAMPLES = 9999
_DIGITS = 6  # of the numbers that are written


@dataclass(frozen=True)
class Attributed:
    """The attributions of one example by one method, before and after, `(num_pieces,)` each."""

    before: Floats
    after: Floats

    @property
    def spearman(self) -> float:
        """Return their rank correlation; NaN where the original tells no pieces apart."""
        return rank_agreement(self.before, self.after)

    @property
    def kendall(self) -> float:
        """Return Kendall's tau-b; NaN likewise."""
        return kendall_agreement(self.before, self.after)


@dataclass(frozen=True)
class ExplainedExample:
    """One row: its texts, the pieces, both predictions in words, and attributions by method.

    `image` is a data URI of a picture of the size (height, width), "" for a text.
    """

    row: int
    is_changed: bool
    texts: tuple[str, ...]
    image: str
    image_size: tuple[int, int]
    pieces: tuple[Part, ...]
    predicted: tuple[str, str]
    numbers: tuple[float, float]
    methods: Mapping[Method, Attributed]

    def words(self, piece: Part) -> str:
        """Return what a piece is: its characters, or its place in the picture."""
        if isinstance(piece, Piece):
            return self.texts[piece.text][piece.start : piece.end]
        return f"rows {piece.top}-{piece.bottom - 1}, columns {piece.left}-{piece.right - 1}"

    def facts(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "row": self.row,
            "changed": self.is_changed,
            "texts": list(self.texts),
            "pieces": [_place(piece) | {"words": self.words(piece)} for piece in self.pieces],
            "predicted": {"before": self.predicted[0], "after": self.predicted[1]},
            "number": {"before": _rounded(self.numbers[0]), "after": _rounded(self.numbers[1])},
            "attributions": {
                method: {
                    "before": [_rounded(value) for value in found.before.tolist()],
                    "after": [_rounded(value) for value in found.after.tolist()],
                    "spearman": _rounded(found.spearman),
                    "kendall": _rounded(found.kendall),
                }
                for method, found in self.methods.items()
            },
        }


@dataclass(frozen=True)
class Mean:
    """A mean over examples with its two-sided 95% interval; None where two are not enough."""

    mean: float | None
    low: float | None
    high: float | None
    num_examples: int

    @classmethod
    def of(cls, values: Sequence[float], *, seed: int) -> Mean:
        """Return the mean of the values that are no NaN, with a BCa interval over examples."""
        known = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
        if len(known) == 0:
            return cls(None, None, None, 0)
        known = np.round(known, 12)  # what differs in its last digit alone is the same
        mean = float(known.mean())
        if len(known) == 1:
            return cls(mean, None, None, 1)
        if np.ptp(known) == 0:
            return cls(mean, mean, mean, len(known))
        with warnings.catch_warnings():  # of few values that are nearly alike
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (known,),
                np.mean,
                confidence_level=_CONFIDENCE,
                n_resamples=_RESAMPLES,
                method="BCa",
                rng=np.random.default_rng(seed),
            ).confidence_interval
        ends = [float(end) if np.isfinite(end) else None for end in found]
        return cls(mean, ends[0], ends[1], len(known))

    def facts(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "mean": None if self.mean is None else _rounded(self.mean),
            "low": None if self.low is None else _rounded(self.low),
            "high": None if self.high is None else _rounded(self.high),
            "examples": self.num_examples,
        }


@dataclass(frozen=True)
class Explanations:
    """All that was explained of a run.

    `drawn` are rows at random, over which agreements are taken; `changed` rows whose prediction
    changed, which are no sample of anything. `attentions` are the maps of a few drawn rows, by
    row, of the original and of the compressed checkpoint, and `no_attentions` says why there are
    none. `note` says what was left out, "" where nothing was.
    """

    run: str
    task: str
    split: str
    explained: str
    hiding: str
    seed: int
    drawn: tuple[ExplainedExample, ...]
    changed: tuple[ExplainedExample, ...]
    attentions: Mapping[int, tuple[AttentionMaps, AttentionMaps]] = field(default_factory=dict)
    no_attentions: str = ""
    note: str = ""

    @property
    def methods(self) -> tuple[Method, ...]:
        """Return the methods that examples were explained by."""
        some = (*self.drawn, *self.changed)
        return tuple(some[0].methods) if some else ()

    def agreement(self, method: Method) -> tuple[Mean, Mean]:
        """Return the mean of Spearman's and of Kendall's correlation over the drawn rows."""
        found = [item.methods[method] for item in self.drawn]
        return (
            Mean.of([item.spearman for item in found], seed=self.seed),
            Mean.of([item.kendall for item in found], seed=self.seed),
        )

    def facts(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        both = {method: self.agreement(method) for method in self.methods}
        return {
            "schema_version": 1,
            "run": self.run,
            "task": self.task,
            "split": self.split,
            "explained": self.explained,
            "hidden_by": self.hiding,
            "seed": self.seed,
            "note": self.note or None,
            "agreement": {
                method: {"spearman": found[0].facts(), "kendall": found[1].facts()}
                for method, found in both.items()
            },
            "drawn": [item.facts() for item in self.drawn],
            "changed": [item.facts() for item in self.changed],
            "attentions": [
                {"row": row, "before": _maps(before), "after": _maps(after)}
                for row, (before, after) in self.attentions.items()
            ],
            "no_attentions": self.no_attentions or None,
        }


def _maps(maps: AttentionMaps) -> dict[str, Any]:
    return {
        "tokens": list(maps.tokens),
        "layers": [
            {"layer": item.layer, "heads": np.round(item.weights, 4).tolist()}
            for item in maps.layers
        ],
    }


def _place(piece: Part) -> dict[str, int]:
    if isinstance(piece, Cell):
        return {name: getattr(piece, name) for name in ("top", "left", "bottom", "right")}
    return {"text": piece.text, "start": piece.start, "end": piece.end}


def _rounded(value: float) -> float | None:
    """Return a number with as many digits as matter, None for one that is not finite."""
    return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
