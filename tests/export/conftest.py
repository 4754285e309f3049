"""Exports of the tiny models, made once: tracing takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint


@pytest.fixture(scope="session")
def exported_bert(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Return the tiny BERT, fused for the CPU."""
    path = tmp_path_factory.mktemp("bert") / "model.onnx"
    return export_onnx(load_checkpoint(tiny_bert_dir), path)


@pytest.fixture(scope="session")
def exported_vit(tiny_vit_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Return the tiny ViT, fused for the CPU."""
    path = tmp_path_factory.mktemp("vit") / "model.onnx"
    return export_onnx(load_checkpoint(tiny_vit_dir), path)
