from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto, numpy_helper

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.passes import PassContext, apply_pass
from compressor.passes.convert_fp16.settings import ConvertFp16
from compressor.passes.quantize.settings import QuantizeDynamic

EXPORTS = {
    "fused for cuda": "exported_bert_for_cuda",
    "fused for the cpu": "exported_bert",
    "standard operators": "exported_standard_bert",
}


@pytest.fixture(params=EXPORTS)
def exported(request: pytest.FixtureRequest) -> OnnxModel:
    """Return the tiny BERT as exported for each provider; run on the CPU, for want of a GPU."""
    return OnnxModel(request.getfixturevalue(EXPORTS[request.param]).path)


@pytest.fixture
def context(
    make_context: Callable[..., PassContext], tiny_bert_dir: Path, text_dataset: Dataset
) -> PassContext:
    return make_context(tiny_bert_dir, calibration=text_dataset)


@pytest.fixture
def apply(context: PassContext) -> Callable[..., OnnxModel]:
    """Return a function that applies the pass with the given settings."""
    return lambda model, **settings: apply_pass(ConvertFp16(**settings), model, context)


def element_types(model: OnnxModel) -> set[int]:
    """Return the types of all constants with more than one element, integers left out."""
    tensors = load_graph(model.path).graph.initializer
    return {
        item.data_type
        for item in tensors
        if numpy_helper.to_array(item).dtype.kind == "f" and numpy_helper.to_array(item).size > 1
    }


def test_every_weight_becomes_half_and_the_boundary_keeps_its_types(exported: OnnxModel, apply):
    converted = apply(exported)
    graph = load_graph(converted.path).graph
    boundary = [*graph.input, *graph.output]
    assert element_types(converted) == {TensorProto.FLOAT16}
    assert {item.name: item.type.tensor_type.elem_type for item in boundary} == {
        "input_ids": TensorProto.INT64,
        "token_type_ids": TensorProto.INT64,
        "attention_mask": TensorProto.INT64,
        "logits": TensorProto.FLOAT,
    }


def test_graph_is_valid_onnx(exported: OnnxModel, apply):
    onnx.checker.check_model(load_graph(apply(exported).path))


def test_logits_stay_close_with_padded_rows(
    exported: OnnxModel, apply, tiny_bert: TorchModel, text_dataset: Dataset
):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    before, after = exported.predict(batch), apply(exported).predict(batch)
    # 11 significant bits: 1 part in 2000 for each of some twenty operations in a row.
    assert np.abs(after - before).max() < 0.01 * np.abs(before).max()


def test_products_can_stay_in_float(
    exported: OnnxModel, apply, tiny_bert: TorchModel, text_dataset: Dataset
):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    mixed = apply(exported, keep_in_float=("MatMul", "Tanh"))
    assert element_types(mixed) == {TensorProto.FLOAT, TensorProto.FLOAT16}
    onnx.checker.check_model(load_graph(mixed.path))
    difference = np.abs(mixed.predict(batch) - exported.predict(batch))
    assert difference.max() < 0.01 * np.abs(exported.predict(batch)).max()


def test_file_halves_and_the_number_of_parameters_does_not(
    exported: OnnxModel, apply, notes: list[str]
):
    before, after = exported.size(), apply(exported).size()
    assert (after.parameters, after.nonzero_parameters) == (
        before.parameters,
        before.nonzero_parameters,
    )
    assert f"{before.parameters:,} of {before.parameters:,} weights are float16." in notes


def test_parity_with_float_is_measured_and_recorded(
    exported: OnnxModel, apply, context: PassContext, notes: list[str], tiny_bert: TorchModel
):
    converted = apply(exported)
    parity = context.facts["half_parity"]
    examples = sorted(context.calibration.examples, key=len)
    batches = [
        tiny_bert.task.encode(tiny_bert.preprocessor, examples[start : start + 32])
        for start in (0, 32)
    ]
    difference = np.concatenate(
        [converted.predict(batch) - exported.predict(batch) for batch in batches]
    )
    assert parity["max_abs_diff"] == pytest.approx(np.abs(difference).max(), rel=1e-3)
    assert parity["rms_diff"] == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-3)
    assert (parity["rows"], parity["provider"]) == (48, "cpu")
    assert any("logits differ from float32 by up to" in note for note in notes)


def test_node_beyond_the_range_is_found_and_kept(
    exported: OnnxModel, apply, context: PassContext, tiny_bert: TorchModel, tmp_path: Path
):
    graph = load_graph(exported.path)
    scale(graph, "bert.encoder.layer.1.attention.output.dense.weight", 1e6)
    save_graph(graph, tmp_path / "large.onnx")
    large = OnnxModel(tmp_path / "large.onnx")
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, context.calibration.examples[:8])
    mixed = apply(large)
    found = {item["operator"] for item in context.facts["kept_in_float"]}
    assert "MatMul" in found
    assert element_types(mixed) == {TensorProto.FLOAT, TensorProto.FLOAT16}
    np.testing.assert_allclose(mixed.predict(batch), large.predict(batch), atol=0.02)


def test_without_the_search_a_weight_beyond_the_range_is_an_error(
    exported: OnnxModel, apply, tmp_path: Path
):
    graph = load_graph(exported.path)
    scale(graph, "classifier.weight", 1e6)
    save_graph(graph, tmp_path / "large.onnx")
    expected = r"weight classifier\.weight holds .* ±65504; .* or use search_ranges"
    with pytest.raises(StepFailed, match=expected):
        apply(OnnxModel(tmp_path / "large.onnx"), search_ranges=False)


