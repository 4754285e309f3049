"""Every operator set that a recipe may ask for is exported, computes the same, and quantizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.errors import EnvironmentMismatch
from compressor.export.parity import check_parity
from compressor.export.to_onnx import export_onnx
from compressor.models import onnx_model
from compressor.models.onnx_model import check_opset
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.onnx_file import load_graph
from compressor.passes import PassContext, apply_pass
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.progress import SILENT

TEXTS = ["a good film", "the plot was very dull and bad", "fine", "it is boring"]


@pytest.mark.parametrize("opset", range(18, 26))
def test_an_allowed_operator_set_is_exported_runs_and_quantizes(
    tiny_bert: TorchModel, tmp_path: Path, opset: int
):
    exported = export_onnx(tiny_bert, tmp_path / "model.onnx", opset=opset, threads=1)
    assert load_graph(exported.path).opset_import[0].version == opset
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, TEXTS)
    alone = tiny_bert.task.encode(tiny_bert.preprocessor, TEXTS[:1])
    assert check_parity(tiny_bert, exported, [batch, alone], 1e-4).num_examples == 5
    context = PassContext(
        splits={},
        load_baseline=lambda: tiny_bert,
        device=torch.device("cpu"),
        seed=0,
        work_dir=tmp_path / "int8",
        progress=SILENT,
        note=lambda _: None,
    )
    quantized = apply_pass(QuantizeDynamic(min_elements=256), exported, context)
    before, after = exported.predict(batch), quantized.predict(batch)
    assert np.abs(before - after).max() < 0.2 * np.abs(before).max()


def test_the_installed_onnxruntime_is_asked_what_it_runs():
    check_opset(18)
    with pytest.raises(EnvironmentMismatch, match=r"runs operator sets up to \d\d, got 99"):
        check_opset(99)


def test_an_older_onnxruntime_is_told_with_what_it_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_model, "_runs_opset", lambda opset: opset <= 22)
    with pytest.raises(EnvironmentMismatch, match="up to 22, got 25; set 22 or less"):
        check_opset(25)
