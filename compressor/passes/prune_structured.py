"""Structured pruning as a step of a recipe: heads, neurons and layers go for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from compressor.passes._base import PassContext, TorchPass
from compressor.training.settings import Recovery

if TYPE_CHECKING:
    from compressor.models.torch_model import TorchModel


class PruneStructured(TorchPass):
    """Remove attention heads, feed-forward neurons and whole layers physically, then recover.

    Layers go first; ratios then refer to the layers that are left. What goes together is found by
    torch-pruning's dependency graph.

    Ref: dependency graph: Fang et al. 2023, arXiv:2301.12900; heads: Michel et al. 2019,
    arXiv:1905.10650; Taylor importance: Molchanov et al. 2019, arXiv:1906.10771; layers chosen by
    the loss without them: Kim et al. 2024, arXiv:2402.02834.
    """

    kind: Literal["prune_structured"] = "prune_structured"

    ratio: float | None = Field(
        None, gt=0, lt=1, description="fraction of the heads and of the FFN neurons that go"
    )
    head_ratio: float | None = Field(
        None, ge=0, lt=1, description="fraction of the heads that go, in place of `ratio`"
    )
    neuron_ratio: float | None = Field(
        None, ge=0, lt=1, description="fraction of the FFN neurons that go, in place of `ratio`"
    )
    layers: int | None = Field(
        None,
        gt=0,
        description=(
            "number of layers that stay; one after another goes the layer without which the loss "
            "on the calibration split is lowest"
        ),
    )
    drop_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="layers that go, counted from 0, in place of `layers`"
    )
    importance: Literal["random", "magnitude", "taylor"] = Field(
        "taylor",
        description=(
            "what says which heads and neurons matter least: chance, the norm of their weights, "
            "or gradients on the calibration split"
        ),
    )
    scope: Literal["layer", "global"] = Field(
        "global",
        description="rank the units of all layers together, or take the same ratio of every layer",
    )
    round_to: int = Field(
        8, gt=0, le=1024, description="each layer keeps a multiple of this many FFN neurons"
    )
    may_empty_layers: bool = Field(
        False,
        description="let a layer lose all its heads or all its FFN neurons, not only nearly all",
    )
    steps: int = Field(
        1,
        gt=0,
        le=100,
        description="reach the ratios in this many equal steps, each followed by the recovery",
    )
    calibration_rows: int = Field(
        256, gt=0, description="examples of the calibration split to measure importance on, at most"
    )
    recovery: Recovery | None = Field(
        None, description="training after each step (`kind: finetune` or `kind: distill`)"
    )

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
    def changes_layers(self) -> bool:
        """Return whether whole layers go."""
        return self.layers is not None or self.drop_layers is not None

    @property
    def measures_units(self) -> bool:
        """Return whether heads and neurons are measured on the calibration split."""
        removes_units = self.heads_to_remove > 0 or self.neurons_to_remove > 0
        return removes_units and self.importance == "taylor"

    def required_splits(self) -> frozenset[str]:
        """Return the calibration split when something is measured, train when there is recovery."""
        splits = {"calibration"} if self.measures_units or self.layers is not None else set()
        return frozenset(splits if self.recovery is None else {*splits, "train"})

    def apply(self, model: TorchModel, context: PassContext) -> TorchModel:
        """Prune `model` in place.

        Raises `ValueError` before anything is trained when the ratios, `layers` or `drop_layers`
        cannot be met by this model; `UnsupportedArchitecture` is one of them.
        """
        from compressor.passes._structured import prune_and_recover

        return prune_and_recover(model, self, context)
