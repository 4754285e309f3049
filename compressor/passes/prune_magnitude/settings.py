"""Unstructured pruning: single weights become zero, and the shapes stay as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from compressor.passes.base import (
    FEWEST_TO_COUNT,
    About,
    TorchPass,
    Unfit,
    too_few_to_count,
)
from compressor.passes.effort import Effort, reading_effort, training_effort
from compressor.passes.repair import HALF, halfway, ladder, longer, lower
from compressor.passes.saving import ModelParts, Saving
from compressor.training.settings import FinetuneSettings, Need

# Importance that reads the inputs of matrices, of which some counts them in histograms.
_COUNTS = ("entropy", "mutual_information")
_READS_INPUTS = ("activation", *_COUNTS)
_READS_ROWS = ("taylor", *_READS_INPUTS)
_SHARE_OF_PATTERN = 0.5


class PruneMagnitude(TorchPass):
    """Set the weights of least importance to zero and hold them there during fine-tuning.

    It covers the weights of linear and convolution layers in the encoder; the classification head
    stays. Importance is by default the magnitude of a weight. Zeros make the compressed file
    smaller. A dense runtime computes with them all the same and gets no faster: use
    `prune_structured` for speed. With `pattern: "2:4"` two of every four neighbouring inputs stay,
    which NVIDIA GPUs with sparse tensor cores have kernels for.

    Ref: Han et al. 2015, arXiv:1506.02626; gradual schedule: Zhu & Gupta 2017, arXiv:1710.01878;
    activation and scope row: Sun et al. 2023, arXiv:2306.11695 (Wanda); taylor: Lee et al. 2019,
    arXiv:1810.02340 (SNIP); entropy: Luo & Wu 2017, arXiv:1706.05791; mutual information: Amjad et
    al. 2018, arXiv:1804.06679 (both of neurons, here of what a weight reads); 2:4: Mishra et al.
    2021, arXiv:2104.08378.
    """

    kind: Literal["prune_magnitude"] = "prune_magnitude"

    about: ClassVar[About] = About(
        group="prune",
        summary="Zero small weights: only smaller zipped",
        explanation=(
            "Sets the smallest weights to zero. The file becomes smaller when it is compressed, "
            "such as for a download; it does not run faster."
        ),
        example="""\
passes:
  - kind: prune_magnitude
    sparsity: 0.5
