"""What an inspection establishes; `to_dict` of these is what `compress inspect --json` prints.

The keys are documented in `compressor/inspection/schema.md`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compressor.measurements import ComponentBytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

INSPECT_VERSION = 1

SaturationVerdict = Literal["exact_everywhere", "can_saturate", "no_integer_products"]


@dataclass(frozen=True)
class InputFacts:
    """One input of a graph; a free axis of `shape` is a name or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class MatmulFacts:
    """One integer matmul, as ONNX Runtime runs it on the CPU.

    `worst_16_bit_sum` is the largest sum of two products that some activations reach; beyond 32767
    it saturates on CPUs without VNNI. The numbers of pairs are null where the types alone make the
    matmul exact, and where its right-hand factor is not known before it runs.
    """

    node: str
    operator: str
    weight: str | None
    component: str
    layer: int | None
    inner: int | None  # K
    columns: int | None  # N
    activations: str
    weights: str
    can_saturate: bool
    pairs: int | None
    risky_pairs: int | None
    risky_columns: int | None
    worst_16_bit_sum: int | None
    simulated: bool

    @property
    def risk_known(self) -> bool:
        """Whether the verdict comes from the weights' values and not from the types alone."""
        return self.pairs is not None


@dataclass(frozen=True)
class LogitChange:
    """By how much saturation moves the logits; `flips` are rows whose arg-max changes."""

    inputs: str  # where the rows came from
    rows: int
    max_abs: float
    rms: float
    rms_of_logits: float
    flips: int | None  # None when the output is not one row of classes for each example


@dataclass(frozen=True)
class SaturationFacts:
    """Whether the integer matmuls of a file are the same on every x86 CPU."""

    verdict: SaturationVerdict
    products: tuple[MatmulFacts, ...]
    logits: LogitChange | None  # null when nothing can saturate, or nothing could be simulated


@dataclass(frozen=True)
class OnnxFacts:
    """What an .onnx file holds and runs."""

    path: str
    bytes_on_disk: int
    parameters: int
    nonzero_parameters: int
    not_finite: Mapping[str, int]  # by the name of a weight that has NaN or infinity
    components: ComponentBytes
    opsets: Mapping[str, int]
    producer: str
    inputs: tuple[InputFacts, ...]
    outputs: tuple[InputFacts, ...]
    operators: Mapping[str, int]  # in the file
    runtime_operators: Mapping[str, int]  # after ONNX Runtime's own fusions
    saturation: SaturationFacts
    kind: Literal["onnx"] = "onnx"
    inspect_version: int = INSPECT_VERSION


def to_dict(facts: DataclassInstance) -> dict[str, object]:
    """Return facts as plain JSON values; a number that is not finite, which JSON lacks, is null."""
    return {name: _finite(value) for name, value in dataclasses.asdict(facts).items()}


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
