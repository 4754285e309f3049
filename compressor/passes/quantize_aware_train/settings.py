"""Training for int8: the model learns to predict as before with the roundings of its int8 file.

The pass leaves a float model whose weights are multiples of int8 scales; `quantize_dynamic` or
`quantize_static` later in the recipe finds those scales and stores exactly the integers that were
trained (`passes/quantize_aware_train/fake_quantize.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compressor.models.families import family_of
from compressor.models.families.prunable import not_simulated
from compressor.passes.base import About, TorchPass, TrainedFor, Unfit
from compressor.passes.effort import Effort, reading_effort, training_effort
from compressor.passes.quantize.settings import BlockSize
from compressor.passes.repair import longer
from compressor.passes.saving import ModelParts, Saving, int8_on_cpu
from compressor.training.distill_settings import DistillSettings

if TYPE_CHECKING:
    from compressor.models.checkpoint import CheckpointFiles


class QuantizeAwareTrain(DistillSettings, TorchPass):
    """Train with int8 weights and activations simulated, towards the float model's predictions.

    Simulated is what the file of `quantize_dynamic` with `activations: per_token`, or that of
    `quantize_static`, computes with a fused export: pair-safe weights with learned steps,
    activations with a scale for each token or observed ones, embedding tables rounded once. Needs
    no labels.

    Ref: Jacob et al. 2018, arXiv:1712.05877; learned steps: Esser et al. 2020, arXiv:1902.08153;
    a float teacher: Zafrir et al. 2019, arXiv:1910.06188 train on labels, this on soft labels.
    """

    kind: Literal["quantize_aware_train"] = "quantize_aware_train"

    about: ClassVar[About] = About(
        group="train",
        summary="Train with int8 simulated, without labels",
        explanation=(
            "Trains with the rounding of int8 simulated, so that the int8 file loses less "
            "accuracy. It stores nothing by itself: quantize_dynamic or quantize_static has to "
            "follow."
        ),
        example="""\
passes:
  - kind: quantize_aware_train
    epochs: 1
  - kind: quantize_dynamic
