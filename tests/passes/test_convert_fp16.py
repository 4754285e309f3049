from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from compressor.data import Dataset
from compressor.errors import PassError
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_file import load_graph, save_graph
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes._base import PassContext
from compressor.passes.convert_fp16 import ConvertFp16
from compressor.passes.quantize_dynamic import QuantizeDynamic
from compressor.progress import SILENT

EXPORTS = {
    "fused for cuda": {"provider": "cuda"},
    "fused for the cpu": {"provider": "cpu"},
    "standard operators": {"provider": "tensorrt"},
}


@pytest.fixture(scope="module", params=EXPORTS)
def exported(
    request: pytest.FixtureRequest, tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> OnnxModel:
    """Return the tiny BERT as exported for each provider; run on the CPU, for want of a GPU."""
    path = tmp_path_factory.mktemp("bert") / "model.onnx"
    export_onnx(load_checkpoint(tiny_bert_dir), path, **EXPORTS[request.param])
    return OnnxModel(path)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def context(tmp_path: Path, notes: list[str]) -> PassContext:
    return PassContext(
        splits={},
        load_baseline=lambda: pytest.fail("this pass needs no baseline"),
        device=torch.device("cpu"),
        seed=0,
        work_dir=tmp_path / "work",
        progress=SILENT,
        note=notes.append,
    )


@pytest.fixture
def apply(context: PassContext) -> Callable[..., OnnxModel]:
    """Return a function that applies the pass with the given settings."""
    return lambda model, **settings: ConvertFp16(**settings).apply(model, context)


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
    assert notes == [f"{before.parameters:,} of {before.parameters:,} weights are float16."]


def test_operator_that_the_graph_lacks_is_an_error(exported: OnnxModel, apply):
    with pytest.raises(PassError, match=r"keep_in_float\[0\]: .* no operator 'LayerNorm' \(it has"):
        apply(exported, keep_in_float=("LayerNorm",))


def test_second_conversion_is_refused(exported: OnnxModel, apply, tmp_path: Path):
    once = OnnxModel(apply(exported).path.rename(tmp_path / "once.onnx"))
    with pytest.raises(PassError, match="no float32 weights"):
        apply(once)


def test_quantized_graph_is_refused(
    exported: OnnxModel, apply, context: PassContext, tmp_path: Path
):
    quantized = QuantizeDynamic(min_elements=0).apply(exported, context)
    found = r"quantized \(it has MatMulIntegerToFloat, QuantizeLinear\)"
    with pytest.raises(PassError, match=found):
        apply(quantized)


def test_weight_beyond_the_range_is_named(exported: OnnxModel, apply, tmp_path: Path):
    graph = load_graph(exported.path)
    [tensor] = [item for item in graph.graph.initializer if item.name == "classifier.weight"]
    large = numpy_helper.to_array(tensor) + np.float32(1e6)
    tensor.CopyFrom(numpy_helper.from_array(large, tensor.name))
    save_graph(graph, tmp_path / "large.onnx")
    with pytest.raises(PassError, match=r"weight classifier\.weight holds .* ±65504") as caught:
        apply(OnnxModel(tmp_path / "large.onnx"))
    assert caught.value.kind == "convert_fp16"


def test_runs_on_gpus_only():
    assert ConvertFp16.providers == ("cuda", "tensorrt")
