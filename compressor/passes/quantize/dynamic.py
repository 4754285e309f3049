"""Int8 weights, activations quantized at run time: four times smaller, faster on CPUs, no data.

Weights have one scale for each output column (Jacob et al. 2018, arXiv:1712.05877), embedding
tables one for each row (as in Zafrir et al. 2019, arXiv:1910.06188, for BERT). Scales are chosen so
that ONNX Runtime's 16-bit sums cannot overflow on CPUs without VNNI (`onnx_graph/affine.py`), and
the channels inside feed-forward blocks are reordered so that this costs next to no precision
(`onnx_graph/reorder_channels.py`). Activations have one scale for each token (as in Yao et al.
2022, arXiv:2206.01861), because one for the whole batch is where most of the error came from
(`onnx_graph/quantized_activations.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from compressor.passes.base import About, PassContext
from compressor.passes.quantize.int8 import Int8Pass

if TYPE_CHECKING:
    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight


class QuantizeDynamic(Int8Pass):
    """Store the weights of products and embedding tables as int8; needs no calibration data.

    Convolutions, biases and normalisations stay in float.
    """

    kind: Literal["quantize_dynamic"] = "quantize_dynamic"

    about: ClassVar[About] = About(
        group="quantize",
        summary="Store int8: the safe first choice",
        explanation=(
            "Stores weights and embedding tables as int8: about a quarter of the size, and faster "
            "on a CPU. It reads no data, so it is the first thing to try."
        ),
        example="""\
passes:
  - kind: quantize_dynamic
""",
    )

    stores_trained: ClassVar[str | None] = "per_token"

    activations: Literal["per_tensor", "per_token"] = Field(
        "per_token",
        description="what shares one 8-bit scale at run time: each token's vector, which keeps an "
        "answer independent of the other rows of its batch, or the whole tensor, which is about "
        "a tenth faster and less accurate",
    )

    def _activations(
        self,
        graph: ModelProto,  # noqa: ARG002 -- scales are found at run time
        weights: list[QuantizableWeight],  # noqa: ARG002
        model: OnnxModel,  # noqa: ARG002
        context: PassContext,  # noqa: ARG002
    ) -> Literal["per_tensor", "per_token"]:
        return self.activations

    def _finest(self) -> Self:
        return self.model_copy(update={"activations": "per_token"})
