from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.quantization.blocks import quantize_blocks
from compressor.quantization.sites import find_sites
from compressor.quantization.tables import Int4Tables, reasons_against_int4, store_sites

RANDOM = np.random.default_rng(3)
IDS = np.array([[0, 6, 3], [3, -1, 1]], np.int64)  # negative indices count from the end
INDICES = {"ids": (TensorProto.INT64, None)}


def lookup(table: str = "w", output: str = "y", **attributes: int):
    return helper.make_node("Gather", [table, "ids"], [output], name=output, **attributes)


def store(model, *names: str, block_size: int = 16) -> dict[str, float]:
    tables = Int4Tables(frozenset(names), block_size)
    return store_sites(model, find_sites(model), activations="per_token", tables=tables)


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
    reasons = reasons_against_int4(find_sites(make_graph(nodes, INDICES, constants)))
    assert reasons.keys() == {"kinds", "odd"}
    assert "small" in reasons["kinds"]
    assert "odd width" in reasons["odd"]


def test_table_that_is_not_finite_is_named(make_graph):
    graph = make_graph([lookup()], INDICES, {"w": np.full((7, 16), np.nan, np.float32)})
    with pytest.raises(ValueError, match="weight w holds NaN"):
        store(graph, "w")
