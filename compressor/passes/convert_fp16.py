"""Half precision for GPUs: half the size, and tensor cores do the products.

Weights and activations become float16 (Micikevicius et al. 2018, arXiv:1710.03740); inputs, outputs
and the operators that need the range stay as they are.
"""

from __future__ import annotations

import logging
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from compressor.errors import PassError
from compressor.passes._base import OnnxPass, PassContext

if TYPE_CHECKING:
    import onnx

    from compressor.models.onnx_model import OnnxModel

logger = logging.getLogger(__name__)


class ConvertFp16(OnnxPass):
    """Store and compute in float16; for GPUs, a CPU would only convert back and forth."""

    kind: Literal["convert_fp16"] = "convert_fp16"
    # ONNX Runtime has few float16 kernels for CPUs and silently inserts casts around the rest.
    providers: ClassVar[tuple[str, ...] | None] = ("cuda", "tensorrt")

    keep_in_float: tuple[str, ...] = Field(
        (),
        description="operator types that stay in float32, such as Softmax or LayerNormalization, "
        "besides those that ONNX Runtime never converts; one that the graph lacks is an error",
    )

    def apply(self, model: OnnxModel, context: PassContext) -> OnnxModel:
        """Write the float16 graph and return it.

        Raises `PassError` when the graph has no float32 weights or integer operators, when it lacks
        an operator of `keep_in_float`, and when a weight is beyond the range of float16.
        """
        from compressor.models.onnx_file import load_graph, save_graph
        from compressor.models.onnx_model import OnnxModel
        from compressor.quantization.half import convert_to_half
        from compressor.quantization.sites import integer_operators, lift_constants

        graph = load_graph(model.path)
        if present := integer_operators(graph):
            raise self._error(
                f"the graph is quantized (it has {', '.join(present)}), and GPUs have no kernels "
                f"for that; remove the quantizing pass"
            )
        lift_constants(graph)
        self._check_operators(graph)
        before = _float_weights(graph)
        if not before:
            raise self._error("the graph has no float32 weights; remove one of two fp16 passes")
        try:
            converted = convert_to_half(graph, keep_in_float=self.keep_in_float)
        except ValueError as error:
            raise self._error(
                f"{error}; name the operators that need the range of float32 in keep_in_float"
            ) from error
        path = context.work_dir / "model.onnx"
        save_graph(converted, path)
        done = f"{before - _float_weights(converted):,} of {before:,} weights are float16"
        logger.info("convert_fp16: %s", done)
        context.note(f"{done}.")
        return OnnxModel(path, provider=model.provider, threads=model.threads)

    def _check_operators(self, graph: onnx.ModelProto) -> None:
        present = sorted({node.op_type for node in graph.graph.node})
        for position, operator in enumerate(self.keep_in_float):
            if operator not in present:
                raise self._error(
                    f"keep_in_float[{position}]: the graph has no operator '{operator}' (it has "
                    f"{', '.join(present)})"
                )

    def _error(self, message: str) -> PassError:
        return PassError(message, kind=self.kind)


def _float_weights(model: onnx.ModelProto) -> int:
    """Return the number of float32 elements among the constants, single ones left out."""
    float32 = 1  # onnx.TensorProto.FLOAT, as a number: onnx is not imported with the settings
    sizes = (prod(item.dims) for item in model.graph.initializer if item.data_type == float32)
    return sum(size for size in sizes if size > 1)
