from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.machine.environment import result_conditions
from compressor.models.onnx_model import OnnxModel, optimized_graph
from compressor.models.provider_options import AS_WRITTEN, PLAIN, provider_options
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.onnx_file import load_graph, parameter_counts, save_graph
from compressor.passes import PassContext, apply_pass
from compressor.passes.convert_fp16.settings import ConvertFp16
from compressor.passes.quantize.settings import QuantizeTensorrt
from compressor.tasks import Batch

METHODS = ("minmax", "percentile", "mse", "entropy")


@pytest.fixture
def exported(exported_standard_bert: OnnxModel) -> OnnxModel:
    """Return the tiny BERT as it is exported for TensorRT, to be judged on the CPU."""
    return OnnxModel(exported_standard_bert.path, threads=1, settings=AS_WRITTEN)


@pytest.fixture
def apply(context: PassContext) -> Callable[..., OnnxModel]:
    def run(model: OnnxModel, **settings: object) -> OnnxModel:
        return apply_pass(QuantizeTensorrt(**{"min_elements": 0, **settings}), model, context)

    return run


@pytest.fixture
def batch(tiny_bert: TorchModel, text_dataset: Dataset) -> Batch:
    return tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)


def constants(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}


@pytest.mark.parametrize("method", METHODS)
def test_logits_stay_close_with_every_method(exported: OnnxModel, apply, batch: Batch, method: str):
    before, after = exported.predict(batch), apply(exported, method=method).predict(batch)
    # One step of a random model's activations, whose every value carries information.
    assert np.abs(after - before).max() < 0.25 * np.abs(before).max()
    assert np.mean(after.argmax(axis=1) == before.argmax(axis=1)) > 0.9


def test_file_holds_what_tensorrt_reads_and_nothing_else(exported: OnnxModel, apply):
    graph = load_graph(apply(exported).path)
    onnx.checker.check_model(graph)
    found = constants(graph)
    assert {node.domain for node in graph.graph.node} == {""}
    quantizing = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    restoring = [node for node in graph.graph.node if node.op_type == "DequantizeLinear"]
    # Six matrices in each of two layers, the pooler and the classifier; Q, K and V share an input.
    assert len(quantizing) == 2 * 4 + 2
    assert len(restoring) == len(quantizing) + 2 * 6 + 2
    for node in (*quantizing, *restoring):
        scale, zero_point = (found[name] for name in node.input[1:])
        assert (scale.dtype, zero_point.dtype) == (np.float32, np.int8)
        assert (scale > 0).all()
        assert not zero_point.any()
        assert scale.shape == zero_point.shape
    assert all(found[node.input[1]].shape == () for node in quantizing)


def test_every_product_with_a_weight_reads_two_pairs_and_no_float_weight(
    exported: OnnxModel, apply
):
    graph = load_graph(apply(exported).path)
    producers = {name: node for node in graph.graph.node for name in node.output}
    found = constants(graph)
    products = [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm")]
    quantized = [
        node
        for node in products
        if [producers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
    ]
    assert len(quantized) == 14
    # Scores and values of attention are products of two activations.
    assert len(products) - len(quantized) == 2 * 2
    matrices = [name for name, item in found.items() if item.ndim == 2 and item.dtype == np.float32]
    assert all("embeddings" in name for name in matrices)


def test_logits_equal_the_float_graph_with_factors_rounded_in_numpy(
    exported: OnnxModel, apply, batch: Batch, tmp_path: Path
):
    quantized = apply(exported, smooth_alpha=None)
    graph = load_graph(quantized.path)
    found = constants(graph)
    by_hand = rounded_in_numpy(load_graph(exported.path), graph, found)
    save_graph(by_hand, tmp_path / "by_hand.onnx")
    # Activations are rounded by elementary operators there, so no operator is shared.
    expected = OnnxModel(tmp_path / "by_hand.onnx", threads=1).predict(batch)
    np.testing.assert_allclose(quantized.predict(batch), expected, atol=1e-5)


def rounded_in_numpy(
    plain: onnx.ModelProto, paired: onnx.ModelProto, found: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """Return `plain` with its weights rounded here, and activations by Div, Round, Clip and Mul."""
    scales = {node.input[0]: found[node.input[1]] for node in paired.graph.node if is_pair(node)}
    tensors = {item.name: item for item in plain.graph.initializer}
    nodes = []
    for node in plain.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in tensors:
            axis = 1 if node.op_type == "MatMul" else 0
            weight = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64)
            step = np.expand_dims(found[f"{node.input[1]}_scale"].astype(np.float64), 1 - axis)
            rounded = (np.clip(np.rint(weight / step), -127, 127) * step).astype(np.float32)
            tensors[node.input[1]].CopyFrom(numpy_helper.from_array(rounded, node.input[1]))
            steps = rounding(plain, node.input[0], scales[node.input[0]], node.output[0])
            node.input[0] = steps[-1].output[0]
            nodes += steps
        nodes.append(node)
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    return plain


def is_pair(node: onnx.NodeProto) -> bool:
    return node.op_type == "QuantizeLinear"


def rounding(graph: onnx.ModelProto, value: str, scale: np.ndarray, name: str):
    bounds = {"scale": scale, "low": np.float32(-128), "high": np.float32(127)}
    names = {key: f"{name}_{key}" for key in bounds}
    graph.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(bounds[key]), names[key]) for key in bounds
    )
    inputs = [("Div", "scale"), ("Round", None), ("Clip", "low"), ("Mul", "scale")]
    outputs = [value, *(f"{name}_{operator}" for operator, _ in inputs)]
    found = []
    for (operator, constant), (before, after) in zip(inputs, pairwise(outputs), strict=True):
        read = [] if constant is None else [names[constant]]
        read += [names["high"]] if operator == "Clip" else []
        found.append(helper.make_node(operator, [before, *read], [after]))
    return found


