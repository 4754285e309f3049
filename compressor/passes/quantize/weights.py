"""Weights of 4 or 8 bits, arithmetic in float: for where memory is the limit.

Each block of an output column has a scale of its own (as in Dettmers et al. 2023, arXiv:2305.14314,
and Frantar et al. 2022, arXiv:2210.17323), which loses less than one scale for the whole column;
the products are ONNX Runtime's `MatMulNBits` (`onnx_graph/weight_only.py`). Calibration rows are
read only for `rounding: gptq` and `bias_correction`, and need no labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compressor.errors import StepFailed
from compressor.passes.base import About, PassContext, WeightFormat
from compressor.passes.effort import Effort
from compressor.passes.quantize.weight_choice import BlockSize, SitePass, listing
from compressor.passes.saving import ModelParts, Saving
from compressor.words import counted, verb_for

if TYPE_CHECKING:
    from onnx import ModelProto

    from compressor.models.onnx_model import OnnxModel
    from compressor.onnx_graph.block_weights import Blocks
    from compressor.onnx_graph.embedding_tables import Int4Tables
    from compressor.onnx_graph.quantizable_weights import QuantizableWeight

logger = logging.getLogger(__name__)


class QuantizeWeights(SitePass):
    """Store the weights of products in blocks of 4 or 8 bits; activations stay as exact as asked.

    Smaller than int8 and, with more than a few tokens at once, slower than `quantize_dynamic`.
    """

    kind: Literal["quantize_weights"] = "quantize_weights"

    about: ClassVar[About] = About(
        group="quantize",
        summary="Store 4 or 8 bits: the smallest file",
        explanation=(
            "Stores weights in blocks of 4 or 8 bits and leaves the activations alone. The file "
            "is smaller than with int8; with more than a few tokens it runs slower than "
            "quantize_dynamic."
        ),
        example="""\
passes:
  - kind: quantize_weights
    bits: 4
""",
    )
    leaves_weights: ClassVar[WeightFormat | None] = "4- or 8-bit"
    providers: ClassVar[tuple[str, ...] | None] = ("cpu", "cuda")
    not_elsewhere: ClassVar[str] = (
        "TensorRT has no kernels for packed weights; convert_fp16 makes a model for it"
    )

    bits: Literal[4, 8] = Field(4, description="bits of a weight in products")
    block_size: BlockSize = Field(
        32,
        description="weights of an output column that share one scale of 32 bits; with more the "
        "file is smaller and faster, and less exact",
    )
    activations: Literal["int8", "float"] = Field(
        "int8",
        description="what weights are multiplied with on a CPU: activations of 8 bits, one scale "
        "for `block_size` channels of a token, or of 32, at about half the speed and only with "
        "weights of 4 bits; CUDA always takes floats",
    )

    @model_validator(mode="after")
    def _has_a_kernel(self) -> Self:
        if self.bits == 8 and self.activations == "float":
            raise ValueError(
                "bits: 8 with activations: float has no kernel on x86, where ONNX Runtime would "
                "widen each matrix anew at every run, at 0.1 to 0.4 of the speed of float32; take "
                "activations: int8, or bits: 4"
            )
        return self

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return all weights in 4 bits."""
        saved = parts.saved_by_bits(matrix=4, table=4)
        return Saving(saved, None, "weights and tables of 4 bits; scales aside")

    def milder(self) -> Iterator[Self]:
        """Yield int8 tables, float activations, small blocks, 8 bits, and tables in float."""
        steps: tuple[dict[str, object], ...] = (
            self._int8_tables(),
            {"activations": "float"} if self.bits == 4 else {},
            {"block_size": 16},
            {"bits": 8, "activations": "int8"},
            {"embeddings": False},
        )
        reached = self
        for step in steps:
            milder = reached.model_copy(update=step)
            if milder != reached:
                yield milder
            reached = milder

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return rounding the weights, and what is chosen by rows."""
        return Effort(seconds=3.0) + self._effort_of_choices(num_rows)

    def write_graph(self, model: OnnxModel, context: PassContext) -> OnnxModel:
        """Write the graph with packed weights and return it.

        Raises `PassError` when a calibration split that is read is empty, when the graph is already
        quantized, when a pattern matches nothing, when nothing is left to quantize, and when a
        weight or an observed activation is not finite.
        """
        from compressor.models.onnx_model import OnnxModel
        from compressor.onnx_graph.embedding_tables import store_weights
        from compressor.onnx_graph.onnx_file import save_graph
        from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
        from compressor.onnx_graph.weight_only import PackedForm, pack_matrices

        self._check_calibration(context)
        graph = self._float_graph(model)
        weights = find_quantizable_weights(graph)
        self._check_patterns(weights)
        chosen = self._candidates(weights)
        matrices = [weight for weight in chosen if weight.kind == "matrix"]
        tables = [weight for weight in chosen if weight.kind == "table"]
        try:
            int4 = self._int4_tables(graph, tables, model, context)
            form = PackedForm(self.bits, self.block_size, self.activations)
            rounded = self._round(graph, matrices, model, context)
            errors = pack_matrices(graph, matrices, form, chosen=rounded)
            lost = store_weights(graph, tables, activations="per_token", tables=int4)
        except StepFailed as error:
            raise self._error(f"{error}; the checkpoint or the pass before is broken") from error
        path = context.work_dir / "model.onnx"
        save_graph(graph, path)
        self._report(weights, chosen, errors, int4, lost, context)
        return OnnxModel(path, provider=model.provider, threads=model.threads)

    def _round(
        self,
        graph: ModelProto,
        weights: list[QuantizableWeight],
        model: OnnxModel,
        context: PassContext,
    ) -> dict[str, Blocks]:
        if not self._rounds_by_rows():
            return {}
        from compressor.passes.quantize.rounding import round_to_blocks

        return round_to_blocks(
            graph,
            weights,
            self._rounding(),
            bits=self.bits,
            block_size=self.block_size,
            model=model,
            context=context,
        )

    def _report(
        self,
        weights: tuple[QuantizableWeight, ...],
        chosen: list[QuantizableWeight],
        errors: dict[str, float],
        int4: Int4Tables,
        int4_errors: dict[str, float],
        context: PassContext,
    ) -> None:
        packed = sum(weight.num_elements for weight in chosen if weight.name in errors)
        matrices = counted(len(errors), "matrix", "matrices")
        done = f"{matrices} {verb_for(len(errors), 'holds', 'hold')} weights of {self.bits} bits"
        logger.info("quantize_weights: %s", done)
        context.note(f"{done}, {self.block_size} to a scale, {packed:,} in all.")
        if errors:
            worst = max(errors, key=lambda name: errors[name])
            context.note(
                f"Rounding moves them by {100 * errors[worst]:.1f}% at most (root mean square, in "
                f"{worst})."
            )
        int8 = [weight.name for weight in chosen if weight.name not in {*errors, *int4_errors}]
        if int8:
            context.note(f"Embedding tables in int8: {listing(int8)}.")
        self._report_tables(chosen, int4, int4_errors, context)
        if leftovers := self._leftovers(weights):
            context.note(f"Left in float: {leftovers}.")
