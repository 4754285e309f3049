"""Structured pruning as a step of a recipe: heads, neurons and layers go for good."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from compressor.models.families.prunable import (
    depth_of,
    heads_refusal,
    no_fewer_layers,
    no_reconstruction,
    unprunable,
    why_first_layer_stays,
    why_heads_stay,
    why_no_latency,
    why_no_layers_apart,
    with_depth,
)
from compressor.passes.base import (
    FEWEST_TO_COUNT,
    ROWS_TO_CHOOSE_FROM,
    About,
    TorchPass,
    Unfit,
    too_few_to_count,
)
from compressor.passes.effort import Effort, reading_effort, training_effort
from compressor.passes.prune_structured.latency_file import read_latency_file
from compressor.passes.repair import HALF, halfway, ladder, longer, lower
from compressor.passes.saving import ModelParts, Saving, unsupported
from compressor.paths import LocalPath
from compressor.training.distill_settings import Recovery, label_setting_of
from compressor.training.settings import Need
from compressor.words import counted

if TYPE_CHECKING:
    from compressor.models.checkpoint import CheckpointFiles


_MOST_LAYERS_BACK = 4  # that a repair gives back, one after the other
_METHODS = (
    "scores removes the units of lowest importance and leaves the rest as it is; reconstruction "
    "removes the units that are cheapest to make up for, and then corrects what is left by least "
    "squares on calibration rows, without labels"
)
# Importance that is measured on the data, and that is estimated from histograms of it.
_COUNTS = ("entropy", "mutual_information")
_READS_ROWS = ("taylor", "fisher", "activation", *_COUNTS)


class PruneStructured(TorchPass):
    """Remove attention heads, feed-forward neurons and whole layers physically, then recover.

    Layers go first; ratios then refer to the layers that are left. What is left computes what the
    model computes with the units that went at zero. Method `scores` takes what matters least and
    leaves the rest as it is; `reconstruction` reads the text of the calibration split, no labels,
    to decide how many heads and neurons each layer keeps, and fits each sub-layer to what it
    computed before. One row is enough to run: where rows are few, rows of the train split are read
    too, heads and neurons are ranked by Fisher information, and a fit is made where it helps on
    rows left out. With target latency it records the table that it went by as `latency_table`,
    which a later run can be given back: name the report of this one.

    Ref: units that go together: Fang et al. 2023, arXiv:2301.12900; heads: Michel et al. 2019,
    arXiv:1905.10650; importance: Molchanov et al. 2019, arXiv:1906.10771 (Taylor), Li et al. 2017,
    arXiv:1608.08710 (L1), Muralidharan et al. 2024, arXiv:2407.14679 (activation), Luo & Wu 2017,
    arXiv:1706.05791 (entropy), Amjad et al. 2018, arXiv:1804.06679 (mutual information); layers:
    Kim et al. 2024, arXiv:2402.02834 (the loss without them), Men et al. 2024, arXiv:2403.03853
    (block influence); reconstruction: Kwon et al. 2022, arXiv:2204.09656, Park et al. 2024,
    arXiv:2308.03449, Kurtic et al. 2023, arXiv:2302.04089; cubic steps: Zhu & Gupta 2017,
    arXiv:1710.01878.
    """

    asks_for_variant: ClassVar[frozenset[str]] = frozenset({"target"})

    kind: Literal["prune_structured"] = "prune_structured"
    _readings_of_units: ClassVar[int]  # of a row, in each step

    about: ClassVar[About] = About(
        group="prune",
        summary="Remove heads, neurons, layers: faster",
        explanation=(
            "Removes attention heads, feed-forward neurons and whole layers for good, so the "
            "model becomes smaller and faster on any device. With method reconstruction it "
            "corrects what is left by least squares and needs no training and no labels."
        ),
        example="""\
passes:
  - kind: prune_structured
    method: reconstruction
    ratio: 0.25
    on_failure: repair
