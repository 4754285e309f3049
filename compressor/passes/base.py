"""Settings of passes, and what the pipeline lends a pass; free of torch.

The YAML entry, the constructor call and the documentation are the same thing: a frozen settings
object. The work lies in another module, which `compressor.passes.PASSES` names, because
`compress validate` reads every pass's settings and must answer without loading torch.
"""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from compressor.errors import StepFailed
from compressor.files import sha256
from compressor.passes.effort import Effort
from compressor.progress import Progress
from compressor.training.distill_settings import DistillSettings
from compressor.training.settings import Need, TrainingSettings
from compressor.words import counted

if TYPE_CHECKING:
    import torch

    from compressor.data import Dataset
    from compressor.data.settings import SplitSource
    from compressor.models.checkpoint import CheckpointFiles
    from compressor.models.torch_model import TorchModel
    from compressor.passes.saving import ModelParts, Saving
    from compressor.tasks import Task
    from compressor.training.training_run import Scorer


Unfit = Iterator[tuple[str, str]]  # settings that do not fit, each with the reason
ENOUGH_TO_OBSERVE = 32  # calibration rows for ranges of activations; fewer may all be short
FEWEST_TO_COUNT = 16  # calibration rows for a histogram of what a unit does
ROWS_TO_CHOOSE_FROM = 4  # for each calibration row that least squares reads: it prefers long ones


def other_tokens(task: Task) -> str:
    """Return why a model whose vocabulary was trimmed cannot learn from the untouched one."""
    return (
        f"learns from the untouched checkpoint, and {task.name} compares a number for each token "
        f"of the vocabulary, which was trimmed before; move that pass behind this one"
    )


def too_few_to_count(importance: str, num_rows: int) -> str:
    """Return why histograms of so few calibration rows say nothing, and what to do."""
    return (
        f"{importance} counts how often activations have which size, and "
        f"{counted(num_rows, 'calibration row')} are too few; give it at least {FEWEST_TO_COUNT}, "
        f"or use magnitude"
    )


@dataclass(frozen=True)
class PassContext:
    """What the pipeline lends a pass.

    It holds neither the search nor the certification split, so no pass can train on them. A split
    is there when the pass names it in `required_splits`. A training that stops by its scores asks
    `scorer`, which knows the search split; the certification split nothing here knows.
    """

    splits: dict[str, Dataset]
    load_baseline: Callable[[], TorchModel]
    device: torch.device
    seed: int
    # Scratch space of this pass alone. A pass that is stopped gets it back as it left it, when the
    # same pass runs on the same model again; it is removed when the pass has finished.
    work_dir: Path
    progress: Progress
    note: Callable[[str], None]  # adds a sentence to this pass's place in the report
    # The model that a graph was exported from, with the tokenizer that fits it; None: the baseline.
    load_exported: Callable[[], TorchModel] | None = None
    # Scores a model on the search split with the recipe's metric, for `scores_itself`.
    scorer: Scorer | None = None
    facts: dict[str, Any] = field(
        default_factory=dict, init=False
    )  # what `record` was given so far

    @property
    def train(self) -> Dataset:
        """Return the training split."""
        return self.splits["train"]

    @property
    def calibration(self) -> Dataset:
        """Return the calibration split."""
        return self.splits["calibration"]

    def record(self, name: str, value: object) -> None:
        """Add plain JSON data to this pass's place in the report, under `passes[].facts[name]`.

        A note is for people; a fact is for whoever draws it or reads it back. Tuples become lists.
        Raises `ValueError` when `name` is taken, or `value` holds NaN, infinity or a type that
        JSON lacks.
        """
        if name in self.facts:
            raise ValueError(f"fact '{name}' is recorded already; choose another name")
        try:
            self.facts[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"fact '{name}' is not plain JSON: {error}") from error


PassGroup = Literal["train", "prune", "vocabulary", "quantize", "precision"]


@dataclass(frozen=True)
class About:
    """What a newcomer is told of a pass: by `compress passes`, and by the documentation."""

    group: PassGroup
    summary: str  # fits one line of a terminal beside the kind
    explanation: str  # a sentence or two: what it does, and when to take it
    # The YAML that turns a recipe of model, data and budget into one with this pass.
    example: str


