"""Int8 weights, and activations on 8-bit grids that calibration fixed beforehand.

Nothing about a scale is computed at run time, so a product takes the least time an integer product
can, and no answer depends on its batch. The price is one scale for all tokens there will ever be;
which range it stands for is chosen on unlabelled rows, with running statistics
(`quantization/observers.py`, `quantization/ranges.py`). Weights, tables and everything else are as
in `quantize_dynamic`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from compressor.passes._base import PassContext
from compressor.passes._int8 import Int8Pass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.quantization.activations import StaticGrid
    from compressor.quantization.sites import Site


class QuantizeStatic(Int8Pass):
    """Store weights as int8 and fix the 8-bit grids of activations by calibration, without labels.

    Residuals, normalisations, GELU, softmax, convolutions and biases stay in float.
    """

    kind: Literal["quantize_static"] = "quantize_static"

    method: Literal["minmax", "percentile", "mse", "entropy"] = Field(
        "minmax",
        description="which range of an activation 8 bits stand for: all that was seen, all but the "
        "rarest on either side, the one with the least squared error, or the one that loses least "
        "information; what lies outside is clipped",
    )
    percentile: float = Field(
        99.99,
        gt=50,
        le=100,
        description="percent of the values that stay inside the range of method percentile",
    )
    rows: int = Field(
        512,
        gt=0,
        description="calibration rows, at most, that activations are observed on, at their real "
        "lengths and without padding; memory does not grow with them",
    )

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split."""
        return frozenset({"calibration"})

    def _activations(
        self, graph: ModelProto, sites: list[Site], model: OnnxModel, context: PassContext
    ) -> Mapping[str, StaticGrid]:
        from compressor.passes._calibration import calibrate
        from compressor.quantization.observers import ActivationStatistics
        from compressor.quantization.ranges import static_grid
        from compressor.quantization.sites import factor_names

        values = factor_names(graph, sites)
        found = calibrate(
            graph,
            values,
            num_rows=self.rows,
            model=model,
            context=context,
            watch=ActivationStatistics,
        )
        grids = {}
        for name, statistics in found.statistics.items():
            try:
                grids[name] = static_grid(statistics, self.method, percentile=self.percentile)
            except ValueError as error:
                raise ValueError(f"activations {name} {error}") from error
        context.note(
            f"Grids of {len(grids)} activations fixed on {found.num_rows} calibration rows "
            f"({self.method})."
        )
        return grids
