"""An artifact to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.artifact import Artifact, load_artifact, seal_artifact, write_artifact
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint


@pytest.fixture(scope="session")
def served_folder(
    tiny_bert_dir: Path, exported_bert: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the artifact of a classifier."""
    model = load_checkpoint(tiny_bert_dir)
    folder = tmp_path_factory.mktemp("served") / "artifact"
    write_artifact(
        folder,
        model=exported_bert,
        preprocessor=model.preprocessor,
        config=model.module.config,
        max_length=32,
    )
    seal_artifact(folder, task=model.task, labels=model.labels, facts={})
    return folder


@pytest.fixture(scope="session")
def classifier(served_folder: Path) -> Artifact:
    return load_artifact(served_folder, threads=1)
