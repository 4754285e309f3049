from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.inspection.onnx_file import inspect_onnx
from compressor.models.onnx_model import OnnxModel, misplaced_nodes
from compressor.models.torch_model import load_checkpoint
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.passes import PassContext, apply_pass
from compressor.passes.quantize.settings import QuantizeWeights
from compressor.tasks import Batch


@pytest.fixture
def apply(make_context: Callable[..., PassContext]) -> Callable[..., OnnxModel]:
    """Return a function that applies the pass with the given settings, without any rows."""

    def run(model: OnnxModel, **settings: object) -> OnnxModel:
        step = QuantizeWeights.model_validate({"min_elements": 0, **settings})
        return apply_pass(step, model, make_context())

    return run


@pytest.fixture
def batch(tiny_bert_dir: Path, text_dataset: Dataset) -> Batch:
    model = load_checkpoint(tiny_bert_dir)
    return model.task.encode(model.preprocessor, text_dataset.examples)


def saved(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], opset: int = 20):
    """Write a graph from x to logits."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xz"]
    graph = helper.make_graph(
        nodes,
        "graph",
        values,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    save_graph(helper.make_model(graph, opset_imports=opsets, ir_version=4), path)
    return OnnxModel(path, threads=1)


def test_every_matrix_is_packed_and_reported(
    exported: OnnxModel, apply, notes: list[str], batch: Batch
):
    quantized = apply(exported)
    operators = [node.op_type for node in load_graph(quantized.path).graph.node]
    assert operators.count("MatMulNBits") == 11
    assert notes[0].startswith("11 matrices hold weights of 4 bits, 32 to a scale, ")
    assert notes[1].startswith("Rounding moves them by ")
    assert np.isfinite(quantized.predict(batch)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_parameters_are_as_many_and_take_less(exported: OnnxModel, apply, bits: int):
    before = exported.size()
    quantized = apply(exported, bits=bits)
    assert quantized.size().parameters == before.parameters
    # A block of 32 takes 20 or 36 bytes, with its scale, where floats took 128.
    layers = exported.components().feed_forward
    assert quantized.components().feed_forward < layers * {4: 0.25, 8: 0.4}[bits]


def test_eight_bits_keep_the_predictions(exported: OnnxModel, apply, batch: Batch):
    before, after = exported.predict(batch), apply(exported, bits=8).predict(batch)
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()
    assert np.mean(after.argmax(axis=1) == before.argmax(axis=1)) > 0.9


def test_output_is_bitwise_the_same_beside_other_texts(exported: OnnxModel, apply, batch: Batch):
    quantized = apply(exported)
    together = quantized.predict(batch)
    chosen = [5, 0, 3]
    few = {name: values[chosen] for name, values in batch.items()}
    np.testing.assert_array_equal(quantized.predict(few), together[chosen])


def test_tables_have_their_own_form(exported: OnnxModel, apply):
    names = {
        item.name for item in load_graph(apply(exported, embeddings="int4").path).graph.initializer
    }
    assert "bert.embeddings.word_embeddings.weight_int4" in names
    assert "bert.embeddings.token_type_embeddings.weight_int8" in names
    kept = {
        item.name for item in load_graph(apply(exported, embeddings=False).path).graph.initializer
    }
    assert "bert.embeddings.word_embeddings.weight" in kept


def test_inspection_places_packed_weights(exported: OnnxModel, apply):
    facts = inspect_onnx(apply(exported, embeddings="int4").path)
    assert facts.operators["MatMulNBits"] == 11
    assert facts.parameters == exported.size().parameters
    assert facts.saturation.verdict == "exact_everywhere"


def test_graph_that_is_already_quantized_is_refused(exported: OnnxModel, apply):
    with pytest.raises(StepFailed, match=r"already quantized \(it has .*MatMulNBits\)"):
        apply(apply(exported, embeddings=False))


def test_graph_of_activations_alone_has_nothing_to_quantize(tmp_path: Path, apply):
    product = helper.make_node("MatMul", ["x", "z"], ["logits"])
    with pytest.raises(StepFailed, match="no matmul and no lookup of the graph has constant"):
        apply(saved(tmp_path / "bare.onnx", [product], {}))


def test_operators_from_before_integers_are_refused(tmp_path: Path, apply):
    product = helper.make_node("MatMul", ["x", "w"], ["logits"])
    model = saved(tmp_path / "old.onnx", [product], {"w": np.ones((32, 4), np.float32)}, opset=9)
    with pytest.raises(StepFailed, match=r"operator set 9, .* operator set 10 or newer"):
        apply(model)


def test_weight_that_is_not_finite_is_named(tmp_path: Path, apply):
    product = helper.make_node("MatMul", ["x", "w"], ["logits"])
    weight = np.full((32, 4), np.nan, np.float32)
    with pytest.raises(StepFailed, match="weight w holds NaN"):
        apply(saved(tmp_path / "broken.onnx", [product], {"w": weight}))


def test_pattern_that_matches_nothing_is_an_error(exported: OnnxModel, apply):
    with pytest.raises(StepFailed, match=r"exclude\[0\]: '\*\.ffn\.\*' matches no weight"):
        apply(exported, exclude=("*.ffn.*",))


def test_a_packed_product_on_another_provider_is_found():
    assert QuantizeWeights.providers == ("cpu", "cuda", "openvino")
    nodes = [("CPUExecutionProvider", "MatMulNBits"), ("CPUExecutionProvider", "Shape")]
    found = misplaced_nodes(nodes, "CUDAExecutionProvider")
    assert found == {"CPUExecutionProvider": ("MatMulNBits",)}
