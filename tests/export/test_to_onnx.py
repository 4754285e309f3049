from __future__ import annotations

import importlib
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers

from compressor.data import Dataset
from compressor.errors import ExportError
from compressor.export import to_onnx
from compressor.export.to_onnx import export_onnx
from compressor.machine.quiet import quiet_libraries
from compressor.models.families import FAMILIES, Family
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.onnx_file import load_graph, parameter_counts
from compressor.tasks import load_task

# Two summation orders of float32 over 64 terms of size 1 to 10 differ by a few units of 1e-6.
TOLERANCE = 2e-5


def operators(path: Path) -> set[str]:
    return {node.op_type for node in load_graph(path).graph.node}


@pytest.mark.parametrize(
    "texts",
    [
        ["film"],
        [""],
        ["a good film", "bad"],
        ["the plot was very " * 10, "a good film", "bad", "it is fine", ""],
    ],
    ids=["one word", "no word", "padded", "long and padded"],
)
def test_logits_are_those_of_pytorch_for_any_batch_and_length(
    exported_bert: OnnxModel, tiny_bert: TorchModel, texts: list[str]
):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, texts)
    np.testing.assert_allclose(
        exported_bert.predict(batch), tiny_bert.predict(batch), atol=TOLERANCE
    )


@pytest.mark.parametrize("size", [1, 2, 7])
def test_logits_of_images_are_those_of_pytorch_for_any_batch(
    exported_vit: OnnxModel, tiny_vit: TorchModel, image_dataset: Dataset, size: int
):
    batch = tiny_vit.task.encode(tiny_vit.preprocessor, image_dataset.examples[:size])
    np.testing.assert_allclose(exported_vit.predict(batch), tiny_vit.predict(batch), atol=TOLERANCE)


def test_graph_reads_what_the_tokenizer_gives_and_writes_logits(exported_bert: OnnxModel):
    inputs = {item.name: item.shape for item in exported_bert.session.get_inputs()}
    outputs = {item.name: item.shape for item in exported_bert.session.get_outputs()}
    axes = ["batch", "sequence"]
    assert inputs == {"input_ids": axes, "token_type_ids": axes, "attention_mask": axes}
    assert outputs == {"logits": ["batch", 2]}


def test_checkpoint_for_colour_images_exports(tmp_path: Path):
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    processor = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8})
    module = transformers.ViTForImageClassification(config).eval()
    model = TorchModel(module, processor, load_task("image-classification"))
    exported = export_onnx(model, tmp_path / "model.onnx")
    batch = model.task.encode(processor, [np.arange(192, dtype=np.uint8).reshape(8, 8, 3)] * 3)
    np.testing.assert_allclose(exported.predict(batch), model.predict(batch), atol=TOLERANCE)


