from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from compressor.export.weight_names import name_weights
from compressor.models.components import stored_weights
from compressor.onnx_graph.onnx_file import load_graph


def value(name: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([4, 4]))


def weight(name: str) -> ir.Value:
    found = value(name)
    found.const_value = ir.tensor(np.ones((4, 4), np.float32), name=name)
    return found


def within(node: ir.Node, *scopes: str) -> ir.Node:
    node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(list(scopes))
    return node


def names(x: ir.Value, nodes: list[ir.Node], *weights: ir.Value) -> list[str]:
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, initializers=weights)
    name_weights(graph)
    assert [item.name for item in graph.initializers.values()] == list(graph.initializers)
    return list(graph.initializers)


def test_weight_is_named_after_the_module_that_called_the_product():
    x, w = value("x"), weight("val_1")
    product = within(ir.node("MatMul", [x, w]), "", "encoder", "encoder.dense", "linear_3")
    assert names(x, [product], w) == ["encoder.dense.weight"]


def test_packed_weight_is_named_after_the_readers_of_its_parts():
    x, w = value("x"), weight("packed")
    product = ir.node("MatMul", [x, w])
    split = ir.node("Split", product.outputs, num_outputs=2)
    adds = [
        within(ir.node("Relu", [part]), "", "self", f"self.{name}", "linear")
        for part, name in zip(split.outputs, ("query", "key"), strict=True)
    ]
    assert names(x, [product, split, *adds], w) == ["self.query_key.weight"]


@pytest.mark.parametrize("scopes", [(), ("linear",)])
def test_weight_of_an_unknown_module_keeps_its_name(scopes: tuple[str, ...]):
    x, w = value("x"), weight("val_1")
    assert names(x, [within(ir.node("MatMul", [x, w]), *scopes)], w) == ["val_1"]


def test_name_that_is_taken_is_not_given_twice():
    x, first, second = value("x"), weight("val_1"), weight("val_2")
    one = within(ir.node("MatMul", [x, first]), "", "dense", "linear")
    two = within(ir.node("MatMul", [one.outputs[0], second]), "", "dense", "linear_1")
    assert sorted(names(x, [one, two], first, second)) == ["dense.weight", "val_2"]


def test_packed_weight_with_an_unbiased_part_is_named_after_the_attention():
    x, w = value("x"), weight("packed")
    product = ir.node("MatMul", [x, w])
    split = ir.node("Split", product.outputs, num_outputs=3)
    scopes = ("layer.attention.q_proj", "layer.attention", "layer.attention.v_proj")
    readers = [
        within(ir.node("Relu", [part]), "", scope, "operation")
        for part, scope in zip(split.outputs, scopes, strict=True)
    ]
    assert names(x, [product, split, *readers], w) == ["layer.attention.packed.weight"]


def test_weight_of_several_products_is_named_after_the_first():
    x, w = value("x"), weight("val_1")
    one = within(ir.node("MatMul", [x, w]), "", "first", "linear")
    two = within(ir.node("MatMul", [one.outputs[0], w]), "", "second", "linear")
    assert names(x, [one, two], w) == ["first.weight"]


@pytest.mark.parametrize("exported", ["exported_bert", "exported_vit"])
def test_an_exported_encoder_has_its_matrices_in_the_parts_of_its_layers(
    exported: str, request: pytest.FixtureRequest
):
    path = request.getfixturevalue(exported).path
    found: Counter[str] = Counter()
    for stored in stored_weights(load_graph(path)):
        if stored.layer is not None and stored.elements >= 32 * 32:
            found[stored.component] += stored.elements
    assert found == {"attention": 2 * 4 * 32 * 32, "feed_forward": 2 * 2 * 32 * 64}
