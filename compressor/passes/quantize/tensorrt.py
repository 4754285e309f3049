"""Int8 for NVIDIA GPUs: signed quantize-dequantize pairs, which TensorRT turns into int8 products.

CUDA itself has no kernels for the integer products that the other int8 passes make. TensorRT has,
where a graph says with pairs of operators which products to compute in int8 and on which grids
(`onnx_graph/qdq.py`). Which grid an activation gets is found on unlabelled rows, with the same
running statistics as in `quantize_static`; one scale has to fit all tokens, on both sides of zero.

The rest of the graph stays as it is: in float32, or in half precision with `convert_fp16` after
this pass, which leaves every integer where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from compressor.errors import StepFailed
from compressor.passes.base import About, PassContext
from compressor.passes.effort import Effort, reading_effort
from compressor.passes.quantize.calibrated import ObservingPass
from compressor.passes.quantize.keep_sensitive import SensitivePass
from compressor.passes.saving import ModelParts, Saving
from compressor.words import counted, verb_for

if TYPE_CHECKING:
    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.onnx_graph.qdq import SignedScales
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight

logger = logging.getLogger(__name__)

# Of none and 0.5 to 0.9 the one with the smallest error on MiniLM: activations have one scale for
# all channels and lose more to large ones than weights, which have one for each column.
_SMOOTHED = 0.8


class QuantizeTensorrt(ObservingPass, SensitivePass):
    """Store the weights of products as int8 behind signed pairs, for TensorRT; without labels.

    Embedding tables, residuals, normalisations, GELU, softmax, convolutions and biases stay in
    float.
    """

    kind: Literal["quantize_tensorrt"] = "quantize_tensorrt"

    about: ClassVar[About] = About(
        group="quantize",
        summary="Store int8 for TensorRT",
        explanation=(
            "Stores weights as int8 with quantization nodes that TensorRT fuses. It needs a "
            "TensorRT provider and unlabelled calibration rows."
        ),
        example="""\
passes:
  - kind: quantize_tensorrt
export:
  provider: tensorrt
benchmark:
  providers: [tensorrt]
""",
    )
    providers: ClassVar[tuple[str, ...] | None] = ("tensorrt",)
    not_elsewhere: ClassVar[str] = (
        "CUDA has no kernels for int8 products and would compute them in float, slower than "
        "without this pass; use convert_fp16 there, and quantize_dynamic or quantize_static on a "
        "CPU"
    )

    smooth_alpha: float | None = Field(
        _SMOOTHED,
        ge=0,
        le=1,
        description="smooth by the channels that are large on the calibration rows, before any "
        "products that gain by it; those of one input share the factors: how much of the "
        "difference between channels moves into the weights (a fraction), for one multiplication "
        "of the input; null, not at all",
    )

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return the matrices in int8."""
        saved = parts.saved_by_bits(matrix=8, table=32)
        return Saving(saved, None, "int8 matrices, on TensorRT; tables stay float")

    def milder(self) -> Iterator[Self]:
        """Yield smoothed activations, then more and more of the most sensitive weights in float."""
        finest = self
        if self.smooth_alpha is None:
            finest = self.model_copy(update={"smooth_alpha": _SMOOTHED})
            yield finest
        yield from finest._with_more_in_float()

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return observing activations, and what is chosen by rows."""
        observed = reading_effort(num_rows, self.rows, times=3)
        return Effort(seconds=3.0) + observed + self._effort_of_choices(num_rows)

    def write_graph(self, model: OnnxModel, context: PassContext) -> OnnxModel:
        """Write the graph with its pairs and return it.

        Activations are observed in float on the CPU, whichever provider the graph is for.

        Raises `PassError` when the calibration split is empty, when the graph is already quantized,
        has operators that TensorRT cannot read or is of an older operator set than 13, when a
        pattern matches nothing, when nothing is left to quantize, and when a weight, an observed
        activation or, for `keep_sensitive`, a logit is not finite.
        """
        from compressor.models.onnx_model import OnnxModel
        from compressor.models.provider_options import AS_WRITTEN
        from compressor.onnx_graph.onnx_file import save_graph
        from compressor.onnx_graph.qdq import insert_qdq
        from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
        from compressor.passes.quantize.sensitivity import weights_to_keep

        self._check_calibration(context)
        graph = self._float_graph(model)
        self._check_operators(graph)
        weights = find_quantizable_weights(graph)
        self._check_patterns(weights)
        candidates = self._candidates(weights)
        on_cpu = OnnxModel(model.path, threads=model.threads, settings=AS_WRITTEN)
        try:
            smoothed = self._smooth_observed(graph, candidates, on_cpu, context, together=True)
            scales = self._scales(graph, candidates, on_cpu, context)
            kept = weights_to_keep(
                graph,
                candidates,
                self.keep_sensitive,
                activations=scales,
                model=on_cpu,
                context=context,
            )
            chosen = [weight for weight in candidates if weight not in kept]
            insert_qdq(graph, chosen, scales)
        except StepFailed as error:
            raise self._error(f"{error}; the checkpoint or the pass before is broken") from error
        path = context.work_dir / "model.onnx"
        save_graph(graph, path)
        self._report(weights, chosen, context)
        self._report_choices(smoothed, kept, context)
        if model.provider != "tensorrt":
            context.note(f"Judged on the provider {model.provider}, not on TensorRT.")
        return OnnxModel(path, model.provider, model.threads, model.settings)

    def _check_operators(self, graph: ModelProto) -> None:
        """Refuse what TensorRT cannot read, before anything is run."""
        from compressor.onnx_graph.qdq import OLDEST_OPSET

        foreign = {
            f"{node.domain}:{node.op_type}"
            for node in graph.graph.node
            if node.domain not in ("", "ai.onnx")
        }
        if foreign:
            raise self._error(
                f"TensorRT cannot read {', '.join(sorted(foreign))}; export the model with "
                f"export.provider: tensorrt, which leaves such operators out"
            )
        self._check_operator_set(graph, OLDEST_OPSET, "scales for each column of a weight")

    def _reason(self, weight: QuantizableWeight) -> str | None:
        if weight.kind == "table":
            return "a table is looked up, which int8 does not make faster on a GPU"
        return super()._reason(weight)

    def _scales(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> SignedScales:
        """Return the scale of each activation; raises `StepFailed` for one not finite or unseen."""
        from compressor.onnx_graph.activation_ranges import signed_scale
        from compressor.onnx_graph.qdq import SignedScales

        found = self._observe(graph, weights, model, context)
        scales = self._chosen(found, signed_scale)
        context.note(
            f"Scales of {counted(len(scales), 'activation')} fixed on "
            f"{found.rows_words} ({self.method})."
        )
        return SignedScales(scales)

    def _report(
        self,
        weights: tuple[QuantizableWeight, ...],
        chosen: list[QuantizableWeight],
        context: PassContext,
    ) -> None:
        elements = sum(weight.num_elements for weight in chosen)
        matrices = counted(len(chosen), "matrix", "matrices")
        hold = verb_for(len(chosen), "holds", "hold")
        done = f"{matrices} {hold} int8 weights in signed pairs, {elements:,} in all"
        logger.info("%s: %s", self.kind, done)
        context.note(f"{done}.")
        if leftovers := self._leftovers(weights):
            context.note(f"Left in float: {leftovers}.")
