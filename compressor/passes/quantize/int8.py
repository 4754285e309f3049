"""What every pass that stores int8 weights shares: which weights, what stays in float, and why.

A subclass says how activations become 8-bit integers; everything else (weights, tables, order of
channels, what is left alone and what the report says) is the same for all of them.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from compressor.errors import StepFailed
from compressor.passes.base import PassContext, RoundsAgain
from compressor.passes.effort import Effort, reading_effort
from compressor.passes.quantize.keep_sensitive import SensitivePass
from compressor.passes.quantize.weight_choice import SitePass, listing
from compressor.words import counted

if TYPE_CHECKING:
    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.onnx_graph.embedding_tables import Int4Tables
    from compressor.onnx_graph.int8_weights import Activations
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight

RESCALES = RoundsAgain(
    "rescales the weights that {trainer} put on int8 grids, so they would be rounded once more"
)
_BLOCK = 128  # weights of a column that share a scale
_ROWS_TO_COUNT = 8  # calibration rows that show which matrices multiply one token alone

logger = logging.getLogger(__name__)


class Int8Pass(SensitivePass, SitePass):
    """A pass that stores the weights of products and embedding tables as int8."""

    providers: ClassVar[tuple[str, ...] | None] = ("cpu",)
    not_elsewhere: ClassVar[str] = (
        "CUDA has no kernels for its integer products and would leave them to the CPU, slower than "
        "float32; convert_fp16 makes a model for it, and quantize_tensorrt an int8 one for TensorRT"
    )

    rounds_again: ClassVar[Mapping[str, RoundsAgain]] = {
        "smooth": RESCALES,
        "once_per_text": RoundsAgain(
            "stores in 4 bits what {trainer} put on int8 grids", values=("int4",)
        ),
    }

    smooth: bool = Field(
        False,
        description="divide channels that a normalisation makes large before their product, and "
        "multiply its weight instead: less error for one more multiplication where it helps; not "
        "after quantize_aware_train, whose weights fit the grid without it",
    )

    once_per_text: Literal["int8", "int4"] = Field(
        "int8",
        description="how matrices are stored that multiply one token of a text alone, as most of "
        "those of a classifier's last layer do: int4, with 128 weights of a column to a scale and "
        "rounded by what the products change on `rows` of the calibration split, takes half the "
        "bytes, where there is next to no arithmetic to save",
    )

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when anything is chosen by its rows."""
        reads = self.keep_sensitive > 0 or self.once_per_text == "int4"
        return super().required_splits() | ({"calibration"} if reads else set())

    def milder(self) -> Iterator[Self]:
        """Yield all in int8, finer activations, then sensitive weights and tables in float."""
        finest = self
        int8 = self._without_int4().model_copy(update={"once_per_text": "int8"})
        for milder in (self._without_int4(), int8, int8._finest()):
            if milder != finest:
                yield milder
            finest = milder
        yield from finest._with_more_in_float()
        if self.embeddings:
            yield finest.model_copy(update={"embeddings": False})

    @abstractmethod
    def _activations(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> Activations:
        """Return how the activations of `weights` become integers; `graph` is still in float.

        Raises `StepFailed` when a value is not finite.
        """

    def _smooth(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,  # noqa: ARG002 -- for passes that run it
        context: PassContext,  # noqa: ARG002
    ) -> tuple[str, ...] | None:
        """Smooth large channels in place and return before which weights; None if not asked to."""
        from compressor.onnx_graph.smoothquant import smooth_normalized_inputs

        return smooth_normalized_inputs(graph, weights) if self.smooth else None

    def _finest(self) -> Self:
        """Return these settings with activations as fine as they get."""
        return self

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return rounding the weights, and what is chosen by rows."""
        found = Effort(seconds=3.0) + self._effort_of_choices(num_rows)
        if self.once_per_text == "int4":
            found += reading_effort(num_rows, self.rows, times=1) + Effort(seconds=3.0)
        return found

    def write_graph(self, model: OnnxModel, context: PassContext) -> OnnxModel:
        """Write the int8 graph and return it.

        Raises `PassError` when a calibration split that is read is empty, when the graph is already
        quantized, when a pattern matches nothing, when nothing is left to quantize, and when a
        weight, an observed activation or, for `keep_sensitive`, a logit is not finite.
        """
        from compressor.models.onnx_model import OnnxModel
        from compressor.onnx_graph.embedding_tables import store_weights
        from compressor.onnx_graph.onnx_file import save_graph
        from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
        from compressor.onnx_graph.reorder_channels import reorder_inner_channels
        from compressor.passes.quantize.sensitivity import weights_to_keep

        self._check_calibration(context)
        graph = self._float_graph(model)
        weights = find_quantizable_weights(graph)
        self._check_patterns(weights)
        candidates = self._candidates(weights)
        try:
            smoothed = self._smooth(graph, candidates, model, context)
            with context.progress.bar("ordering channels", None):
                reordered = reorder_inner_channels(graph, candidates)
            activations = self._activations(graph, candidates, model, context)
            tables = self._int4_tables(graph, candidates, model, context)
            kept = weights_to_keep(
                graph,
                candidates,
                self.keep_sensitive,
                activations=activations,
                tables=tables,
                model=model,
                context=context,
            )
            chosen = [weight for weight in candidates if weight not in kept]
            packed = self._pack_once_per_text(graph, chosen, model, context)
            chosen = [weight for weight in chosen if weight.name not in packed]
            self._round(graph, chosen, model, context)
            errors = store_weights(graph, chosen, activations=activations, tables=tables)
        except StepFailed as error:
            raise self._error(f"{error}; the checkpoint or the pass before is broken") from error
        path = context.work_dir / "model.onnx"
        save_graph(graph, path)
        if packed:
            context.note(f"In int4, as they multiply one token of a text: {listing(list(packed))}.")
        self._report(weights, chosen, tables, errors, len(reordered), context)
        self._report_choices(smoothed, kept, context)
        return OnnxModel(path, provider=model.provider, threads=model.threads)

    def _pack_once_per_text(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> dict[str, float]:
        """Store what multiplies one token of a text as int4, and return each one's error."""
        if self.once_per_text != "int4":
            return {}
        from compressor.onnx_graph.weight_only import PackedForm, pack_matrices
        from compressor.passes.quantize.rounding import Rounding, round_to_blocks
        from compressor.passes.quantize.rows_seen import once_per_text_weights

        found = once_per_text_weights(
            graph, weights, num_rows=_ROWS_TO_COUNT, model=model, context=context
        )
        if not found:
            context.note(
                "Nothing multiplies one token of a text alone, so once_per_text changes nothing."
            )
            return {}
        form = PackedForm(4, _BLOCK, "int8")
        rounded = round_to_blocks(
            graph,
            found,
            Rounding("gptq", self.bias_correction, self.rows),
            bits=form.bits,
            block_size=form.block_size,
            model=model,
            context=context,
        )
        return pack_matrices(graph, found, form, chosen=rounded)

    def _round(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> None:
        if self._rounds_by_rows():
            from compressor.passes.quantize.rounding import round_to_int8

            round_to_int8(graph, weights, self._rounding(), model=model, context=context)

    def _report(
        self,
        weights: tuple[QuantizableWeight, ...],
        chosen: list[QuantizableWeight],
        int4: Int4Tables,
        int4_errors: dict[str, float],
        reordered: int,
        context: PassContext,
    ) -> None:
        tables = sum(weight.kind == "table" for weight in chosen)
        done = (
            f"{counted(len(chosen) - tables, 'matrix', 'matrices')} and "
            f"{counted(tables - len(int4_errors), 'embedding table')} hold int8 weights"
        )
        logger.info("%s: %s", self.kind, done)
        stored = [weight.num_elements for weight in chosen if weight.name not in int4_errors]
        context.note(f"{done}, {counted(sum(stored), 'weight')} in all.")
        self._report_tables(chosen, int4, int4_errors, context)
        if reordered:
            context.note(f"Inner channels reordered before {reordered} of the matrices.")
        if leftovers := self._leftovers(weights):
            context.note(f"Left in float: {leftovers}.")
