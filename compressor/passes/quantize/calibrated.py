"""What the passes share that fix 8-bit grids of activations by calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from pydantic import Field

from compressor.errors import StepFailed
from compressor.passes.base import PassContext, RoundsAgain
from compressor.passes.effort import Effort, reading_effort
from compressor.passes.quantize.int8 import RESCALES, Int8Pass
from compressor.passes.quantize.weight_choice import WeightPass

if TYPE_CHECKING:
    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.onnx_graph.observers import ActivationStatistics
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight
    from compressor.passes.quantize.calibration import Calibration

_Chosen = TypeVar("_Chosen")


class ObservingPass(WeightPass):
    """A pass that observes the activations of products on calibration rows."""

    method: Literal["minmax", "percentile", "mse", "entropy"] = Field(
        "percentile",
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
    smooth_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="smooth by the channels that are large on the calibration rows, before any "
        "product that gains by it: how much of the difference between channels moves into the "
        "weights, such as 0.5 (a fraction); left out, not at all",
    )

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split."""
        return frozenset({"calibration"})

    def calibration_rows_wanted(self) -> int:
        """Return `rows`, or what refined tables read where there are any."""
        return max(self.rows, super().calibration_rows_wanted())

    def _smooth_observed(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
        *,
        together: bool = False,
    ) -> tuple[str, ...] | None:
        """Smooth large channels in place and return before which weights; None if not asked to.

        `together`, products of one input go on reading one value.
        """
        if self.smooth_alpha is None:
            return None
        from compressor.onnx_graph.smoothquant import smooth_observed_inputs

        found = self._observe(graph, weights, model, context)
        largest = {name: item.channel_largest for name, item in found.statistics.items()}
        return smooth_observed_inputs(graph, weights, largest, self.smooth_alpha, together=together)

    def _observe(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> Calibration[ActivationStatistics]:
        from compressor.onnx_graph.observers import ActivationStatistics
        from compressor.onnx_graph.quantizable_weights import activation_names
        from compressor.passes.quantize.calibration import calibrate

        values = activation_names(graph, weights)
        return calibrate(
            graph,
            values,
            num_rows=self.rows,
            model=model,
            context=context,
            watch=ActivationStatistics,
        )

    def _chosen(
        self, found: Calibration[ActivationStatistics], choose: Callable[..., _Chosen]
    ) -> dict[str, _Chosen]:
        """Return what `choose`, such as `static_scale`, makes of each activation by `method`.

        Raises `StepFailed` for an activation that was never seen.
        """
        chosen = {}
        for name, statistics in found.statistics.items():
            try:
                chosen[name] = choose(statistics, self.method, percentile=self.percentile)
            except StepFailed as error:
                raise StepFailed(f"activations {name} {error}") from error
        return chosen


class CalibratedPass(ObservingPass, Int8Pass):
    """A pass that stores int8 weights and observes activations on calibration rows."""

    rounds_again: ClassVar[Mapping[str, RoundsAgain]] = {
        **Int8Pass.rounds_again,
        "smooth_alpha": RESCALES,
    }

    smooth_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="smooth by the channels that are large on the calibration rows, before any "
        "product that gains by it, in place of `smooth`: how much of the difference between "
        "channels moves into the weights, such as 0.5 (a fraction); left out, not at all",
    )

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:
        found = super()._effort_of_choices(num_rows)
        return found + reading_effort(num_rows, self.rows, times=3)

    def _smooth(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> tuple[str, ...] | None:
        if self.smooth_alpha is None:
            return super()._smooth(graph, weights, model, context)
        return self._smooth_observed(graph, weights, model, context)
