"""`rounding` and `bias_correction`, which all passes over the weights of a graph share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from pydantic import ValidationError

from compressor.errors import PassError
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint
from compressor.onnx_graph.affine import max_pair_sum
from compressor.onnx_graph.gptq import ActivationMoments
from compressor.onnx_graph.onnx_file import load_graph
from compressor.onnx_graph.quantizable_weights import activation_names, find_quantizable_weights
from compressor.passes import OnnxPass, PassContext, apply_pass
from compressor.passes.quantize.calibration import calibrate
from compressor.passes.quantize.dynamic import QuantizeDynamic
from compressor.passes.quantize.static import QuantizeStatic
from compressor.passes.quantize.weights import QuantizeWeights

FEED_FORWARD = "bert.encoder.layer.0.output.dense"


@pytest.fixture
def apply(exported: OnnxModel, context: PassContext) -> Callable[[OnnxPass], dict[str, NDArray]]:
    """Return a function that applies a pass and gives the constants of its graph."""

    def run(settings: OnnxPass) -> dict[str, NDArray]:
        graph = load_graph(apply_pass(settings, exported, context).path).graph
        return {item.name: numpy_helper.to_array(item) for item in graph.initializer}

    return run


@pytest.mark.parametrize("kind", [QuantizeDynamic, QuantizeStatic])
def test_int8_gets_other_integers_on_the_same_grids(apply, notes: list[str], kind):
    nearest = apply(kind(min_elements=0))
    chosen = apply(kind(min_elements=0, rounding="gptq"))
    name = f"{FEED_FORWARD}.weight"
    np.testing.assert_allclose(chosen[f"{name}_scale"], nearest[f"{name}_scale"], rtol=1e-3)
    assert (chosen[f"{name}_int8"] != nearest[f"{name}_int8"]).any()
    matrices = [item for key, item in chosen.items() if key.endswith("dense.weight_int8")]
    assert max(max_pair_sum(item) for item in matrices) <= 128
    [note] = [note for note in notes if note.startswith("Rounded by what 11 products change")]
    assert int(note.split(": ")[1].split("%")[0]) < 100


def test_int4_gets_other_integers_with_the_same_scales(apply):
    nearest = apply(QuantizeWeights(min_elements=0))
    chosen = apply(QuantizeWeights(min_elements=0, rounding="gptq"))
    name = f"{FEED_FORWARD}.weight"
    np.testing.assert_array_equal(chosen[f"{name}_scale"], nearest[f"{name}_scale"])
    assert (chosen[f"{name}_int4"] != nearest[f"{name}_int4"]).any()


def test_padding_takes_no_part(exported: OnnxModel, context: PassContext, tiny_bert_dir: Path):
    graph = load_graph(exported.path)
    value = activation_names(graph, find_quantizable_weights(graph))[0]
    found = calibrate(
        graph, [value], num_rows=512, model=exported, context=context, watch=ActivationMoments
    )
    model = load_checkpoint(tiny_bert_dir)
    batch = model.task.encode(model.preprocessor, context.calibration.examples)
    assert found.statistics[value].num_tokens == batch["attention_mask"].sum()
    assert not batch["attention_mask"].all()


@pytest.mark.parametrize("kind", [QuantizeDynamic, QuantizeWeights])
def test_biases_after_products_are_corrected(exported: OnnxModel, apply, notes: list[str], kind):
    stored = load_graph(exported.path).graph.initializer
    before = {item.name: numpy_helper.to_array(item) for item in stored}
    after = apply(kind(min_elements=0, bias_correction=True))
    changed = [name for name, values in after.items() if (values != before.get(name)).any()]
    biases = [name for name in changed if "bias" in name]
    assert any(note.startswith(f"{len(biases)} biases corrected on ") for note in notes)
    # Two layers with three biases each outside attention's first product. A fresh model's are zeros
    # that its layers share; each product has its own now.
    assert len(biases) >= 2 * 3
    assert len({after[name].tobytes() for name in biases}) == len(biases)


def test_rows_are_asked_for_only_when_they_are_read():
    assert QuantizeWeights().required_splits() == frozenset()
    for settings in (
        QuantizeWeights(rounding="gptq"),
        QuantizeWeights(bias_correction=True),
        QuantizeDynamic(rounding="gptq"),
        QuantizeDynamic(bias_correction=True),
    ):
        assert settings.required_splits() == {"calibration"}


def test_empty_calibration_split_is_an_error(exported: OnnxModel, context: PassContext):
    none = dataclasses.replace(context.calibration, examples=(), rows=np.zeros(0, np.int64))
    empty = dataclasses.replace(context, splits={"calibration": none})
    with pytest.raises(PassError, match=r"give data\.calibration at least one row"):
        apply_pass(QuantizeWeights(min_elements=0, rounding="gptq"), exported, empty)


def test_no_rows_and_unknown_roundings_are_refused():
    with pytest.raises(ValidationError, match="greater than 0"):
        QuantizeWeights(rows=0)
    with pytest.raises(ValidationError, match="'nearest' or 'gptq'"):
        QuantizeWeights.model_validate({"rounding": "up"})
