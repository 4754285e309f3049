"""The pass protocol: a frozen settings object with one verb.

The YAML entry, the constructor call and the documentation are the same thing, and a pass cannot
carry state from one call to the next. Pass modules import torch and everything built on it inside
`apply`, never at their top: `compress validate` reads every pass's settings, and must answer
without loading torch.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from compressor.progress import Progress

if TYPE_CHECKING:
    import torch

    from compressor.data import Dataset
    from compressor.models.onnx_model import OnnxModel
    from compressor.models.torch_model import TorchModel


@dataclass(frozen=True)
class PassContext:
    """What the pipeline lends a pass.

    It holds neither the search nor the certification split, so no pass can tune on them. A split
    is there when the pass names it in `required_splits`.
    """

    splits: dict[str, Dataset]
    load_baseline: Callable[[], TorchModel]
    device: torch.device
    seed: int
    work_dir: Path  # scratch space of this pass alone; removed when the run succeeds
    progress: Progress
    note: Callable[[str], None]  # adds a sentence to this pass's place in the report
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

    def record(self, name: str, value: Any) -> None:
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


class Pass(BaseModel, ABC):
    """One step of a recipe: its fields are its settings, `apply` is its work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str  # a Literal in each pass; the same word as its file name
    # Providers the result can run on; None means all of them.
    providers: ClassVar[tuple[str, ...] | None] = None

    def required_splits(self) -> frozenset[str]:
        """Return the splits this pass reads with its present settings."""
        return frozenset()

    def required_checkpoints(self) -> tuple[str, ...]:
        """Return the checkpoints besides the recipe's that this pass reads, such as a teacher."""
        return ()


class TorchPass(Pass):
    """A pass over the PyTorch model; it runs before export."""

    @abstractmethod
    def apply(self, model: TorchModel, context: PassContext) -> TorchModel:
        """Return the compressed model. The pass owns `model` and may change it."""


class OnnxPass(Pass):
    """A pass over the exported graph."""

    @abstractmethod
    def apply(self, model: OnnxModel, context: PassContext) -> OnnxModel:
        """Write a new file into `context.work_dir`; the input file stays as it was."""
