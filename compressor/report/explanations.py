"""The page of `compress explain`, and its lines on a terminal.

Attributions are shown on the words themselves: the stronger the shade and the thicker the line
below a word, the more it carries; a solid line speaks for the prediction, a dashed one against it,
and the strongest words are numbered. So nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressor.attribution.attentions import AttentionMaps
from compressor.attribution.explanations import (
    Attributed,
    ExplainedExample,
    Explanations,
    Floats,
    Mean,
    Method,
)
from compressor.report.templating import fill_html, own_picture
from compressor.tasks.hiding import Cell, Piece
from compressor.words import counted

SHOWN = 10  # of the drawn rows, and of the changed ones
_NUMBERED = 3  # of the words of an example
_FAINT = 0.05  # of the strongest attribution, below which a word is left plain
_CELL = 12  # units of a drawing, one cell of an attention map
_LEAST_ATTENTION = 0.02  # that is drawn
_METHODS: dict[Method, str] = {
    "occlusion": "Occlusion, ONNX files",
    "integrated-gradients": "Integrated gradients, PyTorch checkpoints",
}


@dataclass(frozen=True)
class Mark:
    """A run of characters; `shade` is 0 to 1 in steps of a hundredth, `kind` for, against, plain.

    `rank` is 1 for the strongest word, 0 for one without a number.
    """

    text: str
    kind: str
    shade: float
    rank: int


@dataclass(frozen=True)
class Square:
    """A cell of a picture, in per cent of its sides; `sign` says the same as the colour."""

    left: float
    top: float
    width: float
    height: float
    kind: str
    shade: float
    sign: str


@dataclass(frozen=True)
class Side:
    """One model's view of an example: its prediction, and the example with marks."""

    name: str
    predicted: str
    number: str
    marks: tuple[tuple[Mark, ...], ...]  # of each text
    squares: tuple[Square, ...]


@dataclass(frozen=True)
class MethodView:
    """Both models by one method, and how far they agree on this example."""

    title: str
    agreement: str
    sides: tuple[Side, Side]
    figures: tuple[tuple[str, str, str], ...]  # a piece and both attributions


@dataclass(frozen=True)
class ExampleView:
    """One row."""

    title: str
    image: str
    aspect: str  # of the picture, width / height
    methods: tuple[MethodView, ...]


@dataclass(frozen=True)
class LayerView:
    """A layer's mean attention as squares `(column, row, opacity)` of a drawing."""

    title: str
    heads: str
    cells: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class MapsView:
    """The attention of both models to one row."""

    title: str
    tokens: tuple[str, ...]
    size: int
    sides: tuple[tuple[str, tuple[LayerView, ...]], ...]


def render_explanations(found: Explanations) -> str:
    """Return a self-contained page: no scripts, nothing loaded from anywhere."""
    return fill_html(
        "explanations.html.j2",
        found=found,
        agreements=[
            (_METHODS[method], *map(_mean_words, found.agreement(method)))
            for method in found.methods
        ],
        changed=[_example(item) for item in found.changed[:SHOWN]],
        drawn=[_example(item) for item in found.drawn[:SHOWN]],
        num_changed=len(found.changed),
        num_drawn=len(found.drawn),
        maps=[_maps(row, *both) for row, both in found.attentions.items()],
    )


def explanation_lines(found: Explanations) -> list[str]:
    """Return what `compress explain` prints."""
    lines = [
        f"{counted(len(found.drawn), 'row')} drawn of {found.split}, and "
        f"{counted(len(found.changed), 'row')} whose prediction changed",
        f"explained: the {found.explained}; hidden by: {found.hiding}",
    ]
    for method in found.methods:
        spearman, kendall = map(_mean_words, found.agreement(method))
        lines.append(f"{method}: attributions agree by {spearman} (Spearman), {kendall} (Kendall)")
    worst = _least_alike(found)
    if worst is not None:
        lines.append(worst)
    return [*lines, *([found.note] if found.note else [])]


def _least_alike(found: Explanations) -> str | None:
    """Say which drawn row agrees least, and which words carried it before and after."""
    if not found.methods:
        return None
    method = found.methods[0]
    known = [item for item in found.drawn if np.isfinite(item.methods[method].spearman)]
    if not known:
        return None
    item = min(known, key=lambda example: example.methods[method].spearman)
    both = item.methods[method]
    before, after = (_strongest(item, values) for values in (both.before, both.after))
    return f"least alike: row {item.row} ({both.spearman:.2f}): {before} -> {after}"


def _strongest(item: ExplainedExample, values: Floats) -> str:
    order = np.argsort(-np.abs(values), kind="stable")[:_NUMBERED]
    return ", ".join(repr(item.words(item.pieces[place])) for place in order.tolist())


def _mean_words(found: Mean) -> str:
    if found.mean is None:
        return "— (no row has pieces that the original tells apart)"
    of = counted(found.num_examples, "row")
    if found.low is None or found.high is None:
        return f"{found.mean:.3f} on {of}"
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f}, 95%) on {of}"


