"""The settings of a distillation and of the recovery after pruning; free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compressor.paths import LocalPath
from compressor.training.settings import FinetuneSettings, Need, TrainingSettings, mixup_field
from compressor.words import listing

# The settings that change texts before teacher and student read them.
CHANGES = ("join_probability", "mask_probability", "drop_probability", "replace_probability")
LAYER_WEIGHTS = "hidden_weight, attention_weight, sublayer_weight and relation_weight"
Relation = Literal["queries", "keys", "values"]


def other_inputs(found: str, *, mixes: bool = False) -> str:
    """Return the sentence that refuses a teacher which reads examples otherwise, as `found` says.

    `mixes` says that it is for mixed examples; else it is for layers.
    """
    why = f"their layers cannot be compared; set {LAYER_WEIGHTS} to 0"
    if mixes:
        why = "they cannot be given the same mixed examples; set mixup_alpha to 0"
    return (
        f"the teacher reads examples in another way than the student ({found}), so {why}, or "
        f"take a teacher with the student's tokenizer or image processor"
    )


class DistillSettings(TrainingSettings):
    """Train towards a teacher (Hinton et al. 2015, arXiv:1503.02531)."""

    layer_weights: ClassVar[tuple[str, ...]] = (  # of the losses that compare more than logits
        "hidden_weight",
        "attention_weight",
        "sublayer_weight",
        "relation_weight",
    )

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {
            *TrainingSettings.unwritten_defaults,
            "margin_weight",
            "logits_loss",
            "teacher_cache",
            "alignment",
            "mixup_alpha",
            "replace_probability",
        }
    )

    temperature: float = Field(
        default=2.0,
        ge=0.01,
        le=100,
        description=(
            "divides the logits of student and teacher before they are compared; larger values "
            "weigh the less likely classes more"
        ),
    )
    logits_weight: float = Field(
        default=1.0,
        ge=0,
        le=1e6,
        description=(
            "weight of the loss on the teacher's predictions: KL divergence of the logits, for "
            "vectors their relative squared error, for scores their squared error"
        ),
    )
    hidden_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="weight of the loss on hidden states, their relative squared error",
    )
    attention_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="weight of the loss on attention maps averaged over heads, their KL divergence",
    )
    sublayer_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description=(
            "weight of the loss on what each attention and each feed-forward network adds, its "
            "relative squared error, where student and teacher both have one"
        ),
    )
    relation_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description=(
            "weight of the loss on self-attention relations in the student's last layer, their KL "
            "divergence; the student may have any width and number of heads"
        ),
    )
    relation_heads: int | None = Field(
        default=None,
        gt=0,
        description=(
            "number of parts that queries, keys and values are split into for relations; left "
            "out, the teacher's number of attention heads"
        ),
    )
    relation_layer: int | None = Field(
        default=None,
        ge=0,
        description="teacher layer whose relations are learnt, counted from 0; left out, the last",
    )
    relations: tuple[Relation, ...] = Field(
        default=("queries", "keys", "values"),
        min_length=1,
        description="what relations are computed from; values alone is the first version of MiniLM",
    )
    margin_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description=(
            "for text-scoring, weight of the loss on how far apart the candidates of a query are "
            "scored, the squared error of differences towards the teacher's (margin-MSE); batches "
            "are then made of whole queries, as data.group says, up to batch_size"
        ),
    )
    label_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description=(
            "weight of the loss on labels, their cross-entropy; 0 needs no labels; texts that "
            "were joined from different classes have no label"
        ),
    )

    logits_loss: Literal["kl", "mse"] = Field(
        default="kl",
        description=(
            "how predictions are compared: kl is the KL divergence at the temperature, mse the "
            "mean squared difference of the logits themselves"
        ),
    )
    alignment: Literal["leaf"] | None = Field(
        default=None,
        description=(
            "for vectors, leaf learns the teacher's very vectors by their plain squared distance; "
            "in a pass of its own, a student whose vectors have another width gets a matrix to the "
            "teacher's, which is trained with it and ships, so that an index of the teacher's "
            "vectors can be searched"
        ),
    )
    teacher_cache: LocalPath | None = Field(
        default=None,
        description=(
            "folder to keep the teacher's outputs for the training split in, relative to the "
            "recipe, for every training with the same teacher and rows; they are computed once, "
            "before the training, and read from the disk"
        ),
    )
    mixup_alpha: float = mixup_field("what the teacher says of the mixed one")
    join_probability: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "probability that a text, or a list of words, is joined with another one, so that the "
            "teacher's prediction is less certain; for short single texts that the teacher was "
            "trained on"
        ),
    )
    mask_probability: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability that a word is replaced with the mask token",
    )
    drop_probability: float = Field(
        default=0.0, ge=0, lt=1, description="probability that a word is left out"
    )
    replace_probability: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "probability that a word gives way to one of the 15 words of the training split that "
            "lie nearest to it in the teacher's table, where the teacher has one piece for it"
        ),
    )

    @property
    def label_setting(self) -> str | None:
        """Return `label_weight` where it is above 0."""
        return "label_weight" if self.label_weight > 0 else None

    def needs(self) -> Iterator[Need]:
        """Yield labels where they are weighed, and logits where they are softened otherwise."""
        yield from super().needs()
        if self.label_weight > 0:
            yield Need(
                "label_weight",
                "labels",
                "weighs a loss on labels of classes, and {task} has none; set it to 0",
            )
        if self.margin_weight > 0:
            yield Need(
                "margin_weight",
                "margins",
                "compares the scores of a query's candidates, and {task} gives none; set it to 0",
            )
        if self.mixup_alpha > 0:
            yield Need(
                "mixup_alpha",
                "blends",
                "mixes two examples, of which {task} has more than one output each; remove it",
            )
        if self.mixup_alpha > 0 and self.label_weight > 0:
            yield Need(
                "mixup_alpha",
                "mixes",
                "mixes the labels of two examples too, which those of {task} do not allow; set "
                "label_weight to 0",
            )
        if self.alignment is not None:
            yield Need(
                "alignment",
                "vectors",
                "compares vectors, and {task} gives none; remove it",
            )
        if self.logits_loss != "kl":
            yield Need(
                "logits_loss",
                "logits",
                "compares logits of classes, and {task} has none: what it gives is compared by "
                "squared errors already; remove it",
            )
        if self.temperature != DistillSettings.model_fields["temperature"].default:
            yield Need(
                "temperature",
                "logits",
                "softens logits of classes, and {task} has none; remove it",
            )

    @property
    def augments(self) -> bool:
        """Return whether texts are changed before teacher and student read them."""
        return any(getattr(self, name) for name in CHANGES)

    @property
    def reads_outputs(self) -> bool:
        """Return whether a teacher's outputs are learnt from, as they are or by their margins."""
        return self.logits_weight > 0 or self.margin_weight > 0

    @property
    def compares_layers(self) -> bool:
        """Return whether anything but logits and labels is learnt from."""
        return any(getattr(self, name) for name in self.layer_weights)

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        on_outputs = self.logits_weight or self.margin_weight or self.label_weight
        if not (on_outputs or self.compares_layers):
            raise ValueError(
                "logits_weight, hidden_weight, attention_weight, sublayer_weight, "
                "relation_weight, margin_weight and label_weight are all 0, so there is nothing to "
                "learn; set at least one above 0"
            )
        return self

    @model_validator(mode="after")
    def _margins_are_of_whole_queries(self) -> Self:
        if self.margin_weight and self.augments:
            raise ValueError(
                "margin_weight compares the candidates of a query, and texts that are changed "
                f"belong to none; set {listing(CHANGES)} to 0, or margin_weight"
            )
        if self.margin_weight and self.accumulation_steps > 1:
            raise ValueError(
                "margin_weight compares the candidates of a query, and accumulation_steps computes "
                "them apart; set accumulation_steps to 1 and take a smaller batch_size"
            )
        return self

    @model_validator(mode="after")
    def _logits_are_compared(self) -> Self:
        if self.logits_loss == "mse":
            if self.temperature != DistillSettings.model_fields["temperature"].default:
                raise ValueError(
                    "temperature softens logits for the KL divergence, and would do nothing with "
                    "logits_loss mse; remove it"
                )
            if self.logits_weight == 0:
                raise ValueError(
                    "logits_loss would do nothing with logits_weight 0; remove it, or set "
                    "logits_weight above 0"
                )
        return self

    @model_validator(mode="after")
    def _vectors_are_compared(self) -> Self:
        if self.alignment is not None and self.logits_weight == 0:
            raise ValueError(
                "alignment would do nothing with logits_weight 0; remove it, or set logits_weight "
                "above 0"
            )
        return self

    @model_validator(mode="after")
    def _mixed_examples_are_compared(self) -> Self:
        others = [
            name
            for name in (*self.layer_weights, "margin_weight", "teacher_cache")
            if getattr(self, name)
        ]
        if self.mixup_alpha and others:
            raise ValueError(
                f"mixup_alpha compares what student and teacher give for mixed examples, which "
                f"{' and '.join(others)} cannot; remove mixup_alpha, or set "
                f"{' and '.join(others)} to {'null' if others == ['teacher_cache'] else '0'}"
            )
        if self.mixup_alpha and self.logits_weight == 0:
            raise ValueError(
                "mixup_alpha would do nothing with logits_weight 0; remove it, or set "
                "logits_weight above 0"
            )
        return self

    @model_validator(mode="after")
    def _outputs_can_be_kept(self) -> Self:
        if self.teacher_cache is None:
            return self
        if self.augments:
            raise ValueError(
                f"teacher_cache keeps outputs for the rows as they are, and {listing(CHANGES)} "
                f"change them; remove it, or set those to 0"
            )
        if self.compares_layers:
            raise ValueError(
                "teacher_cache keeps outputs alone, and hidden_weight, attention_weight, "
                "sublayer_weight and relation_weight need the teacher's layers; remove it, or set "
                "those to 0"
            )
        if not self.reads_outputs:
            raise ValueError(
                "teacher_cache would do nothing where no output of a teacher is learnt from; "
                "remove it, or set logits_weight or margin_weight above 0"
            )
        return self

    @model_validator(mode="after")
    def _labels_are_read(self) -> Self:
        given = [name for name in ("label_smoothing", "class_weights") if getattr(self, name)]
        if given and self.label_weight == 0:
            raise ValueError(
                f"{' and '.join(given)} would do nothing without a loss on labels; set "
                f"label_weight above 0, or remove {' and '.join(given)}"
            )
        return self

    @model_validator(mode="after")
    def _layers_are_kept(self) -> Self:
        if self.gradient_checkpointing and self.compares_layers:
            raise ValueError(
                "gradient_checkpointing keeps nothing of what layers compute, and hidden_weight, "
                "attention_weight, sublayer_weight and relation_weight compare it; remove it, or "
                "set those to 0 and take accumulation_steps to save memory"
            )
        return self

    @model_validator(mode="after")
    def _relations_are_used(self) -> Self:
        fields = type(self).model_fields
        given = [
            name
            for name in ("relation_heads", "relation_layer", "relations")
            if getattr(self, name) != fields[name].default
        ]
        if given and self.relation_weight == 0:
            raise ValueError(
                f"{' and '.join(given)} would do nothing without relation_weight; set "
                f"relation_weight above 0, or leave {' and '.join(given)} out"
            )
        if len(set(self.relations)) != len(self.relations):
            raise ValueError(f"relations: list each once, got {list(self.relations)}")
        return self


class FinetuneRecovery(FinetuneSettings):
    """Recover after pruning by training on the labels."""

    kind: Literal["finetune"] = "finetune"


class DistillRecovery(DistillSettings):
    """Recover after pruning by distillation from the untouched checkpoint."""

    kind: Literal["distill"] = "distill"


Recovery = Annotated[FinetuneRecovery | DistillRecovery, Field(discriminator="kind")]


def label_setting_of(recovery: Recovery | None) -> str | None:
    """Return the setting of a pass that makes its `recovery` read labels; None when none does."""
    own = None if recovery is None else recovery.label_setting
    return None if own is None else f"recovery.{own}"
