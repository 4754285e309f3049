from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import parser

from compressor.export.constant_layers import fold_constant_layers

NORMALIZED = "a = LayerNormalization (x, gamma, beta)"
SPREAD = "sizes = Shape (x) e = Expand (bias, sizes)"


def graph(body: str, outputs: str = "float[b, s, 4] y") -> ir.Model:
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[b, s, 4] x) => ({outputs})
    <float[4] gamma = {{1, 2, 3, 4}}, float[4] beta = {{1, 0, -1, 2}},
     float[4] bias = {{0.5, -2, 1, 3}}, float[4] more = {{1, 1, 2, 2}},
     float[b, s, 4] a, float[b, s, 4] e, float[b, s, 4] t>
    {{ {body} }}"""
    return ir.from_proto(parser.parse_model(text))


def run(model: ir.Model) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    found: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"{NORMALIZED} {SPREAD} y = Sum (a, e)", "LayerNormalization"),
        (f"{NORMALIZED} {SPREAD} y = Add (e, a)", "LayerNormalization"),
        (f"{NORMALIZED} y = Add (a, bias)", "LayerNormalization"),
        ("a = LayerNormalization (x, gamma) y = Add (a, bias)", "LayerNormalization"),
        (f"a = Sum (x, more, x) {SPREAD} y = Sum (a, e)", "Sum"),
        (f"a = Add (x, more) {SPREAD} t = Sum (a, e) y = Sum (t, e)", "Add"),
    ],
    ids=["spread", "spread first", "vector", "no shift yet", "sum", "twice"],
)
def test_constant_becomes_part_of_the_operator_before(body: str, left: str):
    model = graph(body)
    expected = run(model)
    assert fold_constant_layers(model.graph) >= 1
    read = [node.op_type for node in model.graph if node.outputs[0].name == "y"]
    assert read == [left]
    np.testing.assert_allclose(run(model), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"{NORMALIZED} t = Add (a, bias) y = Mul (a, t)", "float[b, s, 4] y"),
        (f"{NORMALIZED} y = Add (a, bias)", "float[b, s, 4] y, float[b, s, 4] a"),
        ("a = Add (x, x) y = Add (a, bias)", "float[b, s, 4] y"),
        ("a = Neg (x) y = Add (a, bias)", "float[b, s, 4] y"),
        (f"{NORMALIZED} y = Sum (a, bias, x)", "float[b, s, 4] y"),
    ],
    ids=["other readers", "an output", "no bias before", "another operator", "a residual too"],
)
def test_constant_stays_where_nothing_before_can_take_it(body: str, outputs: str):
    model = graph(body, outputs)
    expected = run(model)
    assert fold_constant_layers(model.graph) == 0
    np.testing.assert_array_equal(run(model), expected)


def test_constant_that_gives_a_sum_its_shape_stays_spread():
    model = graph(f"{SPREAD} y = Sum (e, bias)")
    fold_constant_layers(model.graph)
    assert run(model).shape == (2, 3, 4)


def test_normalisations_that_share_a_shift_get_their_own():
    model = graph(
        f"{NORMALIZED} t = LayerNormalization (x, gamma, beta) e = Add (a, bias) y = Mul (e, t)"
    )
    expected = run(model)
    assert fold_constant_layers(model.graph) == 1
    np.testing.assert_allclose(run(model), expected, rtol=1e-6, atol=1e-6)
