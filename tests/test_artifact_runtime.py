"""An artifact that a newer ONNX Runtime was made for is refused before its session is opened."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from compressor.artifact import load_artifact, seal_artifact, write_artifact
from compressor.errors import EnvironmentMismatch
from compressor.export.to_onnx import export_onnx
from compressor.models.runtime_versions import oldest_runtime
from compressor.models.torch_model import load_checkpoint


def test_an_older_runtime_is_refused_with_what_is_needed_and_what_is_there(
    tiny_bert_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    model = load_checkpoint(tiny_bert_dir)
    config = model.module.config
    graph = export_onnx(model, tmp_path / "graph.onnx", opset=23)
    write_artifact(tmp_path, model=graph, preprocessor=model.preprocessor, config=config)
    # Its attention is the standard operator of operator set 23.
    facts = {"min_onnxruntime": oldest_runtime(graph.path)}
    seal_artifact(tmp_path, task=model.task, labels=model.labels, facts=facts)
    monkeypatch.setattr(onnxruntime, "__version__", "1.22.1")
    with pytest.raises(EnvironmentMismatch) as raised:
        load_artifact(tmp_path)
    assert "needs onnxruntime 1.23.0 or newer, and 1.22.1 is installed" in str(raised.value)
