"""What each weight costs in accuracy when it becomes int8, and what it gives in bytes.

Each weight is quantized alone, with its activations as the pass would quantize them, and the logits
are compared with those of the float graph on the same rows. Without labels: a logit that moves is
what may later be a wrong answer, and shows long before one does. Errors of weights add up nearly as
if they were independent, so the weights that move the logits most for each byte they save are the
first to leave in float (Dong et al. 2019, arXiv:1905.03696, rank layers for the same purpose).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compressor.errors import StepFailed
from compressor.onnx_graph.embedding_tables import NO_INT4, Int4Tables, store_weights
from compressor.onnx_graph.int8_weights import Activations
from compressor.onnx_graph.qdq import SignedScales
from compressor.onnx_graph.quantizable_weights import QuantizableWeight


@dataclass(frozen=True)
class Sensitivity:
    """One weight quantized alone: the root-mean-square change of the logits, and changed answers.

    Vectors are no answers that change or not, so of them `flips` is None.
    """

    weight: QuantizableWeight
    logit_rms: float
    flips: int | None
    bytes_saved: int  # scales of the int8 form included

    @property
    def error_per_byte(self) -> float:
        """Return what a byte saved costs; infinite where nothing is saved."""
        return self.logit_rms / self.bytes_saved if self.bytes_saved > 0 else float("inf")


def quantized_alone(
    model: onnx.ModelProto,
    weight: QuantizableWeight,
    *,
    activations: Activations | SignedScales,
    tables: Int4Tables = NO_INT4,
) -> onnx.ModelProto:
    """Return a copy of the float graph `model` in which `weight` alone is int8, or int4."""
    variant = onnx.ModelProto()
    variant.CopyFrom(model)
    store_weights(variant, [weight], activations=activations, tables=tables)
    return variant


def compare_logits(
    reference: NDArray[np.float32], changed: NDArray[np.float32], *, are_vectors: bool = False
) -> tuple[float, int | None]:
    """Return the root-mean-square difference and the number of rows whose arg-max differs.

    Both are `(rows, num_labels)`; vectors `(rows, width)` have no arg-max that means anything, so
    of them the second is None. Raises `ValueError` when they are not of one shape or not finite.
    """
    if reference.shape != changed.shape:
        raise ValueError(f"logits of shapes {reference.shape} and {changed.shape} do not pair up")
    difference = reference.astype(np.float64) - changed
    if not np.isfinite(difference).all():
        raise StepFailed("logits hold NaN or infinity")
    rms = float(np.sqrt(np.mean(np.square(difference))))
    if are_vectors:
        return rms, None
    return rms, int(np.sum(reference.argmax(axis=1) != changed.argmax(axis=1)))


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of the constants of a graph whose weights are in memory."""
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)


def most_sensitive(found: Iterable[Sensitivity], count: int) -> tuple[QuantizableWeight, ...]:
    """Return the `count` weights with the largest error for each byte saved, the worst first."""
    ranked: Sequence[Sensitivity] = sorted(
        found, key=lambda item: item.error_per_byte, reverse=True
    )
    return tuple(item.weight for item in ranked[:count])
