"""`rounding` and `bias_correction`, which all passes over the weights of a graph share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from compressor.errors import StepFailed
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint
from compressor.onnx_graph.affine import max_pair_sum
from compressor.onnx_graph.gptq import ActivationMoments
from compressor.onnx_graph.onnx_file import load_graph
from compressor.passes import OnnxPass, PassContext, apply_pass
from compressor.passes.quantize.calibration import calibrate
from compressor.passes.quantize.quantization import find_weights
from compressor.passes.quantize.settings import QuantizeDynamic, QuantizeStatic, QuantizeWeights

FEED_FORWARD = "bert.encoder.layer.0.output.dense"


@pytest.fixture
def apply(exported: OnnxModel, context: PassContext) -> Callable[[OnnxPass], dict[str, NDArray]]:
    """Return a function that applies a pass and gives the constants of its graph."""

    def run(settings: OnnxPass) -> dict[str, NDArray]:
        graph = load_graph(apply_pass(settings, exported, context).path).graph
        return {item.name: numpy_helper.to_array(item) for item in graph.initializer}

    return run


@pytest.mark.parametrize("kind", [QuantizeDynamic, QuantizeStatic])
def test_int8_gets_other_integers_with_the_same_scales(apply, notes: list[str], kind):
    nearest = apply(kind(min_elements=0))
    chosen = apply(kind(min_elements=0, rounding="gptq"))
    name = f"{FEED_FORWARD}.weight"
    np.testing.assert_allclose(chosen[f"{name}_scale"], nearest[f"{name}_scale"], rtol=1e-3)
    assert (chosen[f"{name}_int8"] != nearest[f"{name}_int8"]).any()
    matrices = [item for key, item in chosen.items() if key.endswith("dense.weight_int8")]
    assert max(max_pair_sum(item) for item in matrices) <= 128
    [note] = [note for note in notes if note.startswith("Rounded by what 11 matmuls change")]
    assert int(note.split(": ")[1].split("%")[0]) < 100


def test_int4_gets_other_integers_with_the_same_scales(apply):
    nearest = apply(QuantizeWeights(min_elements=0))
    chosen = apply(QuantizeWeights(min_elements=0, rounding="gptq"))
    name = f"{FEED_FORWARD}.weight"
    np.testing.assert_array_equal(chosen[f"{name}_scale"], nearest[f"{name}_scale"])
    assert (chosen[f"{name}_int4"] != nearest[f"{name}_int4"]).any()


def test_padding_takes_no_part(exported: OnnxModel, context: PassContext, tiny_bert_dir: Path):
    quantization = find_weights(QuantizeWeights(min_elements=0), exported, context)
    value = quantization.activations[0]
    found = calibrate(quantization, [value], ActivationMoments, num_rows=512)
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


def test_empty_calibration_split_is_an_error(exported: OnnxModel, context: PassContext):
    none = dataclasses.replace(context.calibration, examples=(), rows=np.zeros(0, np.int64))
    empty = dataclasses.replace(context, splits={"calibration": none})
    with pytest.raises(StepFailed, match=r"give data\.calibration at least one row"):
        apply_pass(QuantizeWeights(min_elements=0, rounding="gptq"), exported, empty)
