"""The page of explanations: words keep their text, and cells their place."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.attribution.attentions import AttentionMaps, LayerAttention
from compressor.attribution.explanations import Attributed, ExplainedExample, Explanations, Mean
from compressor.report.explanations import _maps, _marks, _squares, render_explanations
from compressor.tasks.hiding import Cell, Part, Piece


def example(
    texts: tuple[str, ...], pieces: tuple[Part, ...], size: tuple[int, int] = (0, 0)
) -> ExplainedExample:
    values = np.linspace(1, -1, len(pieces))
    return ExplainedExample(
        row=4,
        is_changed=True,
        texts=texts,
        image="",
        image_size=size,
        pieces=pieces,
        predicted=("good <b>", "bad"),
        numbers=(-0.1, -0.2),
        methods={"occlusion": Attributed(values, values[::-1])},
    )


PAIR = example(("a  film", "plot!"), (Piece(0, 0, 1), Piece(0, 3, 7), Piece(1, 0, 4)))


def test_marks_are_the_text_with_nothing_lost():
    marks = _marks(PAIR, np.array([1.0, 0.0, -0.5]))
    assert ["".join(mark.text for mark in own) for own in marks] == ["a  film", "plot!"]
    kinds = [(mark.text, mark.kind, mark.shade, mark.rank) for own in marks for mark in own]
    assert kinds == [
        ("a", "for", 1.0, 1),
        ("  ", "plain", 0.0, 0),
        ("film", "plain", 0.0, 0),
        ("plot", "against", 0.5, 2),
        ("!", "plain", 0.0, 0),
    ]


def test_a_model_that_looks_at_nothing_has_no_marks():
    marks = _marks(PAIR, np.zeros(3))
    assert {mark.kind for own in marks for mark in own} == {"plain"}


def test_cells_lie_where_they_are_in_the_picture():
    cells = (Cell(0, 0, 5, 10), Cell(5, 0, 10, 10))
    first, second = _squares(example((), cells, (10, 20)), np.array([2.0, -1.0]))
    assert (first.left, first.top, first.width, first.height) == (0.0, 0.0, 50.0, 50.0)
    assert (first.sign, first.shade, second.sign, second.shade) == ("+", 1.0, "−", 0.5)
    assert second.top == 50.0


def test_a_layer_says_which_heads_are_left():
    whole = np.full((2, 1, 1), 1.0, dtype=np.float32)
    before = AttentionMaps(("x",), tuple(LayerAttention(n, 2, whole) for n in range(2)))
    after = AttentionMaps(
        ("x",), (LayerAttention(0, 0, whole[:0]), LayerAttention(1, 1, whole[:1]))
    )
    (_, original), (_, compressed) = _maps(3, before, after).sides
    assert [layer.heads for layer in original] == ["2 heads", "2 heads"]
    assert [layer.heads for layer in compressed] == [
        "no head left: it gives no attention",
        "1 of 2 heads left",
    ]


def test_names_of_predictions_are_escaped():
    found = Explanations("a<run>", "t", "search", "logit", "mask token", 0, (PAIR,), (PAIR,))
    page = render_explanations(found)
    assert "good &lt;b&gt;" in page
    assert "a&lt;run&gt;" in page


def test_a_mean_has_an_interval_where_there_is_something_to_draw():
    assert Mean.of([], seed=0) == Mean(None, None, None, 0)
    assert Mean.of([0.5, float("nan")], seed=0) == Mean(0.5, None, None, 1)
    assert Mean.of([0.5, 0.5], seed=0) == Mean(0.5, 0.5, 0.5, 2)
    values = np.random.default_rng(0).normal(0.8, 0.1, 40)
    found = Mean.of(values.tolist(), seed=0)
    assert found.low is not None
    assert found.high is not None
    error = 1.96 * values.std() / np.sqrt(40)
    assert found.low == pytest.approx(values.mean() - error, abs=0.01)
    assert found.high == pytest.approx(values.mean() + error, abs=0.01)