def test_layers_that_share_weights_store_them_once(tiny_bert: TorchModel, tmp_path: Path):
    config = transformers.AlbertConfig(
        vocab_size=len(tiny_bert.preprocessor),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    module = transformers.AlbertForSequenceClassification(config).eval()
    model = TorchModel(module, tiny_bert.preprocessor, tiny_bert.task)
    exported = export_onnx(model, tmp_path / "model.onnx")
    assert parameter_counts(exported.path)[0] <= sum(p.numel() for p in module.parameters())
    names = {tensor.name for tensor in load_graph(exported.path).graph.initializer}
    assert "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight" in names
    batch = model.task.encode(model.preprocessor, ["a good film", "bad"])
    np.testing.assert_allclose(exported.predict(batch), model.predict(batch), atol=TOLERANCE)


@pytest.mark.parametrize("eps", [1e-8, 1e-10])
def test_what_keeps_a_row_of_zeros_from_dividing_by_zero_stays_however_small(
    tiny_bert: TorchModel, tmp_path: Path, eps: float
):
    # The embedding of the padding is zeros, so what is divided by there is the root of eps alone.
    config = transformers.LlamaConfig(
        vocab_size=len(tiny_bert.preprocessor),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tiny_bert.preprocessor.pad_token_id,
        rms_norm_eps=eps,
    )
    module = transformers.LlamaForSequenceClassification(config).eval()
    model = TorchModel(module, tiny_bert.preprocessor, tiny_bert.task)
    batch = model.task.encode(model.preprocessor, ["a good film", "bad"])
    expected = model.predict(batch)
    assert np.isfinite(expected).all()
    exported = export_onnx(model, tmp_path / "model.onnx")
    np.testing.assert_allclose(exported.predict(batch), expected, atol=TOLERANCE)


def test_only_the_batch_of_images_is_free(exported_vit: OnnxModel):
    [pixels] = exported_vit.session.get_inputs()
    assert (pixels.name, pixels.shape) == ("pixel_values", ["batch", 1, 8, 8])


def test_file_holds_exactly_the_parameters_of_the_module(tiny_vit: TorchModel, tmp_path: Path):
    # Fresh biases are all zeros and the exporter stores equal tensors once, so make them differ.
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tiny_vit.module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    exported = export_onnx(tiny_vit, tmp_path / "model.onnx")
    expected = sum(item.numel() for item in tiny_vit.module.parameters())
    assert parameter_counts(exported.path) == (expected, expected)


def test_weights_carry_the_names_of_their_modules(exported_bert: OnnxModel):
    names = {item.name for item in load_graph(exported_bert.path).graph.initializer}
    layer = "bert.encoder.layer.1"
    assert {
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query_key_value.weight",
        f"{layer}.attention.self.query.weight",
        f"{layer}.attention.self.key_value.weight",
        f"{layer}.attention.output.dense.weight",
        f"{layer}.intermediate.dense.weight",
        f"{layer}.output.dense.weight",
        "classifier.weight",
    } <= names


def test_file_tells_nothing_about_the_machine(exported_bert: OnnxModel):
    content = exported_bert.path.read_bytes()
    assert b"site-packages" not in content
    assert b"stack_trace" not in content
    assert str(Path.home()).encode() not in content


def test_graph_without_fusions_is_standard_onnx_of_the_opset_that_was_asked_for(
    tiny_vit: TorchModel, tmp_path: Path
):
    exported = export_onnx(tiny_vit, tmp_path / "model.onnx", fuse=False, opset=21)
    graph = load_graph(exported.path)
    assert {item.domain: item.version for item in graph.opset_import} == {"": 21}
    onnx.checker.check_model(graph, full_check=True)
    assert graph.graph.node[0].metadata_props == []


def test_fusions_follow_the_provider(exported_bert: OnnxModel, exported_bert_for_cuda: OnnxModel):
    for_cuda = exported_bert_for_cuda
    assert "MultiHeadAttention" in operators(for_cuda.path)
    assert "MultiHeadAttention" not in operators(exported_bert.path)
    assert "Softmax" in operators(exported_bert.path)
    assert "SkipLayerNormalization" in operators(for_cuda.path)
    assert "SkipLayerNormalization" not in operators(exported_bert.path)
    assert "BiasGelu" in operators(exported_bert.path)
    assert (for_cuda.provider, for_cuda.threads) == ("cuda", 2)


def test_opset_that_was_asked_for_is_kept_where_attention_is_one_operator_later(
    tiny_vit: TorchModel, image_dataset: Dataset, tmp_path: Path
):
    exported = export_onnx(tiny_vit, tmp_path / "model.onnx", opset=20)
    versions = {item.domain: item.version for item in load_graph(exported.path).opset_import}
    batch = tiny_vit.task.encode(tiny_vit.preprocessor, image_dataset.examples[:3])
    assert versions[""] == 20
    assert "Attention" not in operators(exported.path)
    np.testing.assert_allclose(exported.predict(batch), tiny_vit.predict(batch), atol=TOLERANCE)


@pytest.mark.usefixtures("traces_anew")
def test_another_export_gives_the_same_bytes_and_leaves_no_trace_in_the_process(
    exported_vit: OnnxModel, tiny_vit: TorchModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    names = ("transformers.exporters.utils", "torch.onnx._internal.exporter._registration")
    filters = [list(logging.getLogger(name).filters) for name in names]
    export = torch.onnx.export
    again = export_onnx(tiny_vit, tmp_path / "model.onnx")
    assert again.path.read_bytes() == exported_vit.path.read_bytes()
    assert [list(logging.getLogger(name).filters) for name in names] == filters
    assert torch.onnx.export is export
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.glob(".writing*"))


def test_model_that_cannot_be_traced_is_an_export_error(
    tiny_bert: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class DependsOnData(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden if hidden.sum() > 0 else -hidden

    monkeypatch.setattr(tiny_bert.module.bert.pooler, "activation", DependsOnData())
    with pytest.raises(ExportError, match="BertForSequenceClassification cannot be expo") as caught:
        export_onnx(tiny_bert, tmp_path / "model.onnx")
    assert caught.value.__cause__ is not None
    assert caught.value.exit_code == 4
    assert not (tmp_path / "model.onnx").exists()


def test_what_cannot_be_traced_is_told_in_one_short_line(
    tiny_bert: TorchModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    class GathersByTheMask(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            count = int((hidden > 0).sum())  # as Longformer counts its global tokens
            return hidden.new_zeros(1 if count > 3 else 2)

    monkeypatch.setattr(tiny_bert.module.bert.pooler, "activation", GathersByTheMask())
    with quiet_libraries(), pytest.raises(ExportError, match="models of type 'bert'") as caught:
        export_onnx(tiny_bert, tmp_path / "model.onnx")
    assert len(str(caught.value)) < 800
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")
    assert "print" not in vars(importlib.import_module("torch.export._trace"))


def test_a_family_that_is_known_not_to_export_is_not_traced(
    tiny_bert: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    family = Family("not known", not_exported="have steps of another world")
    monkeypatch.setitem(FAMILIES, "bert", family)
    monkeypatch.setattr(to_onnx, "_traced", None)
    with pytest.raises(
        ExportError, match=r"BertFor.*: models of type 'bert' have steps of another"
    ):
        export_onnx(tiny_bert, tmp_path / "model.onnx")


def test_unknown_provider_is_an_export_error(tiny_bert: TorchModel, tmp_path: Path):
    with pytest.raises(ExportError, match=r"'webgpu' is not known \(allowed: cpu, cuda, tensorrt"):
        export_onnx(tiny_bert, tmp_path / "model.onnx", provider="webgpu")
