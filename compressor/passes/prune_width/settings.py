"""Pruning of the hidden size: fewer features in the residual stream, everywhere at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compressor.models.families.prunable import WIDTH, unprunable, width_of
from compressor.passes.base import (
    ROWS_TO_CHOOSE_FROM,
    About,
    TorchPass,
    Unfit,
)
from compressor.passes.effort import Effort, reading_effort, training_effort
from compressor.passes.repair import HALF, halfway, ladder, longer, lower, wider
from compressor.passes.saving import ModelParts, Saving, unsupported
from compressor.training.settings import DistillSettings, Need, Recovery, label_setting_of

if TYPE_CHECKING:
    from compressor.models.checkpoint import CheckpointFiles

# Importance that is measured on the data.
READS_ROWS = ("activation", "variance", "reconstruction")
_OWN_WIDTH = Need(
    "kind",
    "own_width",
    "makes vectors as narrow as the residual stream, and an index of the untouched checkpoint's "
    "could not be searched with them; use prune_structured, which keeps their width",
)
_MULTIPLE = 64  # kernels on every device like widths that are multiples of this


def nearest_multiples(width: int, round_to: int) -> str:
    """Name the multiples of `round_to` on both sides of `width`, without 0."""
    lower = width // round_to * round_to
    return f"{lower} or {lower + round_to}" if lower else str(round_to)


class PruneWidth(TorchPass):
    """Make the residual stream narrower: embeddings, norms, all projections, pooler, classifier.

    Heads and feed-forward neurons stay, and so does the width of a head. Of the features of the
    stream those of least importance go; then, from the bottom up, least squares on unlabelled
    calibration rows fits what reads and what writes the stream. It is the one pruning that makes
    the rows of embedding tables shorter. One row is enough to run: where rows are few, rows of the
    train split are read too, and a fit is made where it helps on rows left out.

    Where speed alone counts, `prune_structured` is the better pass. Measured on a 6-layer, 384-wide
    MiniLM (SST-2, 872 dev rows, 89.68% before; one seed, 1,024 unlabelled rows, no training): 320
    features 88.76% with 18.9 of 22.7 million parameters, 256 features 87.04% with 15.1 million, 86
    CPU seconds each on one thread. 256 features are a third of the encoder's FLOPs; removing a
    third with `prune_structured` by reconstruction gave 89.45% with 19.2 million, in 51 s.

    Ref: dependency graph: Fang et al. 2023, arXiv:2301.12900; which features matter and removing
    the width: Muralidharan et al. 2024, arXiv:2407.14679; the least squares: He et al. 2017,
    arXiv:1707.06168, there for channels of convolutions.
    """

    kind: Literal["prune_width"] = "prune_width"

    about: ClassVar[About] = About(
        group="prune",
        summary="Make the hidden size smaller",
        explanation=(
            "Removes features of the hidden size, which shortens every row of the embedding "
            "tables and every matrix. Take it when the size of the file counts most; for speed "
            "prune_structured loses less."
        ),
        example="""\
passes:
  - kind: prune_width
    ratio: 0.2
