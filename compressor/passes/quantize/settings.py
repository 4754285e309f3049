"""Settings of the five passes that store the weights of a graph as integers.

Classes without a kind hold what several of them share. The work of a pass is in the module of its
name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from compressor.passes.base import (
    ENOUGH_TO_OBSERVE,
    About,
    FromOpset,
    OnlyOn,
    OnnxPass,
    RoundsAgain,
    WeightFormat,
)
from compressor.passes.effort import Effort, reading_effort, sensitivity_effort
from compressor.passes.saving import ModelParts, Saving, int8_on_cpu

ROWS_WITHOUT_COMPUTING = 10_000  # read where indices are inputs, so that counting them is cheap
FILTERS_TAKEN_BY = "quantize_static with convolutions: int8"
_RESCALES = RoundsAgain(
    "rescales the weights that {trainer} trained for int8, so they would be rounded once more"
)
_KEPT_BY_REPAIR = (1, 2, 4, 8)  # most sensitive weights that stay in float, one try after the other
_KEPT_BY_AUTO = 2  # or about so many
_CODE_WIDTH = 12  # numbers of a row to a byte: on MiniLM's rare pieces more lose, fewer gain little
_MATRIX_BLOCK: BlockSize = 64  # weights of a column in four bits that share a factor
# Of none and 0.5 to 0.9 the one with the smallest error on MiniLM: activations have one scale for
# all channels and lose more to large ones than weights, which have one for each column.
_SMOOTHED_FOR_TENSORRT = 0.8


def _spelt_out(value: object) -> object:
    """Return what `true` stands for."""
    return "int8" if value is True else value


Embeddings = Annotated[Literal["int8", "int4", "codes", False], BeforeValidator(_spelt_out)]
BlockSize = Literal[16, 32, 64, 128, 256]
Method = Literal["minmax", "percentile", "mse", "entropy"]
Form = Literal["per_token", "per_tensor", "static", "mixed"]


class WeightSettings(OnnxPass):
    """A pass over the weights of matmuls, with all that tells which of them it takes."""

    leaves_weights: ClassVar[WeightFormat | None] = "int8"
    takes_weights: ClassVar[tuple[WeightFormat, ...] | None] = ("float32",)

    exclude: tuple[str, ...] = Field(
        (),
        description="patterns (* and ?) of weight or node names that stay in float; one that "
        "matches nothing is an error",
    )
    min_elements: int = Field(
        2048,
        ge=0,
        description="smallest number of weights in a matrix or table worth quantizing; smaller "
        "ones, such as a classifier head, save next to nothing",
    )

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return what storing int8 on a CPU saves."""
        return int8_on_cpu(parts)

    def spare_rows_wanted(self) -> int:
        """Return as many rows as observing takes, where anything is observed."""
        return ENOUGH_TO_OBSERVE if "calibration" in self.required_splits() else 0

    @property
    def no_tables(self) -> str | None:
        """Return why embedding tables stay in float, None where they do not."""
        return None

    @property
    def takes_filters(self) -> bool:
        """Return whether the filters of convolutions become integers too."""
        return False

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:  # noqa: ARG002
        """Return what choosing by calibration rows takes; each kind of choice adds its own."""
        return Effort()


