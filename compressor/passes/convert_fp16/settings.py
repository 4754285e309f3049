"""Half precision for GPUs: half the size, and tensor cores do the products.

Weights and activations become float16 (Micikevicius et al. 2018, arXiv:1710.03740) or bfloat16
(Kalamkar et al. 2019, arXiv:1905.12322); inputs and outputs stay as they are, and so do the nodes
whose numbers do not fit: they are found by running real rows through the float graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from compressor.errors import PassError, StepFailed
from compressor.passes.base import About, OnnxPass, PassContext, WeightFormat
from compressor.passes.effort import Effort, reading_effort, sensitivity_effort
from compressor.passes.saving import ModelParts, Saving
from compressor.words import counted, verb_for

if TYPE_CHECKING:
    import onnx

    from compressor.models.onnx_model import OnnxModel

logger = logging.getLogger(__name__)

_KEPT_BY_REPAIR = (1, 2, 4, 8, 16)  # most sensitive nodes in float, one try after the other
_LISTED = 20  # names in a message, before it says how many more there are
_PAIRS = frozenset(("DequantizeLinear", "QuantizeLinear"))  # what TensorRT reads int8 from


class ConvertFp16(OnnxPass):
    """Store and compute in float16; for GPUs, a CPU would only convert back and forth."""

    kind: Literal["convert_fp16"] = "convert_fp16"

    about: ClassVar[About] = About(
        group="precision",
        summary="Store float16: half the size",
        explanation=(
            "Stores and computes in float16: half the size, and faster on a GPU. A CPU would only "
            "convert back and forth, so it is refused there."
        ),
        example="""\
passes:
  - kind: convert_fp16
export:
  provider: cuda
benchmark:
  providers: [cuda]
