"""The settings of a training run, as a recipe writes them; free of torch.

`finetune`, `distill` and the recovery after pruning share these, so that a setting has one name,
one default and one description everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from compressor.paths import LocalPath

if TYPE_CHECKING:
    from compressor.tasks import Ability


@dataclass(frozen=True)
class Need:
    """What a setting needs of a task, and why and what to do, for a task that does not have it."""

    setting: str  # one within another has a dot, such as `recovery.kind`
    ability: Ability
    why: str  # with {task} for the name of the task


Schedule = Literal[
    "linear",
    "cosine",
    "constant",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "step",
    "exponential",
    "warmup_stable_decay",
    "reduce_on_plateau",
]
# Which settings each schedule reads, besides the length of the warm-up.
_READ_BY: dict[str, tuple[Schedule, ...]] = {
    "cycles": ("cosine_with_restarts",),
    "power": ("polynomial",),
    "decay_ratio": ("warmup_stable_decay",),
    "decay_factor": ("step", "exponential", "reduce_on_plateau"),
    "decay_epochs": ("step", "exponential"),
    "plateau_patience": ("reduce_on_plateau",),
    "final_lr_ratio": ("cosine", "polynomial", "warmup_stable_decay", "reduce_on_plateau"),
}
# What reads the scores that `evaluations` takes, besides schedule reduce_on_plateau.
_READ_SCORES = ("keep_best", "patience", "min_improvement")
# What mixes or compares rows that are read together.
_NEEDS_TWO_ROWS = ("mixup_alpha", "cutmix_alpha", "margin_weight")

OptimizerName = Literal[
    "adamw", "adam", "sgd", "adagrad", "rmsprop", "adafactor", "adabelief", "lion"
]
# Which settings each optimizer reads, besides learning rate and weight decay.
_OPTIMIZER_READS: dict[str, tuple[OptimizerName, ...]] = {
    "betas": ("adamw", "adam", "adabelief", "lion"),
    "momentum": ("sgd", "rmsprop"),
    "epsilon": ("adamw", "adam", "adabelief", "adagrad", "rmsprop"),
}
# Their learning rates are tens or hundreds of times AdamW's, or a tenth of it.
_OWN_LEARNING_RATE: frozenset[OptimizerName] = frozenset({"sgd", "adagrad", "adafactor", "lion"})
_OPTIMIZERS_PACKAGE = "pytorch_optimizer"
_FROM_PACKAGE: frozenset[OptimizerName] = frozenset({"adabelief", "lion"})

Tracker = Literal["mlflow", "wandb"]
# Where things are written or kept, which changes no weight.
PLACES = frozenset({"tensorboard", "teacher_cache", "track", "track_project"})

ClassWeights = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class TrainingSettings(BaseModel):
    """How long and how fast to train."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Settings that are not written where they are at their defaults, so that a recipe without them
    # keeps the keys of its steps and the bytes of its manifest.
    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {
            *_READ_BY,
            *_OPTIMIZER_READS,
            "layer_decay",
            "optimizer",
            "max_grad_norm",
            "accumulation_steps",
            "gradient_checkpointing",
            "ema_decay",
            "evaluations",
            *_READ_SCORES,
            "label_smoothing",
            "class_weights",
            "track",
            "track_project",
        }
    )

    epochs: float = Field(
        default=1.0, gt=0, le=1000, description="how many times to go through the training split"
    )
    max_steps: int | None = Field(
        default=None, gt=0, description="optimizer steps at most, whatever `epochs` says"
    )
    learning_rate: float = Field(
        default=5e-5,
        gt=0,
        le=1,
        description="highest learning rate of the optimizer, reached after the warm-up",
    )
    batch_size: int = Field(
        default=32, gt=0, le=65536, description="examples in one optimizer step"
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description=(
            "weight decay, of all but biases and normalisations; adam, sgd, adagrad and rmsprop "
            "add it to the gradient, the others take it off the weights"
        ),
    )
    warmup_ratio: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="fraction of the steps during which the learning rate rises from 0",
    )
    schedule: Schedule = Field(
        default="linear",
        description=(
            "how the learning rate falls after the warm-up: linear and cosine to 0, constant keeps "
            "it, cosine_with_restarts falls and jumps back up, polynomial as a power, inverse_sqrt "
            "with the root of the step, step by a factor now and then, exponential by a factor "
            "little by little, warmup_stable_decay stays and falls at the end, reduce_on_plateau "
            "by a factor when the score on the search split gets no better"
        ),
    )
    freeze_embeddings: bool = Field(
        default=False, description="leave the embedding tables as they are"
    )
    dropout: bool = Field(
        default=True,
        description=(
            "use dropout at the checkpoint's own rates; false suits a short distillation after "
            "pruning, which is too short to average the noise out"
        ),
    )
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="float32",
        description=(
            "precision of matmuls in student and teacher; weights stay float32. float16 scales the "
            "loss and needs a CUDA device; auto is bfloat16 where the device computes it in "
            "hardware, and float16 on a GPU that does not"
        ),
    )
    tensorboard: LocalPath | None = Field(
        default=None,
        description=(
            "folder to write the loss and learning rate of every step into, for TensorBoard; "
            "relative to the recipe"
        ),
    )
    track: tuple[Tracker, ...] = Field(
        default=(),
        max_length=2,
        description=(
            "write settings, and loss, learning rate and scores of every step, to MLflow or to "
            "Weights & Biases, with the package's own client; where to is what their variables of "
            "the environment say"
        ),
    )
    track_project: str | None = Field(
        default=None,
        min_length=1,
        description=(
            "with track, the experiment of MLflow or the project of Weights & Biases; left out, "
            "what the environment says, or compressor"
        ),
    )
    cycles: int = Field(
        default=2,
        ge=2,
        le=1000,
        description=(
            "with schedule cosine_with_restarts, how many times the learning rate falls to 0"
        ),
    )
    power: float = Field(
        default=2.0,
        gt=0,
        le=10,
        description="with schedule polynomial, the power; 1 is a line",
    )
    decay_ratio: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description=(
            "with schedule warmup_stable_decay, the fraction of the steps, at the end, during "
            "which the learning rate falls, as a line"
        ),
    )
    decay_factor: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description=(
            "with schedule step, exponential and reduce_on_plateau, what the learning rate is "
            "multiplied by"
        ),
    )
    decay_epochs: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description=(
            "with schedule step and exponential, the epochs after the warm-up in which the "
            "learning rate is multiplied by decay_factor: at once when they are over, or little "
            "by little"
        ),
    )
    final_lr_ratio: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "with schedule cosine, polynomial and warmup_stable_decay, the learning rate at the "
            "end as a fraction of the highest; with reduce_on_plateau, the lowest"
        ),
    )
    plateau_patience: int = Field(
        default=1,
        ge=0,
        le=1000,
        description=(
            "with schedule reduce_on_plateau, how many scores in a row may be no better before the "
            "learning rate falls"
        ),
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description=(
            "factor on the learning rate from each layer to the one below it, so that the layers "
            "near the input learn less; the head has the full learning rate, the last layer the "
            "factor, the embeddings the lowest"
        ),
    )

    optimizer: OptimizerName = Field(
        default="adamw",
        description=(
            "what takes the steps; all but adamw, adam, rmsprop and adabelief need a learning_rate "
            "of their own; adabelief and lion need the package pytorch-optimizer"
        ),
    )
    betas: (
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None
    ) = Field(
        default=None,
        description=(
            "decay of the running means of gradients and of their squares, with optimizer "
            "adamw, adam, adabelief and lion; left out, 0.9 and 0.999, for lion 0.9 and 0.99"
        ),
    )
    momentum: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="momentum of optimizer sgd and rmsprop; left out, 0.9 and 0",
    )
    epsilon: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description=(
            "what is added to the denominator, with optimizer adamw, adam, adabelief, adagrad and "
            "rmsprop; left out, 1e-8, for adabelief 1e-16 and for adagrad 1e-10"
        ),
    )
    max_grad_norm: float = Field(
        default=1.0,
        ge=0,
        le=1e6,
        description="norm that longer gradients are cut down to; 0 leaves them as they are",
    )

    accumulation_steps: int = Field(
        default=1,
        gt=0,
        le=65536,
        description=(
            "parts that the batch_size examples of a step are read in, one after the other, to "
            "take less memory; their gradients are added up to those of the whole"
        ),
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description=(
            "compute each layer a second time in place of keeping what it computed, to take less "
            "memory; the weights stay the same"
        ),
    )

    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description=(
            "end with an exponential moving average of the weights over the steps, with this "
            "decay, such as 0.999; less in the first steps, (1 + n) / (10 + n) at step n"
        ),
    )
    evaluations: int = Field(
        default=0,
        ge=0,
        le=1000,
        description=(
            "how many times the model is scored on the search split while it trains, evenly "
            "spread, the last time at the end; 0 scores it afterwards alone"
        ),
    )
    keep_best: bool = Field(
        default=False, description="end with the weights of the best score, the first of equal ones"
    )
    patience: int | None = Field(
        default=None,
        gt=0,
        le=1000,
        description=(
            "stop after so many scores in a row that are no better than the best, and end with the "
            "weights of that one"
        ),
    )
    min_improvement: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how much a score has to be above the best one to be better, 0.01 is a point",
    )

    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "share of a label that is spread evenly over all classes, so that the model is less "
            "sure of itself"
        ),
    )
    class_weights: Literal["balanced"] | ClassWeights | None = Field(
        default=None,
        description=(
            "weight of each class in the loss on labels, by its label name, 1 where it is left "
            "out; balanced weighs rare classes more, so that all count alike"
        ),
    )

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in written.items()
            if name not in self.unwritten_defaults or getattr(self, name) != fields[name].default
        }

    @model_validator(mode="after")
    def _schedule_reads_its_settings(self) -> Self:
        fields = type(self).model_fields
        for name, schedules in _READ_BY.items():
            if getattr(self, name) != fields[name].default and self.schedule not in schedules:
                raise ValueError(
                    f"{name} belongs to schedule {' or '.join(schedules)} and would do nothing "
                    f"with '{self.schedule}'; remove it, or choose that schedule"
                )
        return self

    @model_validator(mode="after")
    def _optimizer_reads_its_settings(self) -> Self:
        for name, optimizers in _OPTIMIZER_READS.items():
            if getattr(self, name) is not None and self.optimizer not in optimizers:
                raise ValueError(
                    f"{name} belongs to optimizer {' or '.join(optimizers)} and would do nothing "
                    f"with '{self.optimizer}'; remove it, or choose that optimizer"
                )
        if self.optimizer in _OWN_LEARNING_RATE and "learning_rate" not in self.model_fields_set:
            raise ValueError(
                f"optimizer {self.optimizer} needs a learning_rate of its own, as the default is "
                f"one for AdamW; take about 0.01 for sgd, 1e-3 for adagrad and adafactor, 1e-5 for "
                f"lion"
            )
        return self

    @model_validator(mode="after")
    def _is_tracked(self) -> Self:
        if self.track_project is not None and not self.track:
            raise ValueError(
                "track_project would do nothing without track; add track: [mlflow] or [wandb], or "
                "remove it"
            )
        if len(set(self.track)) != len(self.track):
            raise ValueError(f"track: name each once, got {list(self.track)}")
        return self

    @model_validator(mode="after")
    def _memory_can_be_saved(self) -> Self:
        if self.accumulation_steps > self.batch_size:
            raise ValueError(
                f"accumulation_steps is {self.accumulation_steps} and batch_size "
                f"{self.batch_size}, and every part needs an example; set accumulation_steps to "
                f"{self.batch_size} or less"
            )
        if self.gradient_checkpointing and not self.dropout:
            raise ValueError(
                "gradient_checkpointing works where dropout is on, and would do nothing without; "
                "remove it, or set dropout to true"
            )
        return self

    @model_validator(mode="after")
    def _rows_meet(self) -> Self:
        """Look that what compares or mixes the rows of a part has two of them in each."""
        named = [name for name in _NEEDS_TWO_ROWS if getattr(self, name, 0)]
        if named and self.batch_size < 2 * self.accumulation_steps:
            parts = ", of which each part needs two" if self.accumulation_steps > 1 else ""
            raise ValueError(
                f"{' and '.join(named)} would do nothing with one row at a time{parts}: "
                f"batch_size is {self.batch_size}; set it to {2 * self.accumulation_steps} or "
                f"more, or {named[0]} to 0"
            )
        return self

    @model_validator(mode="after")
    def _scores_are_taken(self) -> Self:
        fields = type(self).model_fields
        given = [name for name in _READ_SCORES if getattr(self, name) != fields[name].default]
        if self.schedule == "reduce_on_plateau":
            given.append("schedule reduce_on_plateau")
        if given and self.evaluations == 0:
            raise ValueError(
                f"{' and '.join(given)} would do nothing without scores; set evaluations to how "
                f"many are to be taken, such as 10"
            )
        return self

    @property
    def keeps_best(self) -> bool:
        """Return whether training ends with the weights of the best score."""
        return self.keep_best or self.patience is not None

    @property
    def gives_other_weights(self) -> str | None:
        """Return which setting ends with other weights than those of the last step."""
        names = ("keep_best", "patience", "ema_decay")
        return next((name for name in names if getattr(self, name)), None)

    @property
    def label_setting(self) -> str | None:
        """Return which setting makes this training read labels; None where none does."""
        return None

    def unknown_labels(self, labels: Sequence[str]) -> str | None:
        """Return why classes that the model does not have cannot be weighed, None where all are."""
        if not isinstance(self.class_weights, dict):
            return None
        unknown = sorted(self.class_weights.keys() - set(labels))
        if not unknown:
            return None
        return (
            f"the model has no label {' or '.join(map(repr, unknown))}; its labels are "
            f"{list(labels)}"
        )

    def needs(self) -> Iterator[Need]:
        """Yield what these settings need of a task."""
        for setting in ("label_smoothing", "class_weights"):
            if getattr(self, setting):
                yield Need(
                    setting,
                    "classes",
                    "works on labels that are one class of several, and those of {task} are not; "
                    "remove it",
                )

    def missing_packages(self) -> Iterator[tuple[str, str]]:
        """Yield every setting that needs a package which is not installed, with what to do."""
        if self.tensorboard is not None and find_spec("tensorboard") is None:
            yield (
                "tensorboard",
                f"writing into {self.tensorboard} needs the package tensorboard, which is not "
                f"installed; install compressor with its extra 'tensorboard', or leave the "
                f"setting out",
            )
        for tracker in self.track:
            if find_spec(tracker) is None:
                yield (
                    "track",
                    f"the package {tracker} is not installed; install compressor with its extra "
                    f"'{tracker}', or leave it out of track",
                )
        if self.optimizer in _FROM_PACKAGE and find_spec(_OPTIMIZERS_PACKAGE) is None:
            yield (
                "optimizer",
                f"{self.optimizer} needs the package pytorch-optimizer, which is not installed; "
                f"install compressor with its extra 'optimizers', or take adamw",
            )