def _example(item: ExplainedExample) -> ExampleView:
    changed = ", prediction changed" if item.is_changed else ""
    return ExampleView(
        title=f"Row {item.row:,}{changed}",
        image=own_picture(item.image),
        aspect=f"{max(1, item.image_size[1])} / {max(1, item.image_size[0])}",
        methods=tuple(_method(item, method, both) for method, both in item.methods.items()),
    )


def _method(item: ExplainedExample, method: Method, both: Attributed) -> MethodView:
    # Predictions are those of the ONNX files.
    of_graphs = method == "occlusion"
    predicted = item.predicted if of_graphs else ("", "")
    named = zip(("original", "compressed"), predicted, item.numbers, strict=True)
    sides = [
        Side(
            name,
            predicted,
            f"{number:.4g}" if of_graphs else "",
            _marks(item, values),
            _squares(item, values),
        )
        for (name, predicted, number), values in zip(named, (both.before, both.after), strict=True)
    ]
    agreement = "—" if np.isnan(both.spearman) else f"{both.spearman:.2f}"
    figures = zip(item.pieces, both.before.tolist(), both.after.tolist(), strict=True)
    return MethodView(
        _METHODS[method],
        agreement,
        (sides[0], sides[1]),
        tuple(
            (item.words(piece), f"{before:+.4g}", f"{after:+.4g}")
            for piece, before, after in figures
        ),
    )


def _shades(values: Floats) -> Floats:
    """Return attributions as parts of the strongest, so that two models can be compared."""
    largest = float(np.max(np.abs(values), initial=0.0))
    return values / largest if largest > 0 else np.zeros(len(values))


def _marks(item: ExplainedExample, values: Floats) -> tuple[tuple[Mark, ...], ...]:
    shades = _shades(values)
    order = np.argsort(-np.abs(shades), kind="stable")[:_NUMBERED].tolist()
    ranks = {place: rank for rank, place in enumerate(order, start=1)}
    found: list[tuple[Mark, ...]] = []
    for number, text in enumerate(item.texts):
        marks: list[Mark] = []
        end = 0
        for place, piece in enumerate(item.pieces):
            if not isinstance(piece, Piece) or piece.text != number:
                continue
            if piece.start > end:
                marks.append(Mark(text[end : piece.start], "plain", 0.0, 0))
            kind, shade = _kind(shades[place])
            rank = ranks.get(place, 0) if kind != "plain" else 0
            marks.append(Mark(text[piece.start : piece.end], kind, shade, rank))
            end = piece.end
        marks.append(Mark(text[end:], "plain", 0.0, 0))
        found.append(tuple(mark for mark in marks if mark.text))
    return tuple(found)


def _kind(shade: float) -> tuple[str, float]:
    if abs(shade) < _FAINT:
        return "plain", 0.0
    return ("for" if shade > 0 else "against"), round(abs(float(shade)), 2)


def _squares(item: ExplainedExample, values: Floats) -> tuple[Square, ...]:
    height, width = item.image_size
    found = []
    for piece, value in zip(item.pieces, _shades(values).tolist(), strict=True):
        if isinstance(piece, Cell):
            kind, shade = _kind(value)
            found.append(
                Square(
                    round(100 * piece.left / width, 3),
                    round(100 * piece.top / height, 3),
                    round(100 * (piece.right - piece.left) / width, 3),
                    round(100 * (piece.bottom - piece.top) / height, 3),
                    kind,
                    shade,
                    {"for": "+", "against": "−", "plain": ""}[kind],
                )
            )
    return tuple(found)


def _maps(row: int, before: AttentionMaps, after: AttentionMaps) -> MapsView:
    both = zip(before.layers, after.layers, strict=False)
    heads = {item.layer: (item.num_heads, other.num_heads) for item, other in both}
    return MapsView(
        title=f"Row {row:,}",
        tokens=before.tokens,
        size=_CELL * max(len(before.tokens), len(after.tokens)),
        sides=(
            ("original", _layers(before, None)),
            ("compressed", _layers(after, heads if _same_depth(before, after) else None)),
        ),
    )


def _same_depth(before: AttentionMaps, after: AttentionMaps) -> bool:
    return len(before.layers) == len(after.layers)


def _layers(maps: AttentionMaps, heads: dict[int, tuple[int, int]] | None) -> tuple[LayerView, ...]:
    found = []
    for item in maps.layers:
        words = counted(item.num_heads, "head")
        if heads is not None and heads[item.layer][0] > item.num_heads:
            words = f"{item.num_heads} of {heads[item.layer][0]} heads left"
        cells: Sequence[tuple[int, int, float]] = ()
        if item.num_heads:
            mean = item.weights.mean(axis=0)
            cells = [
                (_CELL * column, _CELL * row, round(float(mean[row, column]), 2))
                for row, column in np.argwhere(mean >= _LEAST_ATTENTION).tolist()
            ]
        else:
            words = "no head left: it gives no attention"
        found.append(LayerView(f"Layer {item.layer + 1}", words, tuple(cells)))
    return tuple(found)
