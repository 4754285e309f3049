"""Graphs that a user may bring and that are no good: each is an error or gives the right result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.onnx_model import OnnxModel
from compressor.models.provider_options import AS_WRITTEN
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.passes import PASSES, OnnxPass, apply_pass
from compressor.passes.base import PassContext
from compressor.tasks import Batch

VOCABULARY, WIDTH, INNER, LABELS = 64, 16, 32, 2
# Every pass over the graph, with its settings where the defaults leave so small a graph alone.
INT8: dict[str, dict[str, Any]] = {
    "quantize_dynamic": {"min_elements": 0},
    "quantize_static": {"min_elements": 0},
    "quantize_auto": {"min_elements": 0, "rounds": 1, "max_changed": 1.0},
    "quantize_weights": {"min_elements": 0},
    "quantize_tensorrt": {"min_elements": 0},
}
ALL = {**INT8, "convert_fp16": {}}
OBSERVING = ["quantize_static", "quantize_auto", "quantize_tensorrt", "convert_fp16"]


def weights(seed: int = 0) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    return {
        "table": random.normal(size=(VOCABULARY, WIDTH)).astype(np.float32),
        "first": random.normal(size=(WIDTH, INNER)).astype(np.float32),
        "second": random.normal(size=(INNER, LABELS)).astype(np.float32),
    }


def make(
    constants: dict[str, NDArray[Any]],
    *,
    opset: int = 20,
    as_nodes: bool = False,
    as_inputs: bool = False,
    extra: tuple[onnx.NodeProto, ...] = (),
) -> onnx.ModelProto:
    """Return a graph that looks tokens up, multiplies them twice, and takes their mean."""
    dtype = helper.np_dtype_to_tensor_dtype(constants["table"].dtype)
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    nodes = [
        *(
            helper.make_node("Constant", [], [item.name], value=item)
            for item in tensors
            if as_nodes
        ),
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        *extra,
        helper.make_node("MatMul", ["mixed" if extra else "tokens", "first"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["scores"]),
        helper.make_node("GlobalAveragePool", ["turned"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["logits"], to=TensorProto.FLOAT),
    ]
    pool = next(place for place, node in enumerate(nodes) if node.op_type == "GlobalAveragePool")
    nodes.insert(pool, helper.make_node("Transpose", ["scores"], ["turned"], perm=[0, 2, 1]))
    read = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    if as_inputs:
        read += [helper.make_tensor_value_info(item.name, dtype, item.dims) for item in tensors]
    given = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", LABELS])]
    kept = [] if as_nodes or as_inputs else tensors
    graph = helper.make_graph(nodes, "graph", read, given, kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture(scope="module")
def model(tiny_bert_dir: Path) -> TorchModel:
    return load_checkpoint(tiny_bert_dir)


@pytest.fixture
def apply(context: PassContext, tmp_path: Path):
    """Return a function that applies a pass to a graph and gives the new model."""

    def run(kind: str, graph: onnx.ModelProto) -> OnnxModel:
        path = tmp_path / "given" / "model.onnx"
        save_graph(graph, path)
        step = PASSES[kind].settings.of(ALL[kind])
        assert isinstance(step, OnnxPass)
        return apply_pass(step, OnnxModel(path, threads=1, settings=AS_WRITTEN), context)

    return run


@pytest.fixture
def batch(model: TorchModel, text_dataset: Dataset) -> Batch:
    return model.task.encode(model.preprocessor, text_dataset.examples[:8])


def predict(graph: onnx.ModelProto, batch: Batch, path: Path) -> NDArray[np.float32]:
    save_graph(graph, path)
    return OnnxModel(path, threads=1).predict(batch)


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ALL)
def test_quantized_graph_is_refused(apply, kind: str):
    quantized = load_graph(apply("quantize_dynamic", make(weights())).path)
    with pytest.raises(StepFailed, match=r"the graph is (already )?quantized \(it has .*Integer"):
        apply(kind, quantized)


@pytest.mark.parametrize("kind", ALL)
def test_graph_in_half_precision_is_refused(apply, kind: str):
    half = {name: values.astype(np.float16) for name, values in weights().items()}
    with pytest.raises(StepFailed, match=r"float16.*float32|no float32 weights"):
        apply(kind, make(half))


@pytest.mark.parametrize("kind", INT8)
def test_weight_that_is_not_finite_is_an_error(apply, kind: str):
    broken = weights()
    broken["first"][3, 1] = np.nan
    with pytest.raises(StepFailed, match=r"NaN or infinity"):
        apply(kind, make(broken))


@pytest.mark.parametrize("kind", OBSERVING)
def test_activations_that_overflow_are_an_error(apply, kind: str):
    huge = {name: values * np.float32(1e20) for name, values in weights().items()}
    with pytest.raises(
        StepFailed,
        match=r"(NaN or infinity|gives inf).*the checkpoint or the pass before is broken",
    ):
        apply(kind, make(huge))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_activations_give_the_right_result(
    apply, batch: Batch, tmp_path: Path, kind: str, value: float
):
    constant = {**weights(), "table": np.full((VOCABULARY, WIDTH), value, np.float32)}
    graph = make(constant)
    expected = predict(graph, batch, tmp_path / "plain.onnx")
    found = apply(kind, graph).predict(batch)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ALL)
def test_rows_and_columns_of_zeros_give_the_right_result(
    apply, batch: Batch, tmp_path: Path, kind: str
):
    zeros = weights()
    zeros["table"][:5] = 0
    zeros["first"][:, :4] = 0
    zeros["second"][2:6] = 0
    graph = make(zeros)
    expected = predict(graph, batch, tmp_path / "plain.onnx")
    assert_close(apply(kind, graph).predict(batch), expected)


@pytest.mark.parametrize("kind", ALL)
def test_weights_in_constant_nodes_give_the_right_result(
    apply, batch: Batch, tmp_path: Path, kind: str
):
    graph = make(weights(), as_nodes=True)
    expected = predict(graph, batch, tmp_path / "plain.onnx")
    found = apply(kind, graph)
    assert_close(found.predict(batch), expected)
    assert found.path.stat().st_size < (tmp_path / "given" / "model.onnx").stat().st_size


@pytest.mark.parametrize("kind", ALL)
def test_graph_without_weights_is_refused(apply, kind: str):
    with pytest.raises(StepFailed, match=r"no .*weights.*(export|remove)"):
        apply(kind, make(weights(), as_inputs=True))


@pytest.mark.parametrize("kind", ALL)
def test_product_of_two_activations_stays_in_float(apply, batch: Batch, tmp_path: Path, kind: str):
    scores = (
        helper.make_node("Transpose", ["tokens"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "keys"], ["products"]),
        helper.make_node("Softmax", ["products"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "tokens"], ["mixed"]),
    )
    graph = make(weights(), extra=scores)
    expected = predict(graph, batch, tmp_path / "plain.onnx")
    found = apply(kind, graph)
    assert_close(found.predict(batch), expected)
    kept = [node for node in load_graph(found.path).graph.node if node.op_type == "MatMul"]
    assert sum(node.input[0] in ("tokens", "shares") for node in kept) == 2


@pytest.mark.parametrize("kind", ALL)
def test_old_operator_set_is_refused_or_gives_the_right_result(
    apply, batch: Batch, tmp_path: Path, kind: str
):
    graph = make(weights(), opset=11)
    if kind == "quantize_tensorrt":
        with pytest.raises(StepFailed, match="operator set 11"):
            apply(kind, graph)
        return
    expected = predict(graph, batch, tmp_path / "plain.onnx")
    assert_close(apply(kind, graph).predict(batch), expected)


@pytest.mark.parametrize("kind", INT8)
def test_operator_set_without_integers_is_refused(apply, kind: str):
    with pytest.raises(StepFailed, match=r"operator set 9.* or newer"):
        apply(kind, make(weights(), opset=9))


@pytest.mark.parametrize("kind", ALL)
def test_weights_in_a_file_of_their_own_stay_readable(
    apply, batch: Batch, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    # As above 2 GB: every graph that a pass writes has its weights beside it.
    monkeypatch.setattr(save_graph, "__kwdefaults__", {"largest_single_file": 100})
    graph = make(weights())
    expected = predict(graph, batch, tmp_path / "plain.onnx")
    found = apply(kind, graph)
    assert found.path.with_name("model.onnx.data").is_file()
    assert_close(found.predict(batch), expected)
