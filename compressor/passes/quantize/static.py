"""Int8 weights, and activations on 8-bit grids that calibration fixed beforehand.

Nothing about a scale is computed at run time, so a product takes the least time an integer product
can, and no answer depends on its batch. The price is one scale for all tokens there will ever be;
which range it stands for is chosen on unlabelled rows, with running statistics
(`onnx_graph/observers.py`, `onnx_graph/activation_ranges.py`). Weights, tables and everything else
are as in `quantize_dynamic`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from compressor.passes.base import About, PassContext
from compressor.passes.quantize.calibrated import CalibratedPass
from compressor.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight
    from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint


class QuantizeStatic(CalibratedPass):
    """Store weights as int8 and fix the 8-bit grids of activations by calibration, without labels.

    Residuals, normalisations, GELU, softmax, convolutions and biases stay in float.
    """

    kind: Literal["quantize_static"] = "quantize_static"

    about: ClassVar[About] = About(
        group="quantize",
        summary="Store int8 with fixed activation ranges",
        explanation=(
            "Stores weights as int8 and fixes the ranges of the activations from unlabelled "
            "calibration rows. It can be faster than quantize_dynamic, and can lose more "
            "accuracy."
        ),
        example="""\
passes:
  - kind: quantize_static
    method: percentile
""",
    )
    stores_trained: ClassVar[str | None] = "static"

    def _activations(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> Mapping[str, ScaleAndZeroPoint]:
        from compressor.onnx_graph.activation_ranges import static_scale

        found = self._observe(graph, weights, model, context)
        scales = self._chosen(found, static_scale)
        context.note(
            f"Scales of {counted(len(scales), 'activation')} fixed on "
            f"{found.rows_words} ({self.method})."
        )
        return scales
