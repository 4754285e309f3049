"""Settings of `quantize_vectors`; the work is in `vectors.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field

from compressor.passes.base import ENOUGH_TO_OBSERVE, About, OnnxPass
from compressor.passes.effort import Effort, reading_effort
from compressor.training.settings import Need


class QuantizeVectors(OnnxPass):
    """Let the graph give vectors as int8, or as one bit a number, for a smaller index.

    Weights stay as they are, and so does the time that an input takes. It is the last pass. `int8`
    divides all numbers by one scale, that of the largest number which calibration rows have, so
    that cosines and dot products of codes order documents as those of the numbers would; a larger
    number is clipped. `ubinary` keeps signs, eight to a byte, to be compared by their Hamming
    distance.

    Bits are those of `quantize_embeddings(precision="ubinary")` of sentence-transformers (its
    `binary` is the same byte less 128, as int8). Its int8 codes are others: each dimension there
    has a range of its own, so that sums of codes weigh dimensions anew, and numbers are rounded
    down. An index holds codes of one kind.

    Records `output`: what the graph gives.

    Ref: Yamada et al. 2021, arXiv:2106.00882 (bits); Shakir et al. 2024, "Binary and Scalar
    Embedding Quantization", Hugging Face blog.
    """

    kind: Literal["quantize_vectors"] = "quantize_vectors"
    ends_graph: ClassVar[bool] = True
    providers: ClassVar[tuple[str, ...] | None] = ("cpu", "cuda", "openvino")
    not_elsewhere: ClassVar[str] = (
        "TensorRT is not known to give bytes; quantize the vectors that it gives yourself"
    )

    about: ClassVar[About] = About(
        group="quantize",
        summary="Give vectors as int8 or bits, for an index",
        explanation=(
            "Lets an encoder give its vectors as int8, or as one bit for each number, so "
            "that an index of documents takes a quarter, or a thirty-second, of the room. The "
            "model itself stays as it is."
        ),
        example="""\
passes:
  - kind: quantize_dynamic
  - kind: quantize_vectors
    precision: int8
""",
    )

    precision: Literal["int8", "ubinary"] = Field(
        "int8",
        description="int8: one byte a number, all with one scale; ubinary: one bit, whether it is "
        "above 0, eight to a byte",
    )
    rows: int = Field(
        512,
        gt=0,
        description="calibration rows, at most, whose largest number is the end of the scale of "
        "int8; ubinary reads none",
    )

    @property
    def incomparable(self) -> str | None:
        """Return that signs alone are left, where they are."""
        return "leaves the sign of each number alone" if self.precision == "ubinary" else None

    def needs(self) -> Iterator[Need]:
        """Yield that outputs must be vectors."""
        yield Need(
            "kind", "vectors", "quantizes vectors of texts, and {task} gives none; remove it"
        )

    def milder(self) -> Iterator[Self]:
        """Yield int8 in place of bits."""
        if self.precision != "int8":
            yield self.model_copy(update={"precision": "int8"})

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split where a scale is chosen."""
        return frozenset({"calibration"} if self.precision == "int8" else ())

    def calibration_rows_wanted(self) -> int:
        """Return `rows` where a scale is chosen."""
        return self.rows if self.precision == "int8" else 0

    def spare_rows_wanted(self) -> int:
        """Return as many rows as observing takes, where a scale is chosen."""
        return ENOUGH_TO_OBSERVE if self.precision == "int8" else 0

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return reading the calibration rows once."""
        found = Effort(seconds=2.0)
        if self.precision == "int8":
            found += reading_effort(num_rows, self.rows, times=1)
        return found
