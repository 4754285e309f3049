from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.cluster.vq import kmeans2

from compressor.errors import StepFailed
from compressor.onnx_graph.embedding_tables import NarrowTables, reasons_against, store_weights
from compressor.onnx_graph.onnx_file import parameter_counts, save_graph
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.table_codes import fit_codes

RANDOM = np.random.default_rng(5)
IDS = np.array([[0, 6, 3], [3, -1, 1]], np.int64)  # negative indices count from the end


def lookup(table: str = "w", output: str = "y"):
    return helper.make_node("Gather", [table, "ids"], [output], name=output)


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def store(model: Any, *names: str, width: int = 4, refined: Any = None) -> dict[str, float]:
    tables = NarrowTables(frozenset(names), 16, width, refined or {})
    return store_weights(
        model, find_quantizable_weights(model), activations="per_token", tables=tables
    )


@pytest.mark.parametrize("axes", [None, ("batch", "tokens")])  # not known, known
def test_lookup_gives_the_rows_that_the_codes_stand_for(make_graph, run_graph, axes: Any):
    table = normal(700, 16)
    graph = make_graph([lookup()], {"ids": (TensorProto.INT64, axes)}, {"w": table})
    [error] = store(graph, "w").values()
    expected = fit_codes(table, 4).restored()
    np.testing.assert_array_equal(run_graph(graph, ids=IDS), expected[IDS])
    assert error == pytest.approx(np.linalg.norm(expected - table) / np.linalg.norm(table))
    assert {node.op_type for node in graph.graph.node}.isdisjoint({"GatherBlockQuantized"})


def test_refined_rows_have_what_codes_lose_in_four_bits(make_graph, run_graph):
    table, rows = normal(700, 32), np.array([3, 699])
    graph = make_graph([lookup()], {"ids": (TensorProto.INT64, [None, None])}, {"w": table})
    store(graph, "w", refined={"w": rows})
    found = run_graph(graph, ids=np.arange(700)[None])[0]
    others = np.setdiff1d(np.arange(700), rows)
    np.testing.assert_array_equal(found[others], fit_codes(table, 4).restored()[others])
    lost = np.abs(found - table).max(axis=1)
    assert lost[rows].max() < 0.2 * np.median(lost[others])


def test_vectors_lose_no_more_than_those_of_a_reference():
    table = normal(3000, 12)
    ours = np.square(fit_codes(table, 6).restored() - table).sum()
    theirs = 0.0
    for part in (table[:, :6], table[:, 6:]):
        means, nearest = kmeans2(part, 256, iter=12, minit="++", rng=np.random.default_rng(0))
        theirs += np.square(means[nearest] - part).sum()
    assert ours < 1.03 * theirs


def test_few_rows_are_kept_as_they_are():
    table = np.round(normal(9, 8), 1).astype(np.float16).astype(np.float32)
    codes = fit_codes(table, 4)
    np.testing.assert_array_equal(codes.restored(), table)
    assert codes.codebook.shape == (2 * 256, 4)


@pytest.mark.parametrize("scale", [1e6, 1e-7])
def test_numbers_beyond_sixteen_bits_have_vectors_of_32(scale: float):
    table = normal(9, 8) * np.float32(scale)
    codes = fit_codes(table, 4)
    assert codes.codebook.dtype == np.float32
    np.testing.assert_array_equal(codes.restored(), table)


def test_rows_that_are_all_the_same_take_one_vector():
    codes = fit_codes(np.ones((400, 8), np.float32), 8)
    assert len(set(codes.values[:, 0])) == 1
    np.testing.assert_array_equal(codes.restored(), 1)


def test_empty_numbers_stay_zeros():
    assert not fit_codes(np.zeros((400, 8), np.float32), 8).restored().any()


def test_the_same_table_gives_the_same_codes():
    table = normal(20_000, 4)  # more than vectors are chosen by
    first, second = fit_codes(table, 2), fit_codes(table, 2)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.codebook, second.codebook)


@pytest.mark.parametrize("refined", [None, {"w": np.arange(5)}])
def test_codes_count_as_the_weights_they_stand_for(make_graph, tmp_path, refined: Any):
    graph = make_graph(
        [lookup()], {"ids": (TensorProto.INT64, [None, None])}, {"w": normal(402, 8)}
    )
    store(graph, "w", refined=refined)
    save_graph(graph, tmp_path / "model.onnx")
    assert parameter_counts(tmp_path / "model.onnx") == (402 * 8, 402 * 8)


def test_zeros_among_codes_are_counted(make_graph, tmp_path):
    table = np.round(normal(20, 8), 1)  # few rows, so that each is one vector
    table[:, 3] = 0
    graph = make_graph([lookup()], {"ids": (TensorProto.INT64, [None, None])}, {"w": table})
    store(graph, "w")
    save_graph(graph, tmp_path / "model.onnx")
    assert parameter_counts(tmp_path / "model.onnx") == (160, np.count_nonzero(table))


def test_rows_that_a_code_does_not_divide_are_told_with_the_reason(make_graph):
    graph = make_graph([lookup()], {"ids": (TensorProto.INT64, None)}, {"w": normal(100, 18)})
    [reason] = reasons_against(find_quantizable_weights(graph), 12).values()
    assert reason == "code_width: 12 does not divide its rows of 18"
    with pytest.raises(ValueError, match="12 numbers to a byte do not divide rows of 18"):
        fit_codes(normal(4, 18), 12)


def test_table_that_is_not_finite_is_named(make_graph):
    table = np.full((7, 16), np.inf, np.float32)
    graph = make_graph([lookup()], {"ids": (TensorProto.INT64, None)}, {"w": table})
    with pytest.raises(StepFailed, match="weight w holds NaN or infinity, which no code"):
        store(graph, "w")
