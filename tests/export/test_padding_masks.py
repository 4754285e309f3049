from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import parser

from compressor.export.padding_masks import simplify_padding_masks
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.onnx_file import load_graph

LOWEST = float(np.finfo(np.float32).min)

# What tracing writes: positions of queries and keys, the attention mask looked up by batch and key.
POSITIONS = """
    rows = Range (zero, batch, one) columns = Range (zero, length, one)
    b4 = Unsqueeze (rows, axes123)
    q4 = Unsqueeze (columns, axes013) k4 = Unsqueeze (columns, axes012)
    largest = Max (b4, k4) grid = Shape (largest)
    b5 = Expand (b4, grid) k5 = Expand (k4, grid)
    b6 = Unsqueeze (b5, last) k6 = Unsqueeze (k5, last)
    index = Concat <axis: int = -1> (b6, k6)
    visible = Cast <to: int = 9> (mask)
    looked_up = GatherND (visible, index)
"""
ATTENTION = """
    y0 = Attention <q_num_heads: int = 2, kv_num_heads: int = 2> (x, x, x, scores)
"""
GUARD = """
    numbers = Cast <to: int = 1> (allowed) found = ReduceSum (numbers, last)
    none = Less (found, onef)
    swapped = Transpose <perm: ints = [0, 2, 1, 3]> (none)
    y4 = Reshape (y0, heads) kept = Where (swapped, zerof, y4) y = Reshape (kept, merge)
"""


def graph(allowed: str, scores: str, guard: str = "y = Identity (y0)") -> ir.Model:
    """Return an attention of 2 heads x 4 with the mask `scores`, made from `allowed`."""
    text = f"""
    <ir_version: 11, opset_import: ["" : 23]>
    g (float[b, s, 8] x, int64[b, s] mask, int64 batch, int64 length) => (float[b, s, 8] y)
    <int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, float zerof = {{0}},
     float onef = {{1}}, float lowest = {{{LOWEST!r}}}, int64[1] last = {{-1}}, bool true = {{1}},
     int64[3] axes123 = {{1, 2, 3}}, int64[3] axes013 = {{0, 1, 3}},
     int64[3] axes012 = {{0, 1, 2}}, int64[4] heads = {{0, 0, 2, 4}}, int64[3] merge = {{0, 0, 8}},
     int64[b] rows, int64[s] columns, int64[b, 1, 1, 1] b4, int64[1, 1, s, 1] q4,
     int64[1, 1, 1, s] k4, int64[b, 1, 1, s] b5, int64[b, 1, 1, s] k5, int64[b, 1, 1, s, 1] b6,
     int64[b, 1, 1, s, 1] k6, bool[b, s] visible, bool[b, 1, 1, s] looked_up,
     bool[b, 1, s, s] allowed, float[b, 1, s, s] scores>
    {{ {POSITIONS} {allowed} {scores} {ATTENTION} {guard} }}"""
    return ir.from_proto(parser.parse_model(text))


WINDOW = "far = Sub (q4, k4) any = LessOrEqual (far, two) allowed = And (any, looked_up)"
BIDIRECTIONAL = "any = GreaterOrEqual (q4, zero) allowed = And (any, looked_up)"
AS_PRODUCT = "not = Not (allowed) n = Cast <to: int = 1> (not) scores = Mul (n, lowest)"
AS_CHOICE = "scores = Where (allowed, zerof, lowest)"


def run(model: ir.Model, mask: NDArray[np.int64]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rows, length = mask.shape
    x = np.random.default_rng(0).normal(size=(rows, length, 8)).astype(np.float32)
    sizes = {"batch": np.array(rows), "length": np.array(length)}
    found: NDArray[np.float32] = session.run(None, {"x": x, "mask": mask, **sizes})[0]
    return found


MASKS = [
    np.array([[1]]),
    np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0]]),  # full, padded right, padded left and right
    np.array([[2, 0, -1, 1]]),  # whatever is not zero is visible
]


@pytest.mark.parametrize("mask", MASKS, ids=["one token", "padded", "other numbers"])
@pytest.mark.parametrize("guard", ["y = Identity (y0)", GUARD], ids=["plain", "guarded"])
@pytest.mark.parametrize("scores", [AS_PRODUCT, AS_CHOICE], ids=["product", "choice"])
def test_simplified_mask_gives_the_same_attention(scores: str, guard: str, mask: NDArray[np.int64]):
    model = graph(BIDIRECTIONAL, scores, guard)
    expected = run(model, mask)
    assert simplify_padding_masks(model.graph) == 1
    np.testing.assert_array_equal(run(model, mask), expected)


@pytest.mark.parametrize(
    ("allowed", "scores"),
    [
        ("any = GreaterOrEqual (q4, k4) allowed = And (any, looked_up)", AS_CHOICE),
        ("any = GreaterOrEqual (q4, two) allowed = And (any, looked_up)", AS_CHOICE),
        (WINDOW, AS_CHOICE),
        (BIDIRECTIONAL, "scores = Where (allowed, onef, lowest)"),
        ("w = GreaterOrEqual (q4, zero) o = Or (w, looked_up) allowed = And (o, o)", AS_CHOICE),
    ],
    ids=["causal", "not all queries", "window", "not zero where visible", "other operator"],
)
def test_mask_that_does_more_than_hide_padding_stays(allowed: str, scores: str):
    model = graph(allowed, scores)
    assert simplify_padding_masks(model.graph) == 0


def test_guard_of_another_condition_stays():
    other = GUARD.replace("Less (found, onef)", "Less (found, zerof)")
    model = graph(BIDIRECTIONAL, AS_CHOICE, other)
    assert simplify_padding_masks(model.graph) == 1
    assert model.graph[-1].inputs[0].producer().op_type == "Where"


def test_exported_graph_makes_its_mask_once(exported_bert: OnnxModel):
    operators = Counter(node.op_type for node in load_graph(exported_bert.path).graph.node)
    assert operators["Softmax"] == 2
    assert (operators["Where"], operators["Expand"], operators["Unsqueeze"]) == (1, 1, 1)
    assert not operators.keys() & {"GatherND", "ReduceSum", "Range", "Not"}


def test_row_without_any_visible_token_stays_finite(
    exported_bert: OnnxModel, tiny_bert: TorchModel
):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, ["a good film", "bad"])
    hidden = {**batch, "attention_mask": batch["attention_mask"] * np.array([[0], [1]])}
    logits = exported_bert.predict(hidden)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[1], exported_bert.predict(batch)[1], atol=1e-6)