class IntegerSettings(WeightSettings):
    """A pass that stores the weights of matmuls and embedding tables as integers."""

    narrowed_by: ClassVar[Mapping[str, OnlyOn]] = {
        "embeddings": OnlyOn(
            "int4", ("cpu", "cuda"), "nothing looks rows up in 4 bits; write embeddings: int8"
        ),
        "refined_rows": OnlyOn(
            None, ("cpu", "cuda"), "nothing looks rows up in 4 bits; leave refined_rows out"
        ),
    }

    embeddings: Embeddings = Field(
        "int8",
        description="how embedding tables are stored: with one scale for each row in int8, in half "
        "of that and less exactly with one for each block of a row in int4 (small ones, which "
        "every text reads, stay int8), with one byte for code_width numbers of a row together in "
        "codes (for pieces that texts hardly ever contain, where refined_rows holds the others), "
        "or in float; true is int8",
    )
    code_width: int = Field(
        _CODE_WIDTH,
        ge=2,
        le=64,
        exclude_if=lambda value: value == _CODE_WIDTH,  # so that steps are those of before
        description="with embeddings: codes, neighbouring numbers of a row that one byte stands "
        "for; they have to divide the row",
    )
    embedding_block: BlockSize = Field(
        32, description="weights of an int4 table's row that share one scale"
    )
    refined_rows: int = Field(
        0,
        ge=0,
        description="rows of each table in int4 or codes, those that texts of the calibration "
        "split look up most often, that get four bits more: a thousand pieces are most of what a "
        "text is made of (of `rows` of them, or of 10,000 where the split has as many)",
    )
    rounding: Literal["nearest", "gptq"] = Field(
        "nearest",
        description="how a weight of a matmul becomes an integer: the nearest, or the one that "
        "changes the outputs least on unlabelled rows of the calibration split",
    )
    bias_correction: bool = Field(
        False,
        description="add to each bias what rounding its weights takes from the mean of the output "
        "on unlabelled rows of the calibration split",
    )
    rows: int = Field(
        512,
        gt=0,
        description="calibration rows, at most, that rounding gptq, bias_correction and "
        "refined_rows read, at their real lengths and without padding; memory does not grow with "
        "them",
    )

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when anything is chosen by its rows."""
        reads = self.rounds_by_rows or self.refined_rows > 0
        return frozenset({"calibration"} if reads else ())

    def calibration_rows_wanted(self) -> int:
        """Return `rows` when any is read, and as many as refined tables count indices in."""
        if "calibration" not in self.required_splits():
            return 0
        return max(self.rows, ROWS_WITHOUT_COMPUTING if self.refined_rows else 0)

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:
        found = super()._effort_of_choices(num_rows)
        if "calibration" not in IntegerSettings.required_splits(self):
            return found
        solved = Effort(seconds=10.0 if self.rounding == "gptq" else 2.0)
        return found + reading_effort(num_rows, self.rows, times=2) + solved

    @property
    def no_tables(self) -> str | None:
        """Return that tables are not asked for."""
        return None if self.embeddings else "embeddings is false"

    @property
    def rounds_by_rows(self) -> bool:
        """Return whether rounding reads calibration rows."""
        return self.rounding != "nearest" or self.bias_correction

    def _wider_tables(self) -> Iterator[dict[str, object]]:
        """Yield what gives tables, which lose the most, more bits: int4 in place of codes, int8.

        Not int4 where no rows are refined: OpenVINO runs such codes, and looks up no int4.
        """
        if self.embeddings == "codes" and self.refined_rows:
            yield {"embeddings": "int4", "code_width": _CODE_WIDTH}
        yield {
            "embeddings": self.embeddings and "int8",
            "refined_rows": 0,
            "code_width": _CODE_WIDTH,
        }

    @model_validator(mode="after")
    def _narrows_tables(self) -> Self:
        if self.refined_rows and self.embeddings not in ("int4", "codes"):
            raise ValueError(
                f"refined_rows: {self.refined_rows} is for tables in int4 or codes; write "
                f"embeddings: int4, or leave it out"
            )
        if self.code_width != _CODE_WIDTH and self.embeddings != "codes":
            raise ValueError(
                f"code_width: {self.code_width} is for tables of codes; write embeddings: codes, "
                f"or leave it out"
            )
        return self


class SensitiveSettings(WeightSettings):
    """A pass that leaves in float what moves the logits most; it measures that itself."""

    keep_sensitive: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        0,
        description="number of weights that stay in float because they move the logits most for "
        "each byte that they would save, measured one by one on up to 128 unlabelled rows of the "
        "calibration split; at least one weight becomes int8, however many are named here; auto, "
        "the fewest with which at most 1% of the predictions on up to 512 such rows change and "
        "the outputs are off by at most 15% of their spread: none where all weights in int8 do",
    )

    @property
    def looks_for_sensitive(self) -> bool:
        """Return whether weights are compared on calibration rows."""
        return self.keep_sensitive != 0

    def _with_more_in_float(self) -> Iterator[Self]:
        """Yield these settings with more and more of the most sensitive weights in float."""
        kept = _KEPT_BY_AUTO if self.keep_sensitive == "auto" else self.keep_sensitive
        for count in _KEPT_BY_REPAIR:
            if count > kept:
                yield self.model_copy(update={"keep_sensitive": count})

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:
        found = super()._effort_of_choices(num_rows)
        return found + (sensitivity_effort(num_rows) if self.looks_for_sensitive else Effort())


class Int8Settings(SensitiveSettings, IntegerSettings):
    """A pass that stores the weights of matmuls and embedding tables as int8."""

    providers: ClassVar[tuple[str, ...] | None] = ("cpu", "openvino")
    not_elsewhere: ClassVar[str] = (
        "CUDA has no kernels for its integer matmuls and would leave them to the CPU, slower than "
        "float32; convert_fp16 makes a model for it, and quantize_tensorrt an int8 one for TensorRT"
    )

    rounds_again: ClassVar[Mapping[str, RoundsAgain]] = {
        "smooth": _RESCALES,
        "once_per_text": RoundsAgain(
            "stores in 4 bits what {trainer} trained for int8", values=("int4",)
        ),
    }
    narrowed_by: ClassVar[Mapping[str, OnlyOn]] = {
        **IntegerSettings.narrowed_by,
        "matrices": OnlyOn(
            "int4", ("cpu",), "int8 weights of other providers are pairs in the graph; leave it out"
        ),
    }
    needs_opset: ClassVar[Mapping[str, FromOpset]] = {"matrices": FromOpset("int4", 21)}

    smooth: bool = Field(
        False,
        description="divide channels that a normalisation makes large before their matmul, and "
        "multiply its weight instead: less error for one more multiplication where it helps; not "
        "after quantize_aware_train, whose weights fit their scales without it",
    )

    once_per_text: Literal["int8", "int4"] = Field(
        "int8",
        description="how matrices are stored that multiply one token of a text alone, as most of "
        "those of a classifier's last layer do: int4, with 128 weights of a column to a scale and "
        "rounded by what changes in the outputs on `rows` of the calibration split, takes half the "
        "bytes, where there is next to no arithmetic to save",
    )

    matrices: Literal["int8", "int4"] = Field(
        "int8",
        exclude_if=lambda value: value == "int8",  # so that steps are those of before
        description="how matrices are stored: int4 takes half the bytes in the file, and ONNX "
        "Runtime makes int8 of it once, when it opens the file, so that speed and memory are those "
        "of int8; it is less exact, and `rounding: gptq` makes up for most of that; needs operator "
        "set 21 and ONNX Runtime 1.23",
    )
    matrix_block: BlockSize = Field(
        _MATRIX_BLOCK,
        exclude_if=lambda value: value == _MATRIX_BLOCK,
        description="with matrices: int4, weights of a column that share one factor",
    )

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when anything is chosen by its rows."""
        reads = self.looks_for_sensitive or self.once_per_text == "int4"
        return super().required_splits() | ({"calibration"} if reads else set())

    @model_validator(mode="after")
    def _blocks_matrices_in_four_bits(self) -> Self:
        if self.matrix_block != _MATRIX_BLOCK and self.matrices != "int4":
            raise ValueError(
                f"matrix_block: {self.matrix_block} is for matrices in four bits; write matrices: "
                f"int4, or leave it out"
            )
        return self

    def milder(self) -> Iterator[Self]:
        """Yield all in int8, finer activations, then sensitive weights and tables in float."""
        finest = self
        wide = self.model_copy(update={"matrices": "int8", "matrix_block": _MATRIX_BLOCK})
        tables = [wide.model_copy(update=update) for update in self._wider_tables()]
        int8 = tables[-1].model_copy(update={"once_per_text": "int8"})
        for milder in (wide, *tables, int8, int8._finest()):
            if milder != finest:
                yield milder
            finest = milder
        yield from finest._with_more_in_float()
        if self.embeddings:
            yield finest.model_copy(update={"embeddings": False})

    def _finest(self) -> Self:
        """Return these settings with activations as fine as they get."""
        return self

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return rounding the weights, and what is chosen by rows."""
        found = Effort(seconds=3.0) + self._effort_of_choices(num_rows)
        if self.once_per_text == "int4":
            found += reading_effort(num_rows, self.rows, times=1) + Effort(seconds=3.0)
        return found


class ObservingSettings(WeightSettings):
    """A pass that observes the activations of matmuls on calibration rows."""

    method: Method = Field(
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
        "matmul that gains by it: how much of the difference between channels moves into the "
        "weights, such as 0.5 (a fraction); left out, not at all",
    )

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split."""
        return frozenset({"calibration"})

    def calibration_rows_wanted(self) -> int:
        """Return `rows`, or what refined tables read where there are any."""
        return max(self.rows, super().calibration_rows_wanted())