@dataclass(frozen=True)
class Ahead:
    """What a run knows before its first step: the untouched checkpoint and what passes read.

    As in `PassContext`, search and certification are not among the splits.
    """

    untouched: TorchModel
    splits: Mapping[str, Dataset]
    seed: int
    keeps_structure: bool = True  # whether the passes before leave every layer, head and neuron

    @property
    def train(self) -> Dataset | None:
        """Return the training split, None where no pass reads it."""
        return self.splits.get("train")


WeightFormat = Literal["float32", "float16", "int8", "4- or 8-bit"]


@dataclass(frozen=True)
class TrainedFor:
    """A format that a pass trains float weights for, and that a pass after it has to store."""

    weights: WeightFormat
    way: str  # the setting that says which way of storing is simulated: `stores_trained` of a pass
    # Settings that training and storing both have and that have to be the same, each with the
    # setting of the training, and its value, under which it is simulated; None: always.
    same: Mapping[str, tuple[str, object] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundsAgain:
    """A setting of a pass that stores weights, with which it would round trained ones once more."""

    why: str  # with {trainer} for the pass that trained them
    values: tuple[object, ...] | None = None  # with which it does; None: all but null and false


@dataclass(frozen=True)
class OnlyOn:
    """A value of a setting whose result only some of a pass's providers run."""

    value: object  # None stands for all but 0, false and nothing
    providers: tuple[str, ...]
    why: str  # not on others

    def is_meant(self, value: object) -> bool:
        """Return whether `value` is one that not all of them run."""
        return bool(value) if self.value is None else value == self.value


@dataclass(frozen=True)
class FromOpset:
    """A value of a setting whose result needs an operator set newer than the exporter's own."""

    value: object
    oldest: int


class NothingToRemove(StepFailed):
    """The settings are so mild that the pass would leave this model as it is.

    An error where a recipe writes them; where the run itself tried milder and milder ones, those
    are passed over.
    """


class Pass(BaseModel, ABC):
    """Settings of one step of a recipe; what does the work takes them as its first argument."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: ClassVar[About]  # in each pass
    # Settings of one variant that nobody writes but to have it, at whatever value.
    asks_for_variant: ClassVar[frozenset[str]] = frozenset()
    kind: str  # a Literal in each pass; its key in `PASSES`
    on_failure: Literal["stop", "repair"] | None = Field(
        None,
        description=(
            "what happens when the score after this pass has fallen too far: stop ends the run, "
            "repair tries milder settings of this pass; left out, what the recipe's on_failure "
            "says"
        ),
    )
    # Providers the result can run on; None means all of them.
    providers: ClassVar[tuple[str, ...] | None] = None
    # Why not on others, and what to use there; empty where `providers` says it all.
    not_elsewhere: ClassVar[str] = ""
    # Settings that are not written where they are at their defaults, so that a recipe without them
    # keeps the keys of its steps and the bytes of its manifest.
    unwritten_defaults: ClassVar[frozenset[str]] = frozenset()
    # The setting that names rows beside the splits of `data`, which no function of a user's makes.
    rows_of_its_own: ClassVar[str | None] = None
    # Values of settings that narrow `providers`, by the name of the setting.
    narrowed_by: ClassVar[Mapping[str, OnlyOn]] = {}
    needs_opset: ClassVar[Mapping[str, FromOpset]] = {}
    # Whether the model reads other token ids afterwards than the untouched checkpoint.
    changes_tokens: ClassVar[bool] = False
    # Whether the table of words is a product of two afterwards, and whether it must be none before.
    factors_table: ClassVar[bool] = False
    needs_whole_table: ClassVar[bool] = False
    # Whether weights that stay are the same numbers, which keep the scales they were trained for.
    keeps_weights: ClassVar[bool] = False
    # A setting, and its value with which the pass itself learns from the untouched checkpoint.
    learns_from_baseline: ClassVar[tuple[str, object] | None] = None
    # What the weights have to be stored as later on, if it trains them for that.
    trains_for: ClassVar[TrainedFor | None] = None

    @property
    def further_rows(self) -> SplitSource | None:
        """Return where rows lie that a pass learns from beside the splits of `data`, if anywhere.

        The record of a run says how many of them stand in its splits.
        """
        return None

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving | None:  # noqa: ARG003
        """Return what the pass could save at most of such a model; None: `inspect` leaves it out.

        With any settings, so it is an upper bound.
        """
        return None

    @classmethod
    def variants(cls) -> tuple[type[Pass], ...]:
        """Return the classes of settings: several where a setting decides which others there are.

        All of them are subclasses of this one, which then stands for the pass in `PASSES`.
        """
        return (cls,)

    @classmethod
    def variant_for(cls, given: Mapping[str, object]) -> type[Pass]:  # noqa: ARG003
        """Return the one of `variants` that takes the settings `given`."""
        return cls

    @classmethod
    def of(cls, given: Mapping[str, object], context: Mapping[str, object] | None = None) -> Pass:
        """Return the settings `given`, as a recipe has them.

        Raises pydantic's `ValidationError` when they are wrong.
        """
        read = cls.as_left_out(given)
        return cls.variant_for(given).model_validate(read, context=dict(context or {}))

    @classmethod
    def as_left_out(cls, given: Mapping[str, object]) -> Mapping[str, object]:
        """Return `given` without what says no more than leaving it out would.

        Of a pass with several variants that is a setting of another one at its default, as a report
        lists it, and null where a variant has a default of its own.
        """
        own, variants = cls.variant_for(given), cls.variants()

        def says_nothing(name: str, value: object) -> bool:
            fields = [item.model_fields[name] for item in variants if name in item.model_fields]
            defaults = [field.default for field in fields]
            if name not in own.model_fields:
                # By how it is written: true is no 1.
                is_default = repr(value) in map(repr, defaults)
                is_default &= name not in cls.asks_for_variant
                return bool(fields) and (value is None or is_default)
            is_shared = len(fields) == len(variants) and len(set(map(repr, defaults))) == 1
            return value is None and not is_shared and not own.model_fields[name].is_required()

        return {name: value for name, value in given.items() if not says_nothing(name, value)}

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decides about the work, as plain JSON: every field but how to go on.

        Those of `unwritten_defaults` are left out where they are at their defaults.
        """
        fields = type(self).model_fields
        written = self.model_dump(mode="json", exclude={"kind", "on_failure"})
        return {
            name: value
            for name, value in written.items()
            if name not in self.unwritten_defaults or getattr(self, name) != fields[name].default
        }

    def milder(self) -> Iterator[Self]:
        """Yield milder settings of this pass, from the strongest and cheapest on.

        They follow from the settings alone, so that nothing about them is decided when a gate has
        failed. A pass that has none yields none.
        """
        yield from ()

    def halfway(self, milder: Self) -> Self | None:  # noqa: ARG002
        """Return settings between these and `milder`, None when nothing worth a try lies there."""
        return None

    def needs(self) -> Iterator[Need]:
        """Yield what settings need of a task: by default, what the trainings among them do."""
        for name in type(self).model_fields:
            training = getattr(self, name)
            if isinstance(training, TrainingSettings):
                for need in training.needs():
                    known = need.setting in type(training).model_fields
                    yield replace(need, setting=f"{name}.{need.setting}" if known else name)

    def unfit_for(self, task: Task) -> Unfit:
        """Yield every setting that makes no sense for `task`, with the reason and what to do.

        They follow from the settings and the task alone, so that nothing has run when they are
        told. A setting within another one has a dot, such as `recovery.kind`.
        """
        for need in self.needs():
            if need.ability not in task.abilities:
                yield need.setting, need.why.format(task=task.name)

    def unfit_to(
        self,
        files: CheckpointFiles,  # noqa: ARG002
        untouched: CheckpointFiles,  # noqa: ARG002
    ) -> Unfit:
        """Yield every setting that cannot be met by a checkpoint, with the reason and what to do.

        They follow from its small files alone, config.json and the tokenizer's, so that nothing is
        loaded; what those do not say is looked at in `look_ahead`. `files` is what the passes
        before leave of the untouched checkpoint. Settings as in `unfit_for`.
        """
        yield from ()

    def unfit_tokens(
        self,
        task: Task,
        files: CheckpointFiles,
        untouched: CheckpointFiles,  # noqa: ARG002
    ) -> Unfit:
        """Yield what compares tokens of `task` with those of a checkpoint that reads others.

        Read from the tokenizers' files and as `unfit_to`. Here these are the trainings that learn
        from the untouched checkpoint.
        """
        if not task.draws_inputs or files.reads_own_tokens:
            return
        teacher = self.learns_from_baseline
        if teacher is not None and getattr(self, teacher[0]) == teacher[1]:
            yield "kind", other_tokens(task)
        for name, training in self.trainings():
            if isinstance(training, DistillSettings) and name:
                yield f"{name}kind", other_tokens(task)

    def unfit_rows(self, num_rows: Mapping[str, int]) -> Unfit:  # noqa: ARG002
        """Yield every setting that splits of so many rows cannot meet, with what to do.

        A split that could not be read is not among them. Settings as in `unfit_for`.
        """
        yield from ()

    def required_splits(self) -> frozenset[str]:
        """Return the splits this pass reads with its present settings."""
        return frozenset()

    def calibration_rows_wanted(self) -> int:
        """Return how many calibration rows this pass would read, where the recipe gives no split.

        A split that is cut has at least 512, where its source allows that.
        """
        return 0

    def effort(self, num_rows: Mapping[str, int]) -> Effort | None:  # noqa: ARG002
        """Return about how much work this pass is on splits of so many rows; None: nobody can tell.

        It changes nothing about the work, and only tells how long it will take.
        """
        return None

    def spare_rows_wanted(self) -> int:
        """Return up to how many calibration rows this pass fills up from train, where it needs to.

        They lie in `Dataset.spare`, if the run reads a train split.
        """
        return 0

    def trainings(self) -> Iterator[tuple[str, TrainingSettings]]:
        """Yield what the keys of every training in this pass begin with, and its settings."""
        if isinstance(self, TrainingSettings):
            yield "", self
        for name in type(self).model_fields:
            training = getattr(self, name)
            if isinstance(training, TrainingSettings):
                yield f"{name}.", training

    def unfit_labels(self, labels: Sequence[str]) -> Unfit:
        """Yield every setting that names a label which is not among those of the model.

        Settings as in `unfit_for`.
        """
        for prefix, training in self.trainings():
            if (why := training.unknown_labels(labels)) is not None:
                yield f"{prefix}class_weights", why

    @property
    def scores_itself(self) -> bool:
        """Return whether a training in this pass is steered by scores on the search split."""
        return any(training.evaluations > 0 for _, training in self.trainings())

    @property
    def incomparable(self) -> str | None:
        """Return what is done to the numbers of an output, so that none has its like any more.

        None where they can be compared one by one with the untouched checkpoint's.
        """
        return None

    @property
    def measures_time(self) -> bool:
        """Return whether the result depends on how fast this machine is."""
        return False

    @property
    def label_setting(self) -> str | None:
        """Return the setting that makes this pass train on labels; None when it does without.

        A setting within another one has a dot, such as `recovery.kind`.
        """
        return None

    @property
    def calibration_label_setting(self) -> str | None:
        """Return the setting that reads labels of the calibration split; None when none does."""
        return None

    def required_checkpoints(self) -> dict[str, str]:
        """Return the checkpoints besides the recipe's that this pass reads, by their settings."""
        return {}

    def missing_packages(self) -> Iterator[tuple[str, str]]:
        """Yield every setting that needs a package which is not installed, with what to do."""
        for name in type(self).model_fields:
            training = getattr(self, name)
            if isinstance(training, TrainingSettings):
                for setting, why in training.missing_packages():
                    yield f"{name}.{setting}", why

    def required_files(self) -> dict[str, Path]:
        """Return files that this pass reads and whose content decides about it, by setting."""
        return {}

    def file_digests(self) -> dict[str, str]:
        """Return the SHA-256 of each of `required_files`."""
        return {setting: sha256(path) for setting, path in self.required_files().items()}


class TorchPass(Pass):
    """A pass over the PyTorch model; it runs before export. It owns the model and may change it."""

    def at_share(self, share: float) -> Self | None:  # noqa: ARG002
        """Return these settings with every fraction at `share` (0..1) of its value.

        None when the pass has no fraction that says how much goes.
        """
        return None

    @property
    def changes_structure(self) -> bool:
        """Return whether layers, heads or neurons may be gone afterwards."""
        return False

    def leaves(self, files: CheckpointFiles) -> CheckpointFiles | None:
        """Return what a later pass finds in place of `files`, None where no file here says it."""
        return files


class OnnxPass(Pass):
    """A pass over the exported graph; it writes a new file and leaves the one that it got."""

    # What the weights are afterwards, and what they may be before; None: as before, and anything.
    leaves_weights: ClassVar[WeightFormat | None] = None
    takes_weights: ClassVar[tuple[WeightFormat, ...] | None] = None
    # The way of storing `leaves_weights` (`TrainedFor.way`) that keeps what was trained for it.
    stores_trained: ClassVar[str | None] = None
    rounds_again: ClassVar[Mapping[str, RoundsAgain]] = {}  # by setting
    ends_graph: ClassVar[bool] = False  # whether the graph gives no floats afterwards
