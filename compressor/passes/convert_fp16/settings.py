"""Settings of `convert_fp16`; the work is in `apply.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field

from compressor.passes.base import About, OnnxPass, WeightFormat
from compressor.passes.effort import Effort, reading_effort, sensitivity_effort
from compressor.passes.saving import ModelParts, Saving

_KEPT_BY_REPAIR = (1, 2, 4, 8, 16)  # most sensitive nodes in float, one try after the other


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
        return frozenset({"calibration"} if self.searches or self.keep_sensitive else ())

    def milder(self) -> Iterator[Self]:
        """Yield more and more of the most sensitive nodes left in float32."""
        for count in _KEPT_BY_REPAIR:
            if count > self.keep_sensitive:
                yield self.model_copy(update={"keep_sensitive": count})

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return the conversion, and what is chosen by rows."""
        found = Effort(seconds=3.0)
        if self.searches:
            found += reading_effort(num_rows, 128, times=2)
        return found + (sensitivity_effort(num_rows) if self.keep_sensitive else Effort())

    @property
    def searches(self) -> bool:
        """Return whether rows are run to find what float16 cannot hold."""
        return self.search_ranges and self.dtype == "float16"