def test_weight_that_is_not_finite_is_an_error(exported: OnnxModel, apply, tmp_path: Path):
    graph = load_graph(exported.path)
    scale(graph, "classifier.weight", float("nan"))
    save_graph(graph, tmp_path / "broken.onnx")
    with pytest.raises(StepFailed, match=r"the float graph gives nan|holds NaN"):
        apply(OnnxModel(tmp_path / "broken.onnx"))


def scale(graph: onnx.ModelProto, weight: str, factor: float) -> None:
    [tensor] = [item for item in graph.graph.initializer if item.name == weight]
    scaled = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("Tanh", {"Tanh"}),
        ("bert.encoder.layer.1.*.dense.weight", {"MatMul"}),
        ("classifier.*", {"Gemm"}),
    ],
)
def test_operators_and_patterns_of_names_stay_in_float(
    exported: OnnxModel, apply, pattern: str, kept: set[str]
):
    graph = load_graph(apply(exported, keep_in_float=(pattern,)).path).graph
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    back = [node for node in casts.values() if node.attribute[0].i == TensorProto.FLOAT]
    read = {name for node in back for name in node.output}
    assert {node.op_type for node in graph.node if read.intersection(node.input)} == kept


def test_pattern_that_matches_nothing_is_an_error(exported: OnnxModel, apply):
    expected = r"keep_in_float\[0\]: 'LayerNorm' matches no operator, node or weight; operators are"
    with pytest.raises(StepFailed, match=expected):
        apply(exported, keep_in_float=("LayerNorm",))


def test_most_sensitive_nodes_stay_in_float(
    exported: OnnxModel, apply, context: PassContext, notes: list[str]
):
    mixed = apply(exported, keep_sensitive=2)
    profile = context.facts["sensitivity"]
    kept = [item for item in profile if item["kept_in_float"]]
    rest = [item for item in profile if not item["kept_in_float"]]
    assert len(kept) == 2
    assert min(item["logit_rms"] for item in kept) >= max(item["logit_rms"] for item in rest)
    assert {item["layer"] for item in profile} >= {0, 1}
    assert any(note.startswith("In float32, the most sensitive: ") for note in notes)
    onnx.checker.check_model(load_graph(mixed.path))


def test_second_conversion_is_refused(exported: OnnxModel, apply, tmp_path: Path):
    once = OnnxModel(apply(exported).path.rename(tmp_path / "once.onnx"))
    with pytest.raises(StepFailed, match="no float32 weights"):
        apply(once)


def test_quantized_graph_is_refused(
    exported: OnnxModel, apply, context: PassContext, tmp_path: Path
):
    quantized = apply_pass(QuantizeDynamic(min_elements=0), exported, context)
    found = r"quantized \(it has MatMulIntegerToFloat, QuantizeLinear\)"
    with pytest.raises(StepFailed, match=found):
        apply(quantized)


def test_bfloat16_needs_no_calibration_and_halves_the_file_too(exported: OnnxModel, apply):
    settings = ConvertFp16(dtype="bfloat16")
    assert settings.required_splits() == frozenset()
    converted = load_graph(apply(exported, dtype="bfloat16").path)
    onnx.checker.check_model(converted)
    weights = [item for item in converted.graph.initializer if len(item.dims) == 2]
    assert {item.data_type for item in weights} - {TensorProto.INT64} == {TensorProto.BFLOAT16}
    assert converted.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_every_pooling_of_a_sentence_encoder_stays_close(
    tiny_encoder_dir: Path, text_dataset: Dataset, make_context: Any, tmp_path: Path
):
    source = shutil.copytree(tiny_encoder_dir, tmp_path / "encoder")
    modes = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": modes}))
    model = load_checkpoint(source)
    exported = export_onnx(model, tmp_path / "model.onnx", provider="tensorrt")
    exported = OnnxModel(exported.path)
    context = make_context(source, calibration=text_dataset)
    converted = apply_pass(ConvertFp16(), exported, context)
    assert element_types(converted) == {TensorProto.FLOAT16}
    batch = model.task.encode(model.preprocessor, text_dataset.examples)
    before, after = exported.predict(batch), converted.predict(batch)
    assert before.shape == (len(text_dataset), 6 * 32)
    assert np.abs(after - before).max() < 0.01 * np.abs(before).max()


FAMILIES: dict[str, dict[str, Any]] = {
    "eurobert": {"num_key_value_heads": 4, "pad_token_id": 0, "mask_token_id": 4},
    "mpnet": {"pad_token_id": 0},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_norms_and_relative_positions_stay_close(
    family: str,
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    context: PassContext,
    apply: Callable[..., OnnxModel],
    tmp_path: Path,
):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "vocab_size": 40, "max_position_embeddings": 70}
    config = transformers.AutoConfig.for_model(
        family, **sizes, initializer_range=0.3, **FAMILIES[family]
    )
    module = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    model = TorchModel(module, tiny_bert.preprocessor, tiny_bert.task)
    exported = export_onnx(model, tmp_path / "model.onnx")
    converted = apply(exported)
    batch = model.task.encode(model.preprocessor, text_dataset.examples)
    before, after = exported.predict(batch), converted.predict(batch)
    assert TensorProto.FLOAT16 in element_types(converted)
    assert np.abs(after - before).max() < 0.01 * np.abs(before).max()
    found = {item["operator"]: item["reason"] for item in context.facts["kept_in_float"]}
    assert found.get("Log", "").endswith("up to inf") == (family == "mpnet")