""",
    )

    method: Literal["scores", "reconstruction"] = Field("scores", description=_METHODS)
    ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=(
            "fraction of the attention heads and of the feed-forward neurons to remove; with "
            "method reconstruction, the fraction of `target` to remove"
        ),
    )
    head_ratio: float | None = Field(
        None,
        ge=0,
        lt=1,
        description=(
            "fraction of the attention heads to remove, in place of `ratio`; with method "
            "reconstruction only 0 is allowed, which keeps all heads"
        ),
    )
    neuron_ratio: float | None = Field(
        None,
        ge=0,
        lt=1,
        description=(
            "fraction of the feed-forward neurons to remove, in place of `ratio`; with method "
            "reconstruction only 0 is allowed, which keeps all neurons"
        ),
    )
    uniform: bool = Field(
        False,
        description=(
            "keep the same number of heads and of neurons in every layer, so that plain "
            "transformers can load the checkpoint where its configuration can say so: always in "
            "ViT, DeiT, BEiT, GTE, NomicBERT and Jina's, in DINOv2 when the neurons are a whole "
            "multiple of the hidden size, in other models with head_ratio 0; otherwise the report "
            "says why not"
        ),
    )
    layers: int | None = Field(None, gt=0, description="number of layers to keep")
    layer_choice: Literal["loss", "block_influence", "every_other", "last"] = Field(
        "loss",
        description=(
            "which layers to remove where `layers` is given: loss removes, one at a time, the "
            "layer without which the loss on the calibration split is lowest; block_influence "
            "removes those that change the hidden states least, without labels; every_other keeps "
            "evenly spread layers and the last one; last removes the last ones"
        ),
    )
    drop_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="the layers to remove, counted from 0, in place of `layers`"
    )
    round_to: int | None = Field(
        None,
        gt=0,
        le=1024,
        description=(
            "keep a multiple of this many feed-forward neurons in each layer; null is 16 on a CPU "
            "and 64 where PyTorch runs on a GPU"
        ),
    )
    steps: int = Field(
        1,
        gt=0,
        le=100,
        description=(
            "number of steps in which the ratios are reached; importance is measured anew in "
            "each, and each is followed by an equal part of the recovery"
        ),
    )
    step_schedule: Literal["cubic", "linear"] = Field(
        "cubic",
        description=(
            "how much is removed after step k of n, as a fraction of the ratios: cubic is 1 - (1 "
            "- k/n)^3, with large steps first, linear is k/n"
        ),
    )
    calibration_rows: int = Field(
        256, gt=0, description="number of calibration rows to measure on, at most"
    )
    recovery: Recovery | None = Field(
        None,
        description=(
            "training after pruning, `kind: finetune` or `kind: distill`; its `epochs` and "
            "`max_steps` are for all steps together, each step trains on other rows, and its "
            "learning rate rises and falls anew"
        ),
    )

    @classmethod
    def variants(cls) -> tuple[type[PruneStructured], ...]:
        """Return the settings of both methods."""
        return (PruneByScores, PruneByReconstruction)

    @classmethod
    def variant_for(cls, given: Mapping[str, object]) -> type[PruneStructured]:
        """Return the settings of the method `given`, scores where none is."""
        is_fitted = given.get("method") == "reconstruction"
        return PruneByReconstruction if is_fitted else PruneByScores

    @field_validator("method", mode="before")
    @classmethod
    def _is_a_method(cls, method: object) -> object:
        if method not in ("scores", "reconstruction"):
            expected = {"expected": "'scores' or 'reconstruction'"}
            raise PydanticKnownError("literal_error", expected)
        return method

    @field_validator("drop_layers")
    @classmethod
    def _each_once(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and len(set(layers)) != len(layers):
            raise ValueError(f"list each layer once, got {list(layers)}")
        return layers

    @model_validator(mode="after")
    def _removes_something(self) -> Self:
        if self.layers is not None and self.drop_layers is not None:
            raise ValueError("layers and drop_layers exclude each other; give one of them")
        if not (self.heads_to_remove or self.neurons_to_remove or self.changes_layers):
            raise ValueError(
                "nothing would be removed; give ratio, head_ratio, neuron_ratio, layers or "
                "drop_layers"
            )
        if self.steps > 1 and not (self.heads_to_remove or self.neurons_to_remove):
            raise ValueError(
                f"steps is {self.steps}, but layers go at once; give ratio too, or leave steps out"
            )
        if self.layer_choice != "loss" and self.layers is None:
            raise ValueError(
                f"layer_choice: {self.layer_choice} says which layers go, but not how many; give "
                f"layers, the number that stay, or leave layer_choice out"
            )
        return self

    @model_validator(mode="after")
    def _steps_share_the_recovery(self) -> Self:
        limit = None if self.recovery is None else self.recovery.max_steps
        if limit is not None and limit < self.steps:
            raise ValueError(
                f"recovery.max_steps is {limit} for all of the {self.steps} steps together, and "
                f"each needs one; raise it or use fewer steps"
            )
        return self

    @property
    def heads_to_remove(self) -> float:
        """Return the fraction of the heads that go."""
        return self.head_ratio if self.head_ratio is not None else self.ratio or 0.0

    @property
    def neurons_to_remove(self) -> float:
        """Return the fraction of the feed-forward neurons that go."""
        return self.neuron_ratio if self.neuron_ratio is not None else self.ratio or 0.0

    @property
    @abstractmethod
    def takes_heads(self) -> bool:
        """Return whether heads may go at all."""

    @property
    @abstractmethod
    def measures_units(self) -> bool:
        """Return whether heads and neurons are measured on the calibration split."""

    @abstractmethod
    def blocks_on(self, device: str) -> int:
        """Return of how many neurons each layer keeps a multiple, on `cpu` or `cuda`."""

    @property
    def changes_layers(self) -> bool:
        """Return whether whole layers go."""
        return self.layers is not None or self.drop_layers is not None

    @property
    def measures_layers(self) -> bool:
        """Return whether layers are compared on the calibration split."""
        return self.layers is not None and self.layer_choice in ("loss", "block_influence")

    @property
    def _fractions(self) -> tuple[str, ...]:
        return tuple(
            name for name in ("ratio", "head_ratio", "neuron_ratio") if getattr(self, name)
        )

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return all heads and neurons, or neurons alone where heads have to stay."""
        if parts.no_layers is not None:
            return unsupported(parts.no_layers)
        if parts.no_prunable_heads is not None:
            reason = f"neurons only: {parts.no_prunable_heads}"
            return Saving(parts.feed_forward_bytes, parts.feed_forward_flops_share, reason)
        found = parts.attention_bytes + parts.feed_forward_bytes
        return Saving(found, parts.layers_flops_share, "all heads and neurons")

    def milder(self) -> Iterator[Self]:
        """Yield lower ratios or fewer layers to drop; then, in the middle, longer recovery."""
        half = self
        if self._fractions:
            yield from ladder(self, *self._fractions)
            half = lower(self, *self._fractions, share=HALF)
        elif self.drop_layers is not None and len(self.drop_layers) > 1:
            for count in range(len(self.drop_layers) - 1, 0, -1):
                yield self.model_copy(update={"drop_layers": self.drop_layers[:count]})
            half = self.model_copy(
                update={"drop_layers": self.drop_layers[: (len(self.drop_layers) + 1) // 2]}
            )
        elif self.layers is not None:
            # How many there are is not known here; what would drop none is passed over.
            for more in range(1, _MOST_LAYERS_BACK + 1):
                yield self.model_copy(update={"layers": self.layers + more})
            half = self.model_copy(update={"layers": self.layers + 1})
        if self.recovery is not None:
            for recovery in longer(self.recovery):
                yield half.model_copy(update={"recovery": recovery})

    def halfway(self, milder: Self) -> Self | None:
        """Return the ratios between these and `milder`."""
        return halfway(self, milder, *self._fractions)

    def at_share(self, share: float) -> Self | None:
        """Return the ratios at `share` of their value; None when only whole layers go."""
        return lower(self, *self._fractions, share=share) if self._fractions else None

    def unfit_to(self, files: CheckpointFiles, untouched: CheckpointFiles) -> Unfit:  # noqa: ARG002
        """Yield the pass itself for a model type that is not known, and what cannot go from it."""
        if (refusal := unprunable(files.config)) is not None:
            yield "kind", refusal
            return
        if self.takes_heads and (reason := why_heads_stay(files.config)) is not None:
            key = "ratio" if self.head_ratio is None else "head_ratio"
            yield key, heads_refusal(files.config["model_type"], reason)
        if self.changes_layers and (reason := no_fewer_layers(files.config)) is not None:
            yield "layers" if self.layers is not None else "drop_layers", reason
            return
        if (depth := depth_of(files.config)) is None:
            return
        if self.layers is not None and self.layers >= depth:
            yield (
                "layers",
                f"the model has {counted(depth, 'layer')}, so fewer have to stay, got "
                f"{self.layers}",
            )
        dropped = self.drop_layers or ()
        if dropped and (max(dropped) >= depth or len(dropped) >= depth):
            yield (
                "drop_layers",
                f"the model has layers 0 to {depth - 1} and one has to stay, got {list(dropped)}",
            )
        elif 0 in dropped and (reason := why_first_layer_stays(files.config)) is not None:
            yield "drop_layers", f"layer 0 has to stay: {reason}"

    @property
    def changes_structure(self) -> bool:
        """Return that something always goes."""
        return True

    def leaves(self, files: CheckpointFiles) -> CheckpointFiles:
        """Return the checkpoint with as many layers as stay."""
        depth = depth_of(files.config)
        if self.layers is not None:
            depth = self.layers
        elif self.drop_layers is not None and depth is not None:
            depth -= len(self.drop_layers)
        return files if depth is None else replace(files, config=with_depth(files.config, depth))

    def calibration_rows_wanted(self) -> int:
        """Return `calibration_rows` when anything is measured."""
        return self.calibration_rows if "calibration" in self.required_splits() else 0

    @property
    def label_setting(self) -> str | None:
        """Return what makes the recovery train on labels."""
        return label_setting_of(self.recovery)

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when something is measured, train when there is recovery."""
        splits = {"calibration"} if self.measures_units or self.measures_layers else set()
        return frozenset(splits if self.recovery is None else {*splits, "train"})

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return what is measured, for every step anew, and the recovery."""
        found = Effort(seconds=1.0) + training_effort(
            self.recovery, num_rows, student=1 - max(self.heads_to_remove, self.neurons_to_remove)
        )
        if self.measures_layers:
            found += reading_effort(num_rows, self.calibration_rows, times=12)
        if self.measures_units:
            times = self._readings_of_units * self.steps
            found += reading_effort(num_rows, self.calibration_rows, times)
        if self.measures_time:
            found += Effort(seconds=60.0)  # a table of sub-layers, where the cache has none
        return found


class PruneByScores(PruneStructured):
    """Remove the heads and neurons of lowest importance, and leave the rest as it is."""

    _readings_of_units: ClassVar[int] = 4

    method: Literal["scores"] = Field("scores", description=_METHODS)
    round_to: int = Field(
        8,
        gt=0,
        le=1024,
        description="keep a multiple of this many feed-forward neurons in each layer",
    )
    importance: Literal[
        "random",
        "magnitude",
        "magnitude_l1",
        "activation",
        "taylor",
        "fisher",
        "entropy",
        "mutual_information",
    ] = Field(
        "taylor",
        description=(
            "how to rank heads and neurons: random by chance; magnitude and "
            "magnitude_l1 by the L2 or L1 norm of their weights; activation by the size of "
            "their outputs on the calibration split, without labels; taylor by gradients of "
            "the loss there; fisher by the Fisher information of the model's own predictions "
            "there, without labels; entropy by the entropy of their outputs over rows, without "
            "labels; mutual_information by what their outputs tell of the label"
        ),
    )
    scope: Literal["layer", "global"] | None = Field(
        None,
        description=(
            "global ranks the units of all layers together, layer removes the "
            "same ratio from each layer; left out, global, or layer with `uniform`"
        ),
    )
    may_empty_layers: bool = Field(
        False,
        description="allow a layer to lose all of its heads or all of its feed-forward neurons",
    )

    @model_validator(mode="after")
    def _layers_stay_alike(self) -> Self:
        if not self.uniform:
            return self
        if self.scope == "global" or self.may_empty_layers:
            name = "scope: global" if self.scope == "global" else "may_empty_layers"
            raise ValueError(
                f"uniform keeps the same number of units in every layer, at least one, so "
                f"{name} does not go with it; leave one of the two out"
            )
        return self

    @property
    def ranks_globally(self) -> bool:
        """Return whether method scores ranks the units of all layers together."""
        return not self.uniform if self.scope is None else self.scope == "global"

    @property
    def takes_heads(self) -> bool:
        """Return whether any head goes."""
        return self.heads_to_remove > 0

    @property
    def measures_units(self) -> bool:
        """Return whether the importance of heads and neurons is measured on rows."""
        removes_units = self.heads_to_remove > 0 or self.neurons_to_remove > 0
        return removes_units and self.importance in _READS_ROWS

    def blocks_on(self, device: str) -> int:  # noqa: ARG002
        """Return `round_to`."""
        return self.round_to

    def needs(self) -> Iterator[Need]:
        """Yield labels for gradients of the loss, and what the recovery needs."""
        if self.importance == "taylor" and self.measures_units:
            yield Need(
                "importance",
                "labels",
                "taylor is the gradient of a loss on labels, and where a model is compared with "
                "its own vectors that gradient is 0; use fisher, activation or magnitude, or "
                "method: reconstruction",
            )
        if self.importance == "mutual_information" and self.measures_units:
            yield Need(
                "importance",
                "classes",
                "mutual_information compares activations with labels that are one class of "
                "several, and those of {task} are not; use entropy, fisher or activation",
            )
        yield from super().needs()

    @property
    def calibration_label_setting(self) -> str | None:
        """Return the importance where it compares activations with labels."""
        is_read = self.importance == "mutual_information" and self.measures_units
        return "importance" if is_read else None

    def unfit_rows(self, num_rows: Mapping[str, int]) -> Unfit:
        """Yield the importance where rows are too few to count what units do."""
        rows = num_rows.get("calibration", FEWEST_TO_COUNT)
        if self.importance in _COUNTS and self.measures_units and rows < FEWEST_TO_COUNT:
            yield "importance", too_few_to_count(self.importance, rows)


class PruneByReconstruction(PruneStructured):
    """Remove what is cheapest to make up for, and fit the rest to what the model computed before.

    A layer may lose all of its heads or all of its feed-forward neurons.
    """

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"refit_inputs"})
    _readings_of_units: ClassVar[int] = 9

    method: Literal["reconstruction"] = Field("reconstruction", description=_METHODS)
    ratio: float = Field(gt=0, lt=1, description="the fraction of `target` to remove")
    calibration_rows: int = Field(
        2048, gt=0, description="number of calibration rows to measure on, at most"
    )
    target: Literal["flops", "parameters", "latency"] = Field(
        "flops",
        description=(
            "what `ratio` is a fraction of: flops is the arithmetic "
            "of the encoder's matmuls at the mean length of the calibration rows, "
            "parameters is the size of its layers, latency is the time of its layers in ONNX "
            "Runtime on this machine's CPU, from a table that is measured once and kept in the "
            "cache (COMPRESSOR_CACHE) or given as `latency_table`"
        ),
    )
    latency_precision: Literal["float32", "int8"] | None = Field(
        None,
        description=(
            "with target latency, the precision in which layers are timed: int8 where "
            "quantize_dynamic follows, otherwise float32; it has to be given then"
        ),
    )
    latency_batch_size: int = Field(
        1,
        gt=0,
        le=1024,
        description=(
            "with target latency, the number of examples in a timed batch; each is as long as the "
            "calibration rows are on average"
        ),
    )
    latency_threads: int = Field(
        1,
        gt=0,
        description=(
            "with target latency, the number of threads; one thread is timed by its CPU time, "
            "which other programs hardly change, several by the clock"
        ),
    )
    latency_table: LocalPath | None = Field(
        None,
        description=(
            "with target latency, a table to use in place of measuring one: a file from the "
            "cache, or the report.json of a run that used it; it has to fit this model, length, "
            "batch size, precision and number of threads"
        ),
    )
    ridge: float = Field(
        1e-3,
        ge=0,
        le=1,
        description=(
            "how firmly least squares holds weights to their old values, as a fraction of the mean "
            "diagonal of the Gram matrix of a projection's inputs; where calibration rows are few, "
            "the least: each layer gets the one with which rows left out of the fit come out best"
        ),
    )

    refit_inputs: bool = Field(
        False,
        description=(
            "fit what reads the inputs of each sub-layer too (queries, keys, values and the first "
            "matrices of feed-forward networks), so that it makes up for what was lost before "
            "it; takes half as long again, and is not done where calibration rows are few"
        ),
    )

    @field_validator("latency_table")
    @classmethod
    def _is_a_table(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_latency_file(path)
        return path

    @model_validator(mode="after")
    def _reaches_the_ratio(self) -> Self:
        if self.head_ratio or self.neuron_ratio:
            raise ValueError(
                "method: reconstruction decides itself how many heads and neurons go; give ratio "
                "alone, or with head_ratio: 0 or neuron_ratio: 0 to keep all of a kind"
            )
        if self.head_ratio == 0 and self.neuron_ratio == 0:
            raise ValueError(
                "head_ratio: 0 and neuron_ratio: 0 keep all heads and all neurons, so no ratio can "
                "be reached; leave one of them out, or use method: scores without ratio to remove "
                "layers alone"
            )
        return self

    @model_validator(mode="after")
    def _knows_what_to_time(self) -> Self:
        if self.target == "latency" and self.latency_precision is None:
            raise ValueError(
                "target: latency needs latency_precision, because times depend on it: int8 where "
                "quantize_dynamic follows, otherwise float32"
            )
        fields = type(self).model_fields
        timing = [name for name in fields if name.startswith("latency_")]
        given = [name for name in timing if getattr(self, name) != fields[name].default]
        if given and self.target != "latency":
            raise ValueError(
                f"{' and '.join(given)} {'belongs' if len(given) == 1 else 'belong'} to target: "
                f"latency; set target: latency, or leave {' and '.join(given)} out"
            )
        return self

    @property
    def takes_heads(self) -> bool:
        """Return whether heads may go at all."""
        return self.head_ratio != 0

    @property
    def measures_units(self) -> bool:
        """Return that they always are."""
        return True

    def blocks_on(self, device: str) -> int:
        """Return `round_to`, or what kernels on this device like."""
        if self.round_to is not None:
            return self.round_to
        return 64 if device == "cuda" else 16

    @property
    def measures_time(self) -> bool:
        """Return whether a latency table is measured."""
        return self.target == "latency" and self.latency_table is None

    def unfit_to(self, files: CheckpointFiles, untouched: CheckpointFiles) -> Unfit:
        """Yield what cannot go from a model type, and a target that cannot be measured for it."""
        yield from super().unfit_to(files, untouched)
        if (refusal := no_reconstruction(files.config)) is not None:
            yield "method", refusal
        if self.target == "latency" and (reason := why_no_latency(files.config)) is not None:
            yield "target", reason
        if self.refit_inputs and (reason := why_no_layers_apart(files.config)) is not None:
            yield "refit_inputs", f"{reason}, and one fit suits no two of their runs; remove it"

    def required_files(self) -> dict[str, Path]:
        """Return the latency table, where one is given."""
        return {} if self.latency_table is None else {"latency_table": self.latency_table}

    def calibration_rows_wanted(self) -> int:
        """Return four times what is read, because long rows are preferred."""
        return ROWS_TO_CHOOSE_FROM * self.calibration_rows

    def spare_rows_wanted(self) -> int:
        """Return what is read, for least squares."""
        return self.calibration_rows
