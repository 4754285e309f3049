from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.errors import ExportError, ParityError
from compressor.export.parity import check_parity
from compressor.models.onnx_model import OnnxModel
from compressor.tasks import Batch


@dataclass(frozen=True)
class Fixed(OnnxModel):
    """A model whose logits are its `input_ids` plus `offset`."""

    offset: float = 0.0

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        return batch["input_ids"].astype(np.float32) + np.float32(self.offset)


def batch(rows: int, length: int) -> Batch:
    ids = np.arange(rows * length).reshape(rows, length)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


REFERENCE = Fixed(Path("torch"))


def test_parity_holds_the_largest_difference_and_what_was_compared():
    found = check_parity(
        REFERENCE, Fixed(Path("model.onnx"), offset=-0.25), [batch(2, 8), batch(3, 5)], 0.5
    )
    assert found.max_abs_diff == 0.25
    assert (found.limit, found.num_examples, found.sequence_lengths) == (0.5, 5, (5, 8))


def test_images_have_no_sequence_length():
    pixels = {"input_ids": np.zeros((2, 1, 4, 4), np.float32)}
    found = check_parity(REFERENCE, Fixed(Path("model.onnx")), [pixels], 0.1)
    assert (found.num_examples, found.sequence_lengths) == (2, ())


def test_difference_beyond_the_limit_is_an_error():
    with pytest.raises(
        ParityError, match=r"model\.onnx on cpu, inputs of shape \(2, 8\)"
    ) as caught:
        check_parity(REFERENCE, Fixed(Path("model.onnx"), offset=0.5), [batch(2, 8)], 0.25)
    assert (caught.value.max_abs_diff, caught.value.limit) == (0.5, 0.25)


def test_a_file_that_cannot_compute_a_batch_is_an_export_that_failed(tmp_path: Path):
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.INT64, None)
    nodes = [  # without its axis of batches where there is one row, so there is no axis 2 to add
        helper.make_node("Squeeze", ["input_ids"], ["squeezed"]),
        helper.make_node("Unsqueeze", ["squeezed", "axis"], ["logits"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [2])
    graph = helper.make_graph(nodes, "squeezes", [ids], [logits], [axis])
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    with pytest.raises(ExportError, match=r"cannot compute inputs of shape \(1, 5\), which the"):
        check_parity(REFERENCE, OnnxModel(path), [batch(1, 5)], 0.1)


def test_of_large_outputs_what_rounding_takes_is_allowed():
    prices = {"input_ids": np.array([[300_000, 20], [5, 0]]), "attention_mask": np.ones((2, 2))}
    found = check_parity(REFERENCE, Fixed(Path("model.onnx"), offset=2.0), [batch(2, 8), prices], 1)
    assert found.max_abs_diff == 2.0
    assert found.limit == pytest.approx(3.0)
    with pytest.raises(ParityError):
        check_parity(REFERENCE, Fixed(Path("model.onnx"), offset=4.0), [prices], 1)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("both", [False, True])
def test_logits_that_are_not_finite_are_never_equal(broken: float, both: bool):
    reference = Fixed(Path("torch"), offset=broken if both else 0)
    with pytest.raises(ParityError, match="logits that are not finite") as caught:
        check_parity(reference, Fixed(Path("model.onnx"), offset=broken), [batch(1, 2)], 1e9)
    assert np.isnan(caught.value.max_abs_diff)


def test_logits_of_another_shape_are_an_error():
    class Transposed(Fixed):
        def predict(self, batch: Batch) -> NDArray[np.float32]:
            return super().predict(batch).T

    with pytest.raises(ParityError, match=r"shape \(8, 2\) instead of \(2, 8\)"):
        check_parity(REFERENCE, Transposed(Path("model.onnx")), [batch(2, 8)], 1.0)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="at least one batch"):
        check_parity(REFERENCE, Fixed(Path("model.onnx")), [], 1.0)