def mixup_field(learnt: str) -> Any:
    """Return the setting that mixes examples, of which `learnt` is learnt."""
    return Field(
        default=0.0,
        ge=0,
        le=100,
        description=(
            f"mix each example with another one of its batch, pixels, sounds or the embeddings of "
            f"tokens, and learn {learnt}; the proportion is drawn from a beta distribution with "
            f"this value, such as 0.2; 0 mixes nothing"
        ),
    )


class FinetuneSettings(TrainingSettings):
    """Train on the labels alone."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {*TrainingSettings.unwritten_defaults, "mixup_alpha", "cutmix_alpha"}
    )

    mixup_alpha: float = mixup_field("both labels in proportion")
    cutmix_alpha: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description=(
            "paste a box of another image of the batch into each image and learn both labels by "
            "their areas, drawn as for mixup_alpha, such as 1; with both, every batch takes one of "
            "them by chance"
        ),
    )

    @property
    def label_setting(self) -> str:
        """Return that it is the kind of training."""
        return "kind"

    def needs(self) -> Iterator[Need]:
        """Yield labels, and what examples have to be to be mixed."""
        yield from super().needs()
        if self.mixup_alpha > 0:
            yield Need(
                "mixup_alpha",
                "mixes",
                "mixes two examples and their classes, which those of {task} do not allow; remove "
                "it",
            )
        if self.cutmix_alpha > 0:
            yield Need(
                "cutmix_alpha",
                "pixels",
                "pastes boxes of images, and {task} reads none; remove it, or use mixup_alpha",
            )
        yield Need(
            "kind",
            "labels",
            "trains on labels of classes, and {task} has none; use distill, which learns the "
            "untouched checkpoint's vectors",
        )