class CalibratedSettings(ObservingSettings, Int8Settings):
    """A pass that stores int8 weights and observes activations on calibration rows."""

    rounds_again: ClassVar[Mapping[str, RoundsAgain]] = {
        **Int8Settings.rounds_again,
        "smooth_alpha": _RESCALES,
    }

    smooth_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="smooth by the channels that are large on the calibration rows, before any "
        "matmul that gains by it, in place of `smooth`: how much of the difference between "
        "channels moves into the weights, such as 0.5 (a fraction); left out, not at all",
    )

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:
        found = super()._effort_of_choices(num_rows)
        return found + reading_effort(num_rows, self.rows, times=3)


class QuantizeDynamic(Int8Settings):
    """Store the weights of matmuls and embedding tables as int8; needs no calibration data.

    Convolutions, biases and normalisations stay in float.
    """

    kind: Literal["quantize_dynamic"] = "quantize_dynamic"

    about: ClassVar[About] = About(
        group="quantize",
        summary="Store int8: the safe first choice",
        explanation=(
            "Stores weights and embedding tables as int8: about a quarter of the size, and faster "
            "on a CPU. It reads no data, so it is the first thing to try."
        ),
        example="""\
passes:
  - kind: quantize_dynamic
""",
    )
    stores_trained: ClassVar[str | None] = "per_token"

    activations: Literal["per_tensor", "per_token"] = Field(
        "per_token",
        description="what shares one 8-bit scale at run time: each token's vector, which keeps a "
        "prediction independent of the other rows of its batch, or the whole tensor, which is "
        "about a tenth faster and less accurate",
    )

    def _finest(self) -> Self:
        return self.model_copy(update={"activations": "per_token"})


