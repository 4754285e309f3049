from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.onnx_graph.element_types import opset_version
from compressor.onnx_graph.onnx_file import load_graph
from compressor.passes.convert_fp16.cuda_kernels import has_kernel
from compressor.passes.convert_fp16.float16 import convert_to_float16, float_nodes

# Two summation orders of float32 over 64 terms of size 1 to 10 differ by a few units of 1e-6.
TOLERANCE = 2e-5
TEXTS = ["the plot was very " * 10, "a good film", "bad", ""]


@pytest.fixture(scope="module")
def bert(exported_bert_for_cuda: OnnxModel) -> OnnxModel:
    """Return the tiny BERT as exported for CUDA; run on the CPU, for want of a GPU."""
    return OnnxModel(exported_bert_for_cuda.path)


@pytest.fixture(scope="module")
def vit(tiny_vit_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    path = tmp_path_factory.mktemp("cuda") / "model.onnx"
    export_onnx(load_checkpoint(tiny_vit_dir), path, provider="cuda")
    return OnnxModel(path)


@pytest.fixture(scope="module")
def graph(bert: OnnxModel) -> onnx.ModelProto:
    return load_graph(bert.path)


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def test_fusions_that_cuda_has_kernels_for_stay(graph: onnx.ModelProto):
    found = operators(graph)
    kept = ("MultiHeadAttention", "SkipLayerNormalization", "BiasGelu", "LayerNormalization")
    assert [found[name] for name in kept] == [2, 4, 2, 1]
    # Query, key and value of a layer are one product; of the last one, the query is read once.
    assert found["MatMul"] == 4 + 5


def test_nothing_of_the_general_mask_is_left(graph: onnx.ModelProto):
    found = operators(graph)
    assert (found["Where"], found["Expand"], found["Unsqueeze"]) == (1, 1, 1)
    general = {"GatherND", "Range", "ReduceSum", "Less", "Not", "Max", "Transpose", "Softmax"}
    assert not found.keys() & general
    # One mask for all layers: the last reads the row that the others have for every query.
    masks = {node.input[5] for node in graph.graph.node if node.op_type == "MultiHeadAttention"}
    assert masks == {"padding_mask", "padding_mask_row"}


def test_no_value_is_reshaped(graph: onnx.ModelProto):
    assert operators(graph)["Reshape"] == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cuda_has_kernels_for_every_float_operator(graph: onnx.ModelProto, dtype):
    version = opset_version(graph)
    missing = {
        node.op_type for node in float_nodes(graph) if not has_kernel(node.op_type, dtype, version)
    }
    assert missing == set()


def test_half_precision_needs_no_cast_but_at_the_boundary(graph: onnx.ModelProto):
    converted = convert_to_float16(graph)
    casts = [node for node in converted.graph.node if node.op_type == "Cast"]
    made = {name: node.op_type for node in converted.graph.node for name in node.output}
    assert [(made.get(node.input[0]), list(node.output)) for node in casts][-1] == (
        "Gemm",
        ["logits"],
    )
    # The other one turns the attention mask into booleans, as it did before.
    assert len(casts) == 1 + operators(graph)["Cast"] == 2


def test_logits_are_those_of_pytorch_for_padded_batches(bert: OnnxModel, tiny_bert: TorchModel):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, TEXTS)
    np.testing.assert_allclose(bert.predict(batch), tiny_bert.predict(batch), atol=TOLERANCE)


@pytest.mark.parametrize("text", TEXTS)
def test_logits_are_those_of_pytorch_for_one_text(
    bert: OnnxModel, tiny_bert: TorchModel, text: str
):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, [text])
    np.testing.assert_allclose(bert.predict(batch), tiny_bert.predict(batch), atol=TOLERANCE)


def test_images_keep_the_fusions_too(vit: OnnxModel, tiny_vit: TorchModel, image_dataset):
    found = operators(load_graph(vit.path))
    assert found["MultiHeadAttention"] == 2
    assert found["BiasGelu"] == 2
    batch = tiny_vit.task.encode(tiny_vit.preprocessor, image_dataset.examples[:5])
    np.testing.assert_allclose(vit.predict(batch), tiny_vit.predict(batch), atol=TOLERANCE)


def test_graph_is_valid_and_its_shapes_are_known(graph: onnx.ModelProto):
    onnx.checker.check_model(graph)
    shapes = {item.name: item.type.tensor_type for item in graph.graph.value_info}
    for node in graph.graph.node:
        if node.op_type == "MultiHeadAttention":
            assert shapes[node.output[0]].elem_type == TensorProto.FLOAT
            assert len(shapes[node.output[0]].shape.dim) == 3
