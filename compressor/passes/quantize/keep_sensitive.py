"""What every pass shares that can leave the most sensitive weights in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Self

from pydantic import Field

from compressor.passes.effort import Effort, sensitivity_effort
from compressor.passes.quantize.weight_choice import WeightPass, listing

if TYPE_CHECKING:
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight
    from compressor.passes.base import PassContext

_KEPT_BY_REPAIR = (1, 2, 4, 8)  # most sensitive weights that stay in float, one try after the other


class SensitivePass(WeightPass):
    """A pass that leaves in float what moves the logits most; it measures that itself."""

    keep_sensitive: int = Field(
        0,
        ge=0,
        description="number of weights that stay in float because they move the logits most for "
        "each byte that they would save, measured one by one on up to 128 unlabelled rows of the "
        "calibration split; at least one weight becomes int8, however many are named here",
    )

    def _with_more_in_float(self) -> Iterator[Self]:
        """Yield these settings with more and more of the most sensitive weights in float."""
        for count in _KEPT_BY_REPAIR:
            if count > self.keep_sensitive:
                yield self.model_copy(update={"keep_sensitive": count})

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:
        found = super()._effort_of_choices(num_rows)
        return found + (sensitivity_effort(num_rows) if self.keep_sensitive else Effort())

    def _report_choices(
        self,
        smoothed: tuple[str, ...] | None,
        kept: tuple[QuantizableWeight, ...],
        context: PassContext,
    ) -> None:
        """Note before which weights channels were smoothed, where asked to, and what was kept."""
        if smoothed is not None:
            context.note(f"Large channels smoothed before {len(smoothed)} of the matrices.")
        if kept:
            names = listing([weight.name for weight in kept])
            context.note(f"Left in float, the most sensitive for each byte: {names}.")
