"""Fine-tuning as a step of a recipe: to specialise a checkpoint, or to repair it after a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from compressor.passes.base import About, TorchPass
from compressor.passes.effort import Effort, training_effort
from compressor.passes.repair import longer
from compressor.passes.saving import ModelParts, Saving, unsupported
from compressor.training.settings import FinetuneSettings


class Finetune(FinetuneSettings, TorchPass):
    """Train on the labels of the training split with AdamW.

    Ref: Loshchilov & Hutter 2019, arXiv:1711.05101.
    """

    kind: Literal["finetune"] = "finetune"

    about: ClassVar[About] = About(
        group="train",
        summary="Train on your labels",
        explanation=(
            "Trains every weight on the labels of the train split. Put it first when the "
            "checkpoint was never trained for your data, or after a pruning pass to win accuracy "
            "back."
        ),
        example="""\
passes:
  - kind: finetune
    epochs: 3
    learning_rate: 3e-5
""",
    )

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return that the size stays."""
        if "labels" not in parts.task.abilities:
            return unsupported("trains on labels of classes; distill needs none")
        return Saving(None, None, "recovers accuracy; the size stays")

    def milder(self) -> Iterator[Self]:
        """Yield longer training."""
        yield from longer(self)

    def required_splits(self) -> frozenset[str]:
        """Return the training split."""
        return frozenset({"train"})

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return the training."""
        return training_effort(self, num_rows)