""",
    )

    learns_from_baseline: ClassVar[tuple[str, object] | None] = ("teacher", "baseline")
    trains_for: ClassVar[TrainedFor | None] = TrainedFor(
        weights="int8",
        way="activations",
        same={
            "activations": None,
            "method": ("activations", "static"),
            "percentile": ("method", "percentile"),
            "rows": ("activations", "static"),
            "embeddings": ("freeze_embeddings", True),
            "embedding_block": ("embeddings", "int4"),
            "matrices": None,
            "matrix_block": ("matrices", "int4"),
        },
    )
    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {*DistillSettings.unwritten_defaults, "matrices", "matrix_block", "rounding"}
    )

    activations: Literal["per_token", "static"] = Field(
        "per_token",
        description="how activations are rounded: each token with its own scale, as the file of "
        "quantize_dynamic does, or with scales observed on calibration rows, as that of "
        "quantize_static; they are observed again when the steps of weights are frozen",
    )
    method: Literal["minmax", "percentile", "mse", "entropy"] = Field(
        "percentile", description="how a static scale is chosen; the same as quantize_static's"
    )
    percentile: float = Field(
        99.99,
        gt=50,
        le=100,
        description="percent of the values inside the range of method percentile; the same as "
        "quantize_static's",
    )
    rows: int = Field(
        512,
        gt=0,
        description="calibration rows, at most, that static scales are observed on, and what "
        "rounding gptq reads; the same as quantize_static's",
    )
    embeddings: Literal["int8", "int4"] = Field(
        "int8", description="how embedding tables are rounded; the same as the later pass's"
    )
    embedding_block: BlockSize = Field(
        32,
        description="weights of an int4 table's row that share one scale; the same as the later "
        "pass's",
    )
    matrices: Literal["int8", "int4"] = Field(
        "int8",
        description="how matrices are rounded: with learned steps to int8, or to int4 in blocks of "
        "a column whose steps stay; the same as the later pass's",
    )
    matrix_block: BlockSize = Field(
        64,
        description="with matrices: int4, weights of a column that share one step; the same as the "
        "later pass's",
    )
    rounding: Literal["nearest", "gptq"] = Field(
        "nearest",
        description="with matrices: int4, what they begin the training as: what they were, which "
        "is rounded to the nearest, or rounded by what that changes in the outputs on `rows` of "
        "the calibration split",
    )
    epochs: float = Field(default=0.5, gt=0, le=1000, description="passes over the training split")
    learning_rate: float = Field(
        default=2e-5, gt=0, le=1, description="peak learning rate of AdamW"
    )
    hidden_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e6,
        description="weight of the relative squared error of hidden states",
    )
    freeze_embeddings: bool = Field(
        default=True,
        description="round embedding tables to int8 before the training and leave them so; false "
        "trains them in float, and their rounding is not simulated",
    )
    dropout: Literal[False] = Field(
        default=False,
        description="always off: next to what rounding changes, dropout is far larger a noise",
    )
    teacher: Literal["input", "baseline"] = Field(
        "input",
        description="whose predictions to learn: those of the model as the passes before left it, "
        "or the untouched checkpoint's",
    )
    frozen_steps_ratio: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="fraction of the training, at its end, in which the step sizes of weights stay "
        "as they are",
    )
    min_elements: int = Field(
        2048,
        ge=0,
        description="smallest number of weights in a matrix or table worth quantizing; the same as "
        "quantize_dynamic's",
    )
    measured_rows: int = Field(
        512,
        gt=0,
        description="calibration rows, at most, on which predictions are compared with the "
        "teacher's before and after",
    )

    keep_if_worse: bool = Field(
        False,
        description="keep the training also where its predictions are no nearer to the teacher's "
        "on the calibration rows than those of the model that was only rounded; false then gives "
        "the model back as it was",
    )

    @model_validator(mode="after")
    def _rounds_four_bits(self) -> Self:
        if self.rounding != "nearest" and self.matrices != "int4":
            raise ValueError(
                f"rounding: {self.rounding} is for matrices in four bits; write matrices: int4, or "
                f"leave it out"
            )
        return self

    @model_validator(mode="after")
    def _ends_with_frozen_scales(self) -> Self:
        if (name := self.gives_other_weights) is not None:
            raise ValueError(
                f"{name} ends with weights of earlier steps, and the scales that int8 is stored "
                f"with are those of the last ones; remove it"
            )
        return self

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return what storing the weights saves."""
        return int8_on_cpu(parts)

    def milder(self) -> Iterator[Self]:
        """Yield longer training."""
        yield from longer(self)

    def unfit_to(self, files: CheckpointFiles, untouched: CheckpointFiles) -> Unfit:  # noqa: ARG002
        """Yield the pass itself for a model type whose int8 file is not simulated."""
        if (refusal := not_simulated(files.config)) is not None:
            yield "kind", refusal
        elif self.activations == "static" and family_of(files.config["model_type"]).shares_layers:
            yield (
                "activations",
                f"static has one scale for each layer, and the layers of model type "
                f"'{files.config['model_type']}' share one set of weights, so their "
                f"scales would differ in the file; use per_token",
            )

    def required_splits(self) -> frozenset[str]:
        """Return the splits to train on and to measure on."""
        return frozenset({"train", "calibration"})

    def calibration_rows_wanted(self) -> int:
        """Return the rows that predictions are compared on, or layers observed on."""
        observes = self.activations == "static" or self.rounding == "gptq"
        return max(self.measured_rows, self.rows if observes else 0)

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return the training, whose simulation takes about half as long again, and measuring."""
        training = training_effort(self, num_rows)
        measured = reading_effort(num_rows, self.calibration_rows_wanted(), times=4)
        return measured + Effort(1.5 * training.rows, training.seconds)