class QuantizeStatic(CalibratedSettings):
    """Store weights as int8 and fix the scales of activations by calibration, without labels.

    Residuals, normalisations, GELU, softmax and biases stay in float, and convolutions unless asked
    for; between two of these in int8, ReLU, max pooling and sums are computed of integers too.
    """

    kind: Literal["quantize_static"] = "quantize_static"

    about: ClassVar[About] = About(
        group="quantize",
        summary="Store int8 with fixed activation ranges",
        explanation=(
            "Stores weights as int8 and fixes the ranges of the activations from unlabelled "
            "calibration rows. It can be faster than quantize_dynamic, and can lose more "
            "accuracy."
        ),
        example="""\
passes:
  - kind: quantize_static
    method: percentile
""",
    )
    stores_trained: ClassVar[str | None] = "static"
    narrowed_by: ClassVar[Mapping[str, OnlyOn]] = {
        **CalibratedSettings.narrowed_by,
        "convolutions": OnlyOn(
            "int8", ("cpu",), "they are written as ONNX Runtime computes them; leave it out"
        ),
        "biases": OnlyOn(
            "in_matmuls", ("cpu",), "matmuls of other providers take no bias; leave it out"
        ),
    }

    biases: Literal["apart", "in_matmuls"] = Field(
        "apart",
        description="what adds the bias of a matmul: an operator of its own, or, in about a tenth "
        "less time for the whole model and with the same numbers, the matmul itself",
        exclude_if=lambda value: value == "apart",  # so that steps are those of before
    )
    convolutions: Literal["int8", False] = Field(
        False,
        description="how convolutions are computed: in float, or in int8 with one scale for each "
        "output channel, which makes a ResNet two to three times as fast; filters are rounded to "
        "the nearest, and neither rounding, bias_correction nor smoothing reaches them",
        exclude_if=lambda value: not value,  # so that steps are those of before
    )

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return what storing int8 saves, filters of convolutions among them where there are."""
        found = super().most_saved(parts)
        if not parts.filters or found.bytes_saved is None:
            return found
        saved = found.bytes_saved + sum(3 * size for size in parts.filters)
        return Saving(saved, None, f"{found.reason}; with convolutions: int8")

    @property
    def takes_filters(self) -> bool:
        """Return whether convolutions are asked for."""
        return self.convolutions == "int8"


class QuantizeAuto(CalibratedSettings):
    """Store weights as int8, with the fastest activations that change few enough predictions.

    Records `race`: for each form the error of the logits (root mean square) and the share of
    predictions that change on the calibration rows, its time in fast runs in milliseconds, the
    clock (of the CPU where one thread runs, otherwise the wall's), and whether it was chosen. Forms
    take turns until their ratios are known to within 1%; on a machine too busy for that the run
    stops. The result is stored like that of any other pass, so a run that goes on does not race
    again; another run, or another machine, may choose differently.
    """

    kind: Literal["quantize_auto"] = "quantize_auto"

    about: ClassVar[About] = About(
        group="quantize",
        summary="Store int8 in the fastest accurate form",
        explanation=(
            "Tries the int8 variants, times them on this machine, and keeps the fastest one whose "
            "predictions change little enough. It needs unlabelled calibration rows and a quiet "
            "machine."
        ),
        example="""\
passes:
  - kind: quantize_auto
""",
    )

    forms: tuple[Form, ...] = Field(
        ("per_token", "mixed", "static"),
        min_length=1,
        description="what takes part: one scale for each token or for the whole tensor at run "
        "time, scales fixed by calibration, or fixed ones only where they round about as finely as "
        "a scale for each token; with per_tensor a prediction depends on the rest of its batch",
    )
    max_changed: float = Field(
        0.005,
        ge=0,
        le=1,
        description="fraction of the predictions on calibration rows that a form may change; where "
        "all change more, and for a model of vectors, the form with the smallest error is taken",
    )
    batch_size: int = Field(1, gt=0, le=256, description="rows in a batch that is timed")
    rounds: int = Field(
        30,
        gt=0,
        description="times that every form runs each timed batch, taking turns; ten times as many "
        "where the times vary",
    )

    @property
    def measures_time(self) -> bool:
        """Return that forms are raced."""
        return True

    def _effort_of_choices(self, num_rows: Mapping[str, int]) -> Effort:
        found = super()._effort_of_choices(num_rows)
        judged = reading_effort(num_rows, self.rows, times=len(self.forms))
        timed = Effort(4.0 * self.rounds * self.batch_size * len(self.forms), seconds=5.0)
        return found + judged + timed

    def _finest(self) -> Self:
        return self.model_copy(update={"forms": ("per_token",)})


class QuantizeWeights(IntegerSettings):
    """Store the weights of matmuls in blocks of 4 or 8 bits; activations stay as exact as asked.

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
    providers: ClassVar[tuple[str, ...] | None] = ("cpu", "cuda", "openvino")
    not_elsewhere: ClassVar[str] = (
        "TensorRT has no kernels for packed weights; convert_fp16 makes a model for it"
    )

    bits: Literal[4, 8] = Field(4, description="bits of a weight in matmuls")
    block_size: BlockSize = Field(
        32,
        description="weights of an output column that share one scale of 32 bits; with more the "
        "file is smaller and faster, and less exact",
    )
    activations: Literal["int8", "float"] = Field(
        "int8",
        description="what weights are multiplied with on a CPU: activations of 8 bits, one scale "
        "for `block_size` channels of a token, or of 32, at about half the speed and only with "
        "weights of 4 bits; CUDA and OpenVINO always take floats",
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
        """Yield wider tables, float activations, small blocks, 8 bits, and tables in float."""
        steps: tuple[dict[str, object], ...] = (
            *self._wider_tables(),
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


class QuantizeTensorrt(ObservingSettings, SensitiveSettings):
    """Store the weights of matmuls as int8 with signed QDQ, for TensorRT; without labels.

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
        "CUDA has no kernels for int8 matmuls and would compute them in float, slower than "
        "without this pass; use convert_fp16 there, and quantize_dynamic or quantize_static on a "
        "CPU"
    )

    smooth_alpha: float | None = Field(
        _SMOOTHED_FOR_TENSORRT,
        ge=0,
        le=1,
        description="smooth by the channels that are large on the calibration rows, before any "
        "matmuls that gain by it; those of one input share the factors: how much of the "
        "difference between channels moves into the weights (a fraction), for one multiplication "
        "of the input; null, not at all",
    )

    @property
    def no_tables(self) -> str | None:
        """Return why a GPU gains nothing by them."""
        return "a table is looked up, which int8 does not make faster on a GPU"

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return the matrices in int8."""
        saved = parts.saved_by_bits(matrix=8, table=32)
        return Saving(saved, None, "int8 matrices, on TensorRT; tables stay float")

    def milder(self) -> Iterator[Self]:
        """Yield smoothed activations, then more and more of the most sensitive weights in float."""
        finest = self
        if self.smooth_alpha is None:
            finest = self.model_copy(update={"smooth_alpha": _SMOOTHED_FOR_TENSORRT})
            yield finest
        yield from finest._with_more_in_float()

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return observing activations, and what is chosen by rows."""
        observed = reading_effort(num_rows, self.rows, times=3)
        return Effort(seconds=3.0) + observed + self._effort_of_choices(num_rows)