""",
    )

    ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="fraction of the hidden size to remove, to the nearest multiple of `round_to`",
    )
    width: int | None = Field(
        None, gt=0, description="the new hidden size, in features, in place of `ratio`"
    )
    round_to: int | None = Field(
        None,
        gt=0,
        le=1024,
        description=(
            "make the new hidden size a multiple of this many features; left out, 16, or 64 on CUDA"
        ),
    )
    importance: Literal["random", "magnitude", "activation", "variance", "reconstruction"] = Field(
        "reconstruction",
        description=(
            "how features are ranked: random by chance; magnitude by the norm of all weights "
            "along them; activation and variance by the mean square or the variance of what "
            "linear layers read on the calibration split; reconstruction by how much the outputs "
            "of those layers lose when the features that stay make up for them as well as they "
            "can; none of them needs labels"
        ),
    )
    compensate: bool = Field(
        True,
        description=(
            "correct projections and normalisations by least squares on calibration rows after "
            "features were removed"
        ),
    )
    ridge: float = Field(
        1e-3,
        ge=0,
        le=1,
        description=(
            "how firmly least squares holds weights to their old values, as a fraction of the mean "
            "diagonal of the Gram matrix of a layer's inputs; where calibration rows are few, the "
            "least: each layer gets the one with which rows left out of the fit come out best"
        ),
    )
    calibration_rows: int = Field(
        1024, gt=0, description="number of calibration rows to measure on, at most"
    )
    recovery: Recovery | None = Field(
        None, description="training after pruning, `kind: finetune` or `kind: distill`"
    )

    @model_validator(mode="after")
    def _says_how_much(self) -> Self:
        if (self.ratio is None) == (self.width is None):
            raise ValueError("give one of ratio and width, the fraction that goes or what stays")
        if self.width is not None and self.round_to and self.width % self.round_to:
            raise ValueError(
                f"width {self.width} is not a multiple of round_to {self.round_to}; use "
                f"{nearest_multiples(self.width, self.round_to)}, or another round_to"
            )
        return self

    @model_validator(mode="after")
    def _compares_what_has_one_width(self) -> Self:
        if isinstance(self.recovery, DistillSettings) and self.recovery.sublayer_weight > 0:
            raise ValueError(
                "recovery.sublayer_weight compares outputs of one width, and this pass makes the "
                "student narrower than its teacher; use recovery.hidden_weight, which compares the "
                "features that stay"
            )
        return self

    @property
    def reads_rows(self) -> bool:
        """Return whether the calibration split is read."""
        return self.compensate or self.importance in READS_ROWS

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return all that is as wide as the residual stream."""
        if parts.no_prunable_width is not None:
            return unsupported(parts.no_prunable_width)
        if _OWN_WIDTH.ability not in parts.task.abilities:
            return unsupported(_OWN_WIDTH.why)
        reason = "all that is as wide as the residual stream; one feature has to stay"
        return Saving(parts.width_bytes, parts.layers_flops_share, reason)

    def milder(self) -> Iterator[Self]:
        """Yield lower ratios, or greater widths; then, at half or the first, longer recovery."""
        if self.width is None:
            yield from ladder(self, "ratio")
            half = lower(self, "ratio", share=HALF)
        else:
            offers = [
                self.model_copy(update={"width": width})
                for width in wider(self.width, self.round_to or _MULTIPLE)
            ]
            yield from offers
            half = offers[0]
        if self.recovery is not None:
            for recovery in longer(self.recovery):
                yield half.model_copy(update={"recovery": recovery})

    def halfway(self, milder: Self) -> Self | None:
        """Return the ratio, or the width, between this one and that of `milder`."""
        if self.ratio is not None:
            return halfway(self, milder, "ratio")
        assert self.width is not None
        assert milder.width is not None
        step = self.round_to or _MULTIPLE
        width = (self.width + milder.width) // (2 * step) * step
        between = milder.model_copy(update={"width": width})
        is_line = milder.model_copy(update={"width": self.width}) == self
        return between if is_line and self.width < width < milder.width else None

    def at_share(self, share: float) -> Self | None:
        """Return the ratio at `share` of its value; None when a width is given."""
        return lower(self, "ratio", share=share) if self.ratio is not None else None

    def needs(self) -> Iterator[Need]:
        """Yield outputs that do not become narrower with the hidden size."""
        yield _OWN_WIDTH
        yield from super().needs()

    def unfit_to(self, files: CheckpointFiles, untouched: CheckpointFiles) -> Unfit:  # noqa: ARG002
        """Yield the pass itself for a model type that is not known, and a width that is no less."""
        if (refusal := unprunable(files.config)) is not None:
            yield "kind", refusal
            return
        before = width_of(files.config)
        if self.width is not None and before is not None and self.width >= before:
            yield (
                "width",
                f"the model is {before} wide, so a narrower one has 1 to {before - 1}, got "
                f"{self.width}",
            )

    def leaves(self, files: CheckpointFiles) -> CheckpointFiles:
        """Return the checkpoint without its width, which is then another one."""
        known = {name: value for name, value in files.config.items() if name not in WIDTH}
        return replace(files, config=known)

    @property
    def label_setting(self) -> str | None:
        """Return what makes the recovery train on labels."""
        return label_setting_of(self.recovery)

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when something is measured, train when there is recovery."""
        splits = {"calibration"} if self.reads_rows else set()
        return frozenset(splits if self.recovery is None else {*splits, "train"})

    def calibration_rows_wanted(self) -> int:
        """Return four times what is read, because long rows are preferred."""
        return ROWS_TO_CHOOSE_FROM * self.calibration_rows if self.reads_rows else 0

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return what is measured and fitted, and the recovery."""
        measured = reading_effort(num_rows, self.calibration_rows if self.reads_rows else 0, 12)
        return (
            Effort(seconds=1.0)
            + measured
            + training_effort(self.recovery, num_rows, student=1 - (self.ratio or 0.3))
        )

    def spare_rows_wanted(self) -> int:
        """Return what is read, for least squares."""
        return self.calibration_rows if self.compensate else 0