""",
    )
    leaves_weights: ClassVar[WeightFormat | None] = "float16"
    takes_weights: ClassVar[tuple[WeightFormat, ...] | None] = ("float32", "int8", "4- or 8-bit")
    # ONNX Runtime has few float16 kernels for CPUs and silently inserts casts around the rest.
    providers: ClassVar[tuple[str, ...] | None] = ("cuda", "tensorrt")

    dtype: Literal["float16", "bfloat16"] = Field(
        "float16",
        description="type of weights and arithmetic; bfloat16 has the range of float32 and 8 "
        "significant bits in place of 11, and needs a GPU of compute capability 8.0 or higher",
    )
    search_ranges: bool = Field(
        True,
        description="run up to 128 unlabelled rows of the calibration split through the float "
        "graph, and keep in float32 the nodes whose numbers float16 cannot hold; nothing to do for "
        "bfloat16",
    )
    keep_in_float: tuple[str, ...] = Field(
        (),
        description="what else stays in float32: operator types such as Softmax, and patterns (* "
        "and ?) of node or weight names; one that matches nothing is an error",
    )
    keep_sensitive: int = Field(
        0,
        ge=0,
        description="number of nodes that stay in float32 because they move the logits most, "
        "converted one by one and measured on up to 128 unlabelled rows of the calibration split; "
        "at least one is converted, however many are named here",
    )

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return half of all bytes."""
        return Saving(parts.total_bytes // 2, None, "float16 weights, on CUDA and TensorRT")

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when rows are to be run."""
        return frozenset({"calibration"} if self._searches or self.keep_sensitive else ())

    def milder(self) -> Iterator[Self]:
        """Yield more and more of the most sensitive nodes left in float32."""
        for count in _KEPT_BY_REPAIR:
            if count > self.keep_sensitive:
                yield self.model_copy(update={"keep_sensitive": count})

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return the conversion, and what is chosen by rows."""
        found = Effort(seconds=3.0)
        if self._searches:
            found += reading_effort(num_rows, 128, times=2)
        return found + (sensitivity_effort(num_rows) if self.keep_sensitive else Effort())

    def write_graph(self, model: OnnxModel, context: PassContext) -> OnnxModel:
        """Write the graph in half precision and return it.

        Raises `PassError` when the graph has no float32 weights or integer operators, when a
        pattern of `keep_in_float` matches nothing, when a weight or a value of the float graph is
        not finite, and when a logit of the converted graph is not.
        """
        from compressor.models.onnx_model import OnnxModel
        from compressor.onnx_graph.onnx_file import load_graph, save_graph
        from compressor.onnx_graph.quantizable_weights import integer_operators, lift_constants
        from compressor.passes.convert_fp16.float16 import NotFinite, bound_masks, convert_to_half

        graph = load_graph(model.path)
        if not _PAIRS.issuperset(present := integer_operators(graph)):
            raise self._error(
                f"the graph is quantized (it has {', '.join(present)}), and GPUs have no kernels "
                f"for that; use quantize_tensorrt in place of the quantizing pass, or remove it"
            )
        lift_constants(graph)
        before = _float_weights(graph)
        if not before:
            raise self._error(
                "the graph has no float32 weights: remove one of two fp16 passes, or, where "
                "weights are inputs of the graph, export the model with its weights inside"
            )
        bound_masks(graph)
        try:
            kept = self._kept_nodes(graph, model, context)
            converted = convert_to_half(graph, in_float=kept, dtype=self.dtype)
            path = context.work_dir / "model.onnx"
            save_graph(converted, path)
            self._compare(graph, converted, model, context)
        except NotFinite as error:
            raise self._error(f"{error}; the checkpoint or the pass before is broken") from error
        except StepFailed as error:
            raise self._error(
                f"{error}; name the nodes that need float32 in keep_in_float, or use search_ranges"
            ) from error
        weights = counted(before, "weight")
        done = f"{before - _float_weights(converted):,} of {weights} are {self.dtype}"
        logger.info("convert_fp16: %s", done)
        context.note(f"{done}.")
        return OnnxModel(path, provider=model.provider, threads=model.threads)

    @property
    def _searches(self) -> bool:
        return self.search_ranges and self.dtype == "float16"

    def _kept_nodes(
        self, graph: onnx.ModelProto, model: OnnxModel, context: PassContext
    ) -> frozenset[str]:
        """Return the names of the nodes that stay in float32."""
        from compressor.passes.convert_fp16 import measure as _half

        kept = self._named(graph)
        if self._searches:
            found = _half.nodes_out_of_range(graph, model, context)
            kept |= {item.name for item in found}
            if found:
                reasons = [f"{item.name} ({item.operator}) {item.reason}" for item in found]
                context.note(f"In float32, out of the range of float16: {_listing(reasons)}.")
        if self.keep_sensitive:
            sensitive = _half.sensitive_nodes(
                graph, kept, self.keep_sensitive, dtype=self.dtype, model=model, context=context
            )
            kept |= set(sensitive)
            context.note(f"In float32, the most sensitive: {_listing(sensitive)}.")
        return kept

    def _compare(
        self,
        graph: onnx.ModelProto,
        converted: onnx.ModelProto,
        model: OnnxModel,
        context: PassContext,
    ) -> None:
        """Record how far the logits move on the calibration rows, where they are there."""
        from compressor.passes.convert_fp16 import measure as _half

        if self.required_splits():
            fact = _half.parity(graph, converted, model=model, context=context)
            context.record("half_parity", fact)
            flips = ""
            if (num := fact["flips"]) is not None:
                flips = f", and {counted(num, 'answer')} {verb_for(num, 'changes', 'change')}"
            output = "vectors" if fact["flips"] is None else "logits"
            context.note(
                f"On {counted(fact['rows'], 'calibration row')}, {output} differ from float32 by "
                f"up to {fact['max_abs_diff']:.2g}{flips}, on the provider {fact['provider']}."
            )

    def _named(self, graph: onnx.ModelProto) -> frozenset[str]:
        """Return the nodes that `keep_in_float` names."""
        from compressor.passes.convert_fp16.float16 import float_nodes, node_name

        nodes = list(float_nodes(graph))
        weights = {tensor.name for tensor in graph.graph.initializer}
        kept: set[str] = set()
        for position, pattern in enumerate(self.keep_in_float):
            matching = {
                node_name(node)
                for node in nodes
                if any(
                    fnmatchcase(name, pattern)
                    for name in (node.op_type, node_name(node), *weights.intersection(node.input))
                )
            }
            if not matching:
                operators = sorted({node.op_type for node in nodes})
                raise self._error(
                    f"keep_in_float[{position}]: '{pattern}' matches no operator, node or weight; "
                    f"operators are {', '.join(operators)}, nodes "
                    f"{_listing([node_name(node) for node in nodes])}"
                )
            kept |= matching
        return frozenset(kept)

    def _error(self, message: str) -> PassError:
        return PassError(message, kind=self.kind)


def _float_weights(model: onnx.ModelProto) -> int:
    """Return the number of float32 elements among the constants, single ones left out."""
    float32 = 1  # onnx.TensorProto.FLOAT, as a number: onnx is not imported with the settings
    sizes = (prod(item.dims) for item in model.graph.initializer if item.data_type == float32)
    return sum(size for size in sizes if size > 1)


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