@pytest.mark.skipif(
    {"avx512_vnni", "avx_vnni", "i8mm", "asimddp"}.isdisjoint(
        result_conditions()["cpu_features"] or ()
    ),
    reason="without VNNI the sums of full-range weights saturate in 16 bits",
)
def test_cpu_computes_the_pairs_as_they_are_written(exported: OnnxModel, apply, batch: Batch):
    quantized = apply(exported)
    fused = {node.op_type for node in optimized_graph(quantized.path).graph.node}
    assert fused & {"MatMulIntegerToFloat", "QLinearMatMul", "DynamicQuantizeMatMul", "QGemm"}
    assert quantized.settings == AS_WRITTEN
    plain = dataclasses.replace(quantized, settings=PLAIN)
    # Rounding alone.
    np.testing.assert_allclose(quantized.predict(batch), plain.predict(batch), atol=1e-4)


def test_tensorrt_is_told_that_the_file_has_int8(exported: OnnxModel, apply):
    options = [
        provider_options("tensorrt", item.path, PLAIN)["TensorrtExecutionProvider"]
        for item in (exported, apply(exported))
    ]
    assert [item["trt_int8_enable"] for item in options] == ["0", "1"]


def test_half_precision_after_it_moves_no_integer(
    exported: OnnxModel, apply, context: PassContext, batch: Batch, tmp_path: Path
):
    quantized = apply(exported)
    own = dataclasses.replace(context, work_dir=tmp_path / "half")
    half = apply_pass(ConvertFp16(), quantized, own)
    before, after = (constants(load_graph(item.path)) for item in (quantized, half))
    integers = {name: values for name, values in before.items() if values.dtype == np.int8}
    assert all(np.array_equal(after[name], values) for name, values in integers.items())
    scales = [name for name in before if name.endswith("_scale")]
    assert scales
    for name in scales:
        assert after[name].dtype == np.float16
        np.testing.assert_array_equal(after[name].astype(np.float32), before[name])
    options = provider_options("tensorrt", half.path, PLAIN)["TensorrtExecutionProvider"]
    assert (options["trt_int8_enable"], options["trt_fp16_enable"]) == ("1", "1")
    found = dataclasses.replace(half, settings=AS_WRITTEN).predict(batch)
    expected = quantized.predict(batch)
    # Rounding to half moves some activations to the next integer, as any change of that size does.
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert np.mean(found.argmax(axis=1) == expected.argmax(axis=1)) > 0.9


def test_parameters_are_counted_as_before(exported: OnnxModel, apply):
    assert (
        parameter_counts(apply(exported, smooth_alpha=None).path)[0]
        == parameter_counts(exported.path)[0]
    )


def test_report_says_what_is_int8_and_where_it_was_judged(exported: OnnxModel, apply, notes):
    apply(exported)
    assert notes[0].startswith("Scales of 10 activations fixed on ")
    assert notes[1].startswith("14 matrices hold int8 weights in signed pairs, ")
    assert "a table is looked up, which int8 does not make faster on a GPU" in notes[2]
    assert notes[-1] == "Judged on the provider cpu, not on TensorRT."


def test_most_sensitive_weights_stay_in_float(exported: OnnxModel, apply, notes, context):
    graph = load_graph(apply(exported, keep_sensitive=2).path)
    kept = [item["name"] for item in context.facts["sensitivity"] if item["kept_in_float"]]
    assert len(kept) == 2
    assert set(kept) <= set(constants(graph))
    assert any(note.startswith("Left in float, the most sensitive") for note in notes)


def test_smoothing_adds_multiplications_and_no_pairs(exported: OnnxModel, apply, batch: Batch):
    counted = [
        Counter(node.op_type for node in load_graph(apply(exported, **settings).path).graph.node)
        for settings in ({"smooth_alpha": None}, {"smooth_alpha": 0.8})
    ]
    assert counted[1]["Mul"] > counted[0]["Mul"]
    del counted[0]["Mul"], counted[1]["Mul"]
    assert counted[0] == counted[1]


def test_graph_with_operators_of_onnx_runtime_is_refused(exported_bert: OnnxModel, apply):
    with pytest.raises(StepFailed, match=r"TensorRT cannot read com\.microsoft:.*export\.provider"):
        apply(exported_bert)


def test_quantized_graph_is_refused(exported: OnnxModel, apply):
    with pytest.raises(StepFailed, match="already quantized"):
        apply(apply(exported))


def test_graph_of_an_older_operator_set_is_refused(exported: OnnxModel, apply, tmp_path: Path):
    graph = load_graph(exported.path)
    graph.opset_import[0].version = 12
    save_graph(graph, tmp_path / "old.onnx")
    with pytest.raises(StepFailed, match=r"operator set 12, .* 13 or newer"):
        apply(OnnxModel(tmp_path / "old.onnx"))
