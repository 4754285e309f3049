"""A quantization in progress: what all passes over the weights of a graph begin and end with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from onnx import ModelProto

from compressor.errors import StepFailed
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.element_types import opset_version
from compressor.onnx_graph.int8_convolutions import convolution_values
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.onnx_graph.quantizable_weights import (
    QuantizableWeight,
    activation_names,
    find_quantizable_weights,
    has_filters,
    integer_operators,
    lift_constants,
    part_shared_tables,
)
from compressor.passes.base import ENOUGH_TO_OBSERVE, PassContext
from compressor.passes.quantize.settings import FILTERS_TAKEN_BY, WeightSettings
from compressor.words import counted, listing, verb_for

_OLDEST_OPSET = 10  # the first with QuantizeLinear

Settings = TypeVar("Settings", bound=WeightSettings)
Settings_co = TypeVar("Settings_co", bound=WeightSettings, covariant=True)


@dataclass(frozen=True)
class Quantization(Generic[Settings_co]):
    """A float graph, changed in place, and those of its weights that are to become integers.

    `model` is what the graph was read from and how it is run. `left_in_float` lists which weights
    stay in float by the settings, and why; empty where none does.
    """

    settings: Settings_co
    model: OnnxModel
    context: PassContext
    graph: ModelProto
    weights: tuple[QuantizableWeight, ...]
    left_in_float: str

    @property
    def matrices(self) -> tuple[QuantizableWeight, ...]:
        """Return the weights that are multiplied with."""
        return tuple(weight for weight in self.weights if weight.kind == "matrix")

    @property
    def tables(self) -> tuple[QuantizableWeight, ...]:
        """Return the weights that are looked up by row."""
        return tuple(weight for weight in self.weights if weight.kind == "table")

    @property
    def activations(self) -> tuple[str, ...]:
        """Return the names of the activations that the matrices multiply."""
        return activation_names(self.graph, self.weights)

    @property
    def convolution_values(self) -> tuple[str, ...]:
        """Return the names of the values that convolutions with filters of integers read or give.

        Their second axis is the channels.
        """
        return convolution_values(self.graph, self.weights)

    def without(self, names: Iterable[str]) -> Quantization[Settings_co]:
        """Return the same quantization with fewer weights."""
        left = set(names)
        kept = tuple(weight for weight in self.weights if weight.name not in left)
        return replace(self, weights=kept)

    def save(self) -> OnnxModel:
        """Write the graph into the pass's folder and return it as a model."""
        path = self.context.work_dir / "model.onnx"
        save_graph(self.graph, path)
        return OnnxModel(path, provider=self.model.provider, threads=self.model.threads)

    def note_leftovers(self) -> None:
        """Note which weights stay in float by the settings."""
        if self.left_in_float:
            self.context.note(f"Left in float: {self.left_in_float}.")


def find_weights(
    settings: Settings, model: OnnxModel, context: PassContext
) -> Quantization[Settings]:
    """Read the graph of `model` and find the weights that `settings` say become integers.

    Raises `StepFailed` when a calibration split that is read is empty, when the graph is already
    quantized or older than integers, when a pattern matches nothing and when nothing is left.
    """
    _check_calibration(settings, context)
    graph = load_graph(model.path)
    if present := integer_operators(graph):
        raise StepFailed(
            f"the graph is already quantized (it has {', '.join(present)}); remove one of the "
            f"quantizing passes"
        )
    check_opset(graph, _OLDEST_OPSET, "integers to quantize to")
    for key, needed in settings.needs_opset.items():
        if getattr(settings, key) == needed.value:
            check_opset(graph, needed.oldest, f"{needed.value} for {key}")
    lift_constants(graph)
    found = find_quantizable_weights(graph, filters=settings.takes_filters)
    _check_patterns(settings.exclude, found)
    if settings.no_tables is None:  # else the file would only grow by a second table
        large = [weight for weight in found if weight.num_elements >= settings.min_elements]
        parted = part_shared_tables(
            graph,
            (
                weight.name
                for weight in large
                if not any(_matches(pattern, weight) for pattern in settings.exclude)
            ),
        )
        if parted:
            context.note(
                f"Lookup and matmul read {listing(parted)} as one weight in float, and have one of "
                f"their own each as integers."
            )
            found = find_quantizable_weights(graph, filters=settings.takes_filters)
    chosen = []
    groups: dict[str, list[str]] = defaultdict(list)
    for weight in found:
        if (reason := _reason_for_float(weight, settings)) is None:
            chosen.append(weight)
        else:
            groups[reason].append(weight.name)
    left = "; ".join(f"{listing(names)} ({reason})" for reason, names in groups.items())
    if not chosen:
        none_found = (
            "no matmul and no lookup of the graph has constant weights, as where weights are "
            "inputs of it; export the model with its weights inside"
        )
        if has_filters(graph) and not settings.takes_filters:
            none_found = "no matmul and no lookup of the graph has constant weights"
            left = (
                f"{left or none_found}; its convolutions stay in float without {FILTERS_TAKEN_BY}"
            )
        raise StepFailed(f"nothing is left to quantize: {left or none_found}")
    return Quantization(settings, model, context, graph, tuple(chosen), left)


def check_opset(graph: ModelProto, oldest: int, lacking: str) -> None:
    """Raise `StepFailed` for an operator set before `oldest`, which is `lacking` something."""
    if (version := opset_version(graph)) < oldest:
        raise StepFailed(
            f"the graph is of operator set {version}, which has no {lacking}; export it with "
            f"operator set {oldest} or newer"
        )


@contextmanager
def finite_numbers_expected() -> Iterator[None]:
    """Say where to look when a weight, an activation or a logit turns out not to be finite."""
    try:
        yield
    except StepFailed as error:
        raise StepFailed(f"{error}; the checkpoint or the pass before is broken") from error


def _check_calibration(settings: WeightSettings, context: PassContext) -> None:
    """Refuse a calibration split without rows, and note one with few that train cannot fill."""
    if "calibration" not in settings.required_splits():
        return
    own, spare = context.calibration, context.calibration.spare
    if len(own) == 0:
        raise StepFailed(
            f"{own.source}: this pass runs calibration rows, and there are none; give "
            f"data.calibration at least one row"
        )
    if (found := len(own) + (0 if spare is None else len(spare))) < ENOUGH_TO_OBSERVE:
        context.note(
            f"Only {counted(found, 'calibration row')} could be read, which "
            f"{verb_for(found, 'says', 'say')} little of other inputs; give data.calibration "
            f"{ENOUGH_TO_OBSERVE} or more, or data.train, from which missing ones are taken."
        )


def _check_patterns(patterns: Iterable[str], weights: Iterable[QuantizableWeight]) -> None:
    for position, pattern in enumerate(patterns):
        if not any(_matches(pattern, weight) for weight in weights):
            raise StepFailed(
                f"exclude[{position}]: '{pattern}' matches no weight and no node; weights are "
                f"{listing(weight.name for weight in weights)}"
            )


def _reason_for_float(weight: QuantizableWeight, settings: WeightSettings) -> str | None:
    """Return why `weight` stays in float, None when it becomes an integer."""
    if weight.kind == "table" and settings.no_tables is not None:
        return settings.no_tables
    if any(_matches(pattern, weight) for pattern in settings.exclude):
        return "excluded"
    if weight.num_elements < settings.min_elements:
        return f"fewer than {settings.min_elements} weights"
    return weight.obstacle


def _matches(pattern: str, weight: QuantizableWeight) -> bool:
    return any(fnmatchcase(name, pattern) for name in (weight.name, *weight.nodes))
