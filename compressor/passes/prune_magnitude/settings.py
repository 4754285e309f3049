"""Unstructured pruning: the smallest weights become zero, and the shapes stay as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compressor.passes.base import About, TorchPass
from compressor.passes.effort import Effort, training_effort
from compressor.passes.repair import HALF, halfway, ladder, longer, lower
from compressor.passes.saving import ModelParts, Saving
from compressor.training.settings import FinetuneSettings

if TYPE_CHECKING:
    pass


class PruneMagnitude(TorchPass):
    """Set the weights of smallest magnitude to zero and hold them there during fine-tuning.

    It covers the weights of linear and convolution layers in the encoder; the classification head
    stays. Zeros make the compressed file smaller. A dense runtime computes with them all the same
    and gets no faster: use `prune_structured` for speed.

    Ref: Han et al. 2015, arXiv:1506.02626; gradual schedule: Zhu & Gupta 2017, arXiv:1710.01878.
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

    sparsity: float = Field(
        gt=0, lt=1, description="fraction of the covered weights that become zero"
    )
    scope: Literal["global", "layer"] = Field(
        "global",
        description=(
            "global ranks the weights of all layers together, layer gives every layer the same "
            "sparsity"
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

    def milder(self) -> Iterator[Self]:
        """Yield lower sparsities; then, at half of the sparsity, longer fine-tuning."""
        yield from ladder(self, "sparsity")
        if self.finetune is not None:
            for training in longer(self.finetune):
                half = lower(self, "sparsity", share=HALF)
                yield half.model_copy(update={"finetune": training})

    def halfway(self, milder: Self) -> Self | None:
        """Return the sparsity between this one and that of `milder`."""
        return halfway(self, milder, "sparsity")

    def at_share(self, share: float) -> Self | None:
        """Return the sparsity at `share` of its value."""
        return lower(self, "sparsity", share=share)

    @property
    def label_setting(self) -> str | None:
        """Return the fine-tuning, where there is one."""
        return None if self.finetune is None else "finetune"

    def required_splits(self) -> frozenset[str]:
        """Return the training split when fine-tuning is asked for."""
        return frozenset() if self.finetune is None else frozenset({"train"})

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return the fine-tuning; masking alone takes next to nothing."""
        return Effort(seconds=1.0) + training_effort(self.finetune, num_rows)