""",
    )
    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {"importance", "pattern", "calibration_rows"}
    )

    sparsity: float = Field(
        gt=0, lt=1, description="fraction of the covered weights that become zero"
    )
    importance: Literal[
        "magnitude", "random", "activation", "taylor", "entropy", "mutual_information"
    ] = Field(
        "magnitude",
        description=(
            "how to rank weights: magnitude by their size; random by chance; the others multiply "
            "the size by what is measured on the calibration split: activation by the norm of what "
            "a weight reads, entropy by the entropy of that over rows, both without labels, "
            "mutual_information by what that tells of the label, taylor by the gradient of the loss"
        ),
    )
    pattern: Literal["2:4"] | None = Field(
        None,
        description=(
            "keep two of every four neighbouring inputs of each output of a matrix, for sparse "
            "tensor cores of NVIDIA GPUs; sparsity is then 0.5 and can be left out; convolutions "
            "and embeddings stay dense"
        ),
    )
    calibration_rows: int = Field(
        256,
        gt=0,
        description="number of calibration rows to measure importance on, at most",
    )
    scope: Literal["global", "layer", "row"] = Field(
        "global",
        description=(
            "global ranks the weights of all layers together, layer gives every layer the same "
            "sparsity, row every output of every layer"
        ),
    )
    schedule: Literal["one_shot", "cubic"] = Field(
        "one_shot",
        description=(
            "one_shot sets all to zero before fine-tuning, cubic sets more and more to zero "
            "during it"
        ),
    )
    ramp_ratio: float | None = Field(
        None,
        gt=0,
        le=1,
        description=(
            "with schedule cubic, the fraction of the fine-tuning steps after which the full "
            "sparsity is reached; left out, 0.7"
        ),
    )
    include_embeddings: bool = Field(
        False,
        description="also cover the embedding tables and the projection of image patches",
    )
    finetune: FinetuneSettings | None = Field(
        None,
        description="how to train afterwards while the zeros stay zero; schedule cubic needs it",
    )

    @model_validator(mode="before")
    @classmethod
    def _pattern_says_how_much(cls, given: object) -> object:
        if isinstance(given, Mapping) and given.get("pattern") and "sparsity" not in given:
            return {**given, "sparsity": _SHARE_OF_PATTERN}
        return given

    @model_validator(mode="after")
    def _pattern_is_whole(self) -> Self:
        if self.pattern is None:
            return self
        if self.sparsity != _SHARE_OF_PATTERN:
            raise ValueError(
                f"pattern {self.pattern} sets half of the weights to zero, got sparsity "
                f"{self.sparsity:g}; leave sparsity out"
            )
        wrong = [
            f"{name}: {value}"
            for name, value, is_wrong in (
                ("scope", self.scope, self.scope != "global"),
                ("schedule", self.schedule, self.schedule != "one_shot"),
                ("include_embeddings", "true", self.include_embeddings),
            )
            if is_wrong
        ]
        if wrong:
            raise ValueError(
                f"pattern {self.pattern} takes two of every four inputs of each matrix at once, so "
                f"{' and '.join(wrong)} would do nothing; remove it"
            )
        return self

    @model_validator(mode="after")
    def _importance_is_measured(self) -> Self:
        if self.include_embeddings and self.importance in _READS_INPUTS:
            raise ValueError(
                f"importance {self.importance} measures what a matrix reads, and embeddings read "
                f"numbers of words; leave include_embeddings out, or use magnitude or taylor"
            )
        rows = type(self).model_fields["calibration_rows"].default
        if self.calibration_rows != rows and not self.reads_rows:
            raise ValueError(
                f"calibration_rows would do nothing with importance {self.importance}, which reads "
                f"no rows; remove it, or use activation, taylor, entropy or mutual_information"
            )
        return self

    @model_validator(mode="after")
    def _schedule_is_complete(self) -> Self:
        if self.schedule == "cubic" and self.finetune is None:
            raise ValueError(
                "schedule 'cubic' prunes while it fine-tunes; add finetune (at least "
                "`finetune: {}`) or use schedule 'one_shot'"
            )
        training = self.finetune
        if self.schedule == "cubic" and training is not None and training.gives_other_weights:
            raise ValueError(
                f"finetune.{training.gives_other_weights} ends with weights of earlier steps, when "
                f"schedule 'cubic' had pruned less; remove it, or use schedule 'one_shot'"
            )
        if self.schedule != "cubic" and self.ramp_ratio is not None:
            raise ValueError(
                f"ramp_ratio belongs to schedule 'cubic' and would do nothing with "
                f"'{self.schedule}'; remove it"
            )
        return self

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:  # noqa: ARG003
        """Return nothing: shapes stay as they are."""
        return Saving(0, 0.0, "zeros show only after compression, such as gzip")

    @property
    def reads_rows(self) -> bool:
        """Return whether importance is measured on calibration rows."""
        return self.importance in _READS_ROWS

    def milder(self) -> Iterator[Self]:
        """Yield lower sparsities; then, at half of the sparsity, longer fine-tuning.

        A pattern has one sparsity.
        """
        if self.pattern is None:
            yield from ladder(self, "sparsity")
        if self.finetune is not None:
            for training in longer(self.finetune):
                half = self if self.pattern else lower(self, "sparsity", share=HALF)
                yield half.model_copy(update={"finetune": training})

    def halfway(self, milder: Self) -> Self | None:
        """Return the sparsity between this one and that of `milder`."""
        return halfway(self, milder, *([] if self.pattern else ["sparsity"]))

    def at_share(self, share: float) -> Self | None:
        """Return the sparsity at `share` of its value; None with a pattern, which has one."""
        return None if self.pattern else lower(self, "sparsity", share=share)

    def needs(self) -> Iterator[Need]:
        """Yield labels for what compares with them, and what the fine-tuning needs."""
        if self.importance == "taylor":
            yield Need(
                "importance",
                "labels",
                "taylor is the gradient of a loss on labels, and where a model is compared with "
                "its own vectors that gradient is 0; use activation, entropy or magnitude",
            )
        if self.importance == "mutual_information":
            yield Need(
                "importance",
                "classes",
                "mutual_information compares activations with labels that are one class of "
                "several, and those of {task} are not; use entropy or activation",
            )
        yield from super().needs()

    def unfit_rows(self, num_rows: Mapping[str, int]) -> Unfit:
        """Yield the importance where rows are too few to count what matrices read."""
        rows = num_rows.get("calibration", FEWEST_TO_COUNT)
        if self.importance in _COUNTS and rows < FEWEST_TO_COUNT:
            yield "importance", too_few_to_count(self.importance, rows)

    @property
    def label_setting(self) -> str | None:
        """Return the fine-tuning, where there is one."""
        return None if self.finetune is None else "finetune"

    @property
    def calibration_label_setting(self) -> str | None:
        """Return the importance where it compares activations with labels."""
        return "importance" if self.importance == "mutual_information" else None

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split to measure on, and the training split to fine-tune."""
        splits = {"calibration"} if self.reads_rows else set()
        return frozenset(splits if self.finetune is None else {*splits, "train"})

    def calibration_rows_wanted(self) -> int:
        """Return `calibration_rows` when importance is measured."""
        return self.calibration_rows if self.reads_rows else 0

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return what is measured, and the fine-tuning; masking alone takes next to nothing."""
        found = Effort(seconds=1.0) + training_effort(self.finetune, num_rows)
        if self.reads_rows:
            found += reading_effort(num_rows, self.calibration_rows, times=3)
        return found
