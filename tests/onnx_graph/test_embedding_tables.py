from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.block_weights import quantize_blocks
from compressor.onnx_graph.embedding_tables import NarrowTables, reasons_against, store_weights
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights

RANDOM = np.random.default_rng(3)
IDS = np.array([[0, 6, 3], [3, -1, 1]], np.int64)  # negative indices count from the end
INDICES = {"ids": (TensorProto.INT64, None)}


def lookup(table: str = "w", output: str = "y", **attributes: int):
    return helper.make_node("Gather", [table, "ids"], [output], name=output, **attributes)


def store(model, *names: str, block_size: int = 16, refined: Any = None) -> dict[str, float]:
    tables = NarrowTables(frozenset(names), block_size, refined=refined or {})
    return store_weights(
        model, find_quantizable_weights(model), activations="per_token", tables=tables
    )


@pytest.mark.parametrize("block_size", [16, 32, 256])
@pytest.mark.parametrize("width", [16, 40, 64])
def test_lookup_gives_the_rows_that_the_integers_stand_for(
    make_graph, run_graph, block_size: int, width: int
):
    table = RANDOM.normal(size=(7, width)).astype(np.float32)
    graph = make_graph([lookup()], INDICES, {"w": table})
    store(graph, "w", block_size=block_size)
    expected = quantize_blocks(table, bits=4, block_size=block_size).restored()[IDS]
    np.testing.assert_allclose(run_graph(graph, ids=IDS), expected, rtol=1e-6)


@pytest.mark.parametrize("rows", [(6,), (3, 0), tuple(range(7))])
@pytest.mark.parametrize("width", [16, 40])
def test_refined_rows_come_out_in_two_steps_and_others_in_one(
    make_graph, run_graph, rows: tuple[int, ...], width: int
):
    table = RANDOM.normal(size=(7, width)).astype(np.float32)
    graph = make_graph([lookup()], INDICES, {"w": table})
    [error] = store(graph, "w", refined={"w": np.array(rows)}).values()
    expected = quantize_blocks(table, bits=4, block_size=16).restored()
    lost = table[list(rows)] - expected[list(rows)]
    expected[list(rows)] += quantize_blocks(lost, bits=4, block_size=16).restored()
    found = run_graph(graph, ids=np.arange(7))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    errors = np.abs(found - table).max(axis=1)
    assert errors[list(rows)].max() < 0.2 * np.abs(lost).max()
    assert error == pytest.approx(np.linalg.norm(found - table) / np.linalg.norm(table), rel=1e-4)
    np.testing.assert_allclose(run_graph(graph, ids=IDS), expected[IDS], rtol=1e-5, atol=1e-6)


def test_more_refined_rows_than_16_bits_can_point_at(make_graph, run_graph):
    table = RANDOM.normal(size=(33_000, 16)).astype(np.float32)
    graph = make_graph([lookup()], INDICES, {"w": table})
    store(graph, "w", refined={"w": np.arange(33_000)[::-1]})
    assert np.abs(run_graph(graph, ids=IDS) - table[IDS]).max() < 0.03


def test_no_rows_to_refine_need_no_second_table(make_graph):
    plain, refined = (
        make_graph([lookup()], INDICES, {"w": np.ones((7, 16), np.float32)}) for _ in range(2)
    )
    store(plain, "w")
    store(refined, "w", refined={"w": np.array([], np.int64)})
    assert refined == plain


def test_two_weights_take_a_byte_and_the_floats_are_gone(make_graph):
    graph = make_graph([lookup()], INDICES, {"w": np.ones((7, 32), np.float32)})
    store(graph, "w")
    found = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    assert {name: (item.dtype, item.shape) for name, item in found.items()} == {
        "w_int4": (np.uint8, (7, 16)),
        "w_scale": (np.float16, (7, 2)),
    }


def test_table_of_several_lookups_is_stored_once(make_graph, run_graph):
    table = RANDOM.normal(size=(7, 16)).astype(np.float32)
    nodes = [lookup(output="a"), lookup(output="b"), helper.make_node("Sub", ["a", "b"], ["y"])]
    graph = make_graph(nodes, INDICES, {"w": table})
    store(graph, "w")
    assert len(graph.graph.initializer) == 2
    assert not run_graph(graph, ids=IDS).any()


def test_small_indices_are_looked_up_too(make_graph, run_graph):
    table = RANDOM.normal(size=(7, 16)).astype(np.float32)
    graph = make_graph([lookup()], {"ids": (TensorProto.INT32, None)}, {"w": table})
    store(graph, "w")
    found = run_graph(graph, ids=IDS.astype(np.int32))
    assert np.abs(found - table[IDS]).max() < 0.2 * np.abs(table).max()


def test_other_tables_and_matrices_become_int8(make_graph, run_graph):
    large, small = RANDOM.normal(size=(9, 16)), RANDOM.normal(size=(7, 16))
    weight = RANDOM.normal(size=(16, 3)).astype(np.float32)
    nodes = [
        lookup("large", "a"),
        lookup("small", "b"),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w"], ["y"]),
    ]
    tables = {"large": large.astype(np.float32), "small": small.astype(np.float32)}
    graph = make_graph(nodes, INDICES, {**tables, "w": weight})
    errors = store(graph, "large")
    names = {item.name for item in graph.graph.initializer}
    assert {"large_int4", "small_int8", "w_int8"} < names
    assert list(errors) == ["large"]
    expected = (large[IDS] + small[IDS]) @ weight
    found = run_graph(graph, ids=IDS)
    assert np.abs(found - expected).max() < 0.15 * np.abs(expected).max()


def test_error_is_that_of_the_stored_rows(make_graph, run_graph):
    table = RANDOM.normal(size=(7, 16)).astype(np.float32)
    graph = make_graph([lookup()], INDICES, {"w": table})
    [error] = store(graph, "w").values()
    lost = run_graph(graph, ids=np.arange(7)) - table
    assert error == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(table), rel=1e-5)


def test_new_names_do_not_collide_with_old_ones(make_graph, run_graph):
    nodes = [lookup(output="a"), helper.make_node("Mul", ["a", "w_scale"], ["y"])]
    table = RANDOM.normal(size=(7, 16)).astype(np.float32)
    graph = make_graph(nodes, INDICES, {"w": table, "w_scale": np.array(2, np.float32)})
    store(graph, "w")
    found = run_graph(graph, ids=IDS)
    assert np.abs(found - 2 * table[IDS]).max() < 0.4 * np.abs(table).max()


def test_small_tables_and_odd_widths_are_told_apart_with_the_reason(make_graph):
    nodes = [
        lookup("words", "a"),
        lookup("kinds", "b"),
        lookup("odd", "c"),
        helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=-1),
    ]
    tables = {"words": (100, 16), "kinds": (2, 16), "odd": (100, 15)}
    constants = {name: np.ones(shape, np.float32) for name, shape in tables.items()}
    reasons = reasons_against(find_quantizable_weights(make_graph(nodes, INDICES, constants)), None)
    assert reasons.keys() == {"kinds", "odd"}
    assert "small" in reasons["kinds"]
    assert "odd width" in reasons["odd"]


def test_table_that_is_not_finite_is_named(make_graph):
    graph = make_graph([lookup()], INDICES, {"w": np.full((7, 16), np.nan, np.float32)})
    with pytest.raises(ValueError, match="weight w holds NaN"):
        store(graph, "w")
