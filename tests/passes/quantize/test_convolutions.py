"""Convolutions in int8, through the pass: a small ResNet as it is exported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.onnx_graph.onnx_file import load_graph, parameter_counts
from compressor.passes import PassContext, apply_pass, settings_of


@pytest.fixture(scope="module")
def resnet(tiny_resnet_dir: Path) -> TorchModel:
    return load_checkpoint(tiny_resnet_dir)


@pytest.fixture(scope="module")
def graph(resnet: TorchModel, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return export_onnx(resnet, tmp_path_factory.mktemp("resnet") / "model.onnx", threads=1)


@pytest.fixture
def context(
    make_context: Callable[..., PassContext], tiny_resnet_dir: Path, image_dataset: Dataset
) -> PassContext:
    rows = dataclasses.replace(image_dataset, name="calibration", labels=None)
    return make_context(exported=tiny_resnet_dir, calibration=rows)


@pytest.fixture
def quantize(graph: OnnxModel, context: PassContext) -> Callable[..., OnnxModel]:
    def run(**settings: Any) -> OnnxModel:
        given = {"kind": "quantize_static", "convolutions": "int8", "min_elements": 64, **settings}
        return apply_pass(settings_of(given), graph, context)

    return run


@pytest.fixture
def batch(resnet: TorchModel, image_dataset: Dataset) -> dict[str, np.ndarray]:
    return dict(resnet.task.encode(resnet.preprocessor, image_dataset.examples))


def operators(model: OnnxModel) -> list[str]:
    return [node.op_type for node in load_graph(model.path).graph.node]


def test_a_resnet_stays_integers_from_its_images_to_its_pooling(
    graph: OnnxModel, quantize, batch, notes: list[str]
):
    before, found = graph.predict(batch), quantize()
    given = operators(found)
    assert (given.count("Conv"), given.count("QLinearConv")) == (0, operators(graph).count("Conv"))
    assert given.count("QLinearAdd") == 2  # the last sum goes to the pooling
    error = np.sqrt(np.mean((found.predict(batch) - before) ** 2))
    assert error < 0.05 * before.std()
    # The head has 48 weights.
    assert any("convolutions, 0 matrices and 0 embedding tables" in note for note in notes)


def test_the_number_of_parameters_stays(graph: OnnxModel, quantize):
    assert parameter_counts(quantize().path)[0] == parameter_counts(graph.path)[0]


def test_an_image_gets_the_same_scores_in_every_batch(quantize, batch):
    found = quantize()
    alone = found.predict({name: value[:1] for name, value in batch.items()})
    np.testing.assert_allclose(alone, found.predict(batch)[:1], atol=1e-6)


def test_sensitive_convolutions_stay_in_float(graph: OnnxModel, quantize, notes: list[str]):
    found = quantize(keep_sensitive=2)
    assert operators(found).count("Conv") == 2
    assert any(note.startswith("Left in float, the most sensitive") for note in notes)


def test_patterns_leave_convolutions_in_float(quantize):
    assert operators(quantize(exclude=["resnet.embedder.*"])).count("Conv") == 1


def test_convolutions_stay_in_float_unless_asked_for(quantize):
    # As many bytes as before there was a setting.
    assert "QLinearConv" not in operators(quantize(convolutions=False, min_elements=16))


@pytest.mark.parametrize("kind", ["quantize_static", "quantize_dynamic", "quantize_weights"])
def test_a_model_of_convolutions_alone_is_told_how_they_become_integers(
    graph: OnnxModel, context: PassContext, kind: str
):
    with pytest.raises(StepFailed, match="quantize_static with convolutions: int8"):
        apply_pass(settings_of({"kind": kind}), graph, context)
