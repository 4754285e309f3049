"""The settings of a training run, as a recipe writes them; free of torch.

`finetune`, `distill` and the recovery after pruning share these, so that a setting has one name,
one default and one description everywhere.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingSettings(BaseModel):
    """How long and how fast to train."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: float = Field(default=1.0, gt=0, le=1000, description="passes over the training split")
    max_steps: int | None = Field(
        default=None, gt=0, description="optimizer steps at most, whatever `epochs` says"
    )
    learning_rate: float = Field(
        default=5e-5, gt=0, le=1, description="peak learning rate of AdamW"
    )
    batch_size: int = Field(default=32, gt=0, le=65536, description="examples per optimizer step")
    weight_decay: float = Field(default=0.01, ge=0, lt=1, description="AdamW weight decay")
    warmup_ratio: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="fraction of the steps in which the learning rate rises",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="learning rate after the warm-up"
    )
    freeze_embeddings: bool = Field(
        default=False, description="leave the embedding tables as they are"
    )


class FinetuneSettings(TrainingSettings):
    """Train on the labels alone."""


class DistillSettings(TrainingSettings):
    """Train towards a teacher (Hinton et al. 2015, arXiv:1503.02531)."""

    temperature: float = Field(
        default=2.0, gt=0, le=100, description="softens both distributions of logits"
    )
    logits_weight: float = Field(
        default=1.0, ge=0, le=1e6, description="weight of the KL loss on logits"
    )
    hidden_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="weight of the relative squared error of hidden states",
    )
    attention_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="weight of the KL loss on attention maps, averaged over heads",
    )
    label_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="weight of cross-entropy on labels; 0 needs no labels",
    )

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        weights = (
            self.logits_weight,
            self.hidden_weight,
            self.attention_weight,
            self.label_weight,
        )
        if not any(weights):
            raise ValueError(
                "logits_weight, hidden_weight, attention_weight and label_weight are all 0, so "
                "there is nothing to learn; set at least one above 0"
            )
        return self


class FinetuneRecovery(FinetuneSettings):
    """Recover after pruning by training on the labels."""

    kind: Literal["finetune"] = "finetune"


class DistillRecovery(DistillSettings):
    """Recover after pruning by distillation from the untouched checkpoint."""

    kind: Literal["distill"] = "distill"


Recovery = Annotated[FinetuneRecovery | DistillRecovery, Field(discriminator="kind")]
