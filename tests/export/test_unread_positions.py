from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from compressor.export.unread_positions import drop_unread_positions
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.onnx_file import load_graph

RANDOM = np.random.default_rng(7)
WEIGHTS = {
    "packed": RANDOM.normal(size=(8, 24)).astype(np.float32),
    "inner": RANDOM.normal(size=(8, 16)).astype(np.float32),
    "outer": RANDOM.normal(size=(16, 8)).astype(np.float32),
    "gamma": RANDOM.normal(size=8).astype(np.float32),
}
LAYER = """
    n = LayerNormalization (x, gamma) qkv = MatMul (n, packed)
    q, k, v = Split <axis: int = -1> (qkv, parts)
    c = Attention <q_num_heads: int = 2, kv_num_heads: int = 2> (q, k, v, mask)
    a = Add (c, x) h = MatMul (a, inner) g = Gelu (h) o = MatMul (g, outer) y = Sum (o, a)
"""


def graph(readers: str, outputs: str = "float[b, 8] z", position: int = 0) -> ir.Model:
    """Return one layer with a mask `(b, 1, s, s)`; `readers` make the outputs of its `y`."""
    text = f"""
    <ir_version: 11, opset_import: ["" : 23]>
    g (float[b, s, 8] x, float[b, 1, s, s] mask) => ({outputs})
    <int64[3] parts = {{8, 8, 8}}, int64 at = {{{position}}}, int64 other = {{1}},
     int64[1] middle = {{1}}, float[b, s, 8] n, float[b, s, 24] qkv, float[b, s, 8] c,
     float[b, s, 8] q, float[b, s, 8] k, float[b, s, 8] v, float[b, s, 8] a,
     float[b, s, 16] h, float[b, s, 16] g, float[b, s, 8] o, float[b, s, 8] y>
    {{ {LAYER} {readers} }}"""
    proto = parser.parse_model(text)
    proto.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in WEIGHTS.items()
    )
    model = ir.from_proto(proto)
    packed = model.graph.initializers.pop("packed")
    packed.name = "self.q_k_v.weight"
    model.graph.register_initializer(packed)
    return model


def run(model: ir.Model, rows: int, length: int) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, length, 8)).astype(np.float32)
    mask = random.normal(size=(rows, 1, length, length)).astype(np.float32)
    found: NDArray[np.float32] = session.run(None, {"x": x, "mask": mask})[0]
    return found


@pytest.mark.parametrize("position", [0, 1, -1])
@pytest.mark.parametrize(("rows", "length"), [(1, 2), (3, 5)])
def test_the_position_that_is_read_is_what_it_was(position: int, rows: int, length: int):
    model = graph("z = Gather <axis: int = 1> (y, at)", position=position)
    expected = run(model, rows, length)
    assert drop_unread_positions(model.graph) == 2
    np.testing.assert_allclose(run(model, rows, length), expected, rtol=1e-6, atol=1e-6)


def test_products_are_computed_for_one_position_and_keys_and_values_for_all():
    model = graph("z = Gather <axis: int = 1> (y, at)")
    drop_unread_positions(model.graph)
    products = {
        str(node.inputs[1].name): node.outputs[0].shape[1]
        for node in model.graph
        if node.op_type == "MatMul"
    }
    assert {name: dim if isinstance(dim, int) else dim.value for name, dim in products.items()} == {
        "self.q.weight": 1,
        "self.k_v.weight": "s",
        "inner": 1,
        "outer": 1,
    }


def test_readers_of_one_position_may_be_several():
    model = graph(
        "z = Gather <axis: int = 1> (y, at) w = Gather <axis: int = 1> (y, at)",
        "float[b, 8] z, float[b, 8] w",
    )
    assert drop_unread_positions(model.graph) == 2


PICK = "z = Gather <axis: int = 1> (y, at)"
PART = "p = Gather <axis: int = 1> (y, at)"
MEAN = "ReduceMean <keepdims: int = 0> (y, middle)"


@pytest.mark.parametrize(
    ("readers", "outputs"),
    [
        (f"z = {MEAN}", "float[b, 8] z"),
        (f"{PART} m = {MEAN} z = Add (p, m)", "float[b, 8] z"),
        (f"{PART} r = Gather <axis: int = 1> (y, other) z = Add (p, r)", "float[b, 8] z"),
        (PICK, "float[b, 8] z, float[b, s, 8] y"),
        ("z = Gather <axis: int = 2> (y, at)", "float[b, s] z"),
    ],
    ids=["mean", "position and mean", "two positions", "states are an output", "a channel"],
)
def test_nothing_changes_where_all_positions_are_read(readers: str, outputs: str):
    model = graph(readers, outputs)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert drop_unread_positions(model.graph) == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["x", "n", "qkv", "q", "k", "c", "a", "h", "g", "o", "y"])
def test_a_value_of_unknown_shape_is_not_narrowed(name: str):
    model = graph("z = Gather <axis: int = 1> (y, at)")
    expected = run(model, 3, 5)
    values = [*model.graph.inputs, *(item for node in model.graph for item in node.outputs)]
    [value] = (item for item in values if item.name == name)
    value.shape = None
    drop_unread_positions(model.graph)
    if name == "x":  # ONNX Runtime wants the rank of what it is given
        value.shape = ir.Shape(("b", "s", 8))
    np.testing.assert_allclose(run(model, 3, 5), expected, rtol=1e-6, atol=1e-6)


def test_weights_that_layers_share_are_not_copied():
    model = graph(f"t = MatMul (x, packed) {PICK}", "float[b, 8] z, float[b, s, 24] t")
    expected = run(model, 2, 4)
    assert drop_unread_positions(model.graph) == 2
    assert "self.q.weight" not in model.graph.initializers
    np.testing.assert_allclose(run(model, 2, 4), expected, rtol=1e-6, atol=1e-6)


def gated(rest: str) -> ir.Model:
    """Return a feed-forward network whose two products are one packed product that is split."""
    text = f"""
    <ir_version: 11, opset_import: ["" : 23]>
    g (float[b, s, 8] x, float[b, 1, s, s] mask) => (float[b, 8] z)
    <int64 at = {{0}}, int64[2] halves = {{8, 8}}, float[b, s, 8] n, float[b, s, 16] h,
     float[b, s, 8] up, float[b, s, 8] gate, float[b, s, 8] g, float[b, s, 8] y>
    {{ n = LayerNormalization (x, gamma) h = MatMul (n, inner)
       up, gate = Split <axis: int = -1> (h, halves) {rest}
       z = Gather <axis: int = 1> (y, at) }}"""
    proto = parser.parse_model(text)
    proto.graph.initializer.extend(
        numpy_helper.from_array(WEIGHTS[name], name) for name in ("inner", "gamma")
    )
    return ir.from_proto(proto)


@pytest.mark.parametrize(
    "rest", ["g = Gelu (gate) y = Mul (up, g)", "y = Gelu (gate)"], ids=["gated", "half unread"]
)
def test_a_packed_product_that_is_read_at_one_position_stays_packed(rest: str):
    model = gated(rest)
    expected = run(model, 2, 4)
    assert drop_unread_positions(model.graph) == 1
    [product] = [node for node in model.graph if node.op_type == "MatMul"]
    assert str(product.inputs[1].name) == "inner"
    assert product.outputs[0].shape[1] == 1
    np.testing.assert_allclose(run(model, 2, 4), expected, rtol=1e-6, atol=1e-6)


def test_last_layer_of_an_exported_classifier_serves_one_token(exported_vit: OnnxModel):
    proto = load_graph(exported_vit.path).graph
    shapes = {item.name: item.type.tensor_type.shape.dim for item in proto.value_info}
    inner = [shapes[node.output[0]] for node in proto.node if node.op_type == "BiasGelu"]
    # 16 patches and the class token
    assert [[dim.dim_value for dim in shape[1:]] for shape in inner] == [[17, 64], [1, 64]]
