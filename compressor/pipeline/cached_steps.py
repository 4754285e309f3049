"""Models as they lie in the step store: where, and what stands for their content in later keys."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, final

from compressor.measurements import ComponentBytes, Latency, RuntimeLatency, Size
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.pipeline.step_store import Step

CHECKPOINT = "checkpoint"  # the folder of a PyTorch model in a step


@final
@dataclass(frozen=True)
class StoredCheckpoint:
    """A PyTorch model on disk; `digest` stands for its content in the keys of later steps."""

    files: CheckpointFiles
    digest: str


@final
@dataclass(frozen=True)
class StoredGraph:
    """An ONNX model on disk, and the checkpoint that it was exported from.

    `is_artifact` says that the folder holds all that ships, its own tokenizer among it. `merged`
    are the parameters, and the non-zero ones of them, that the export stored once for several,
    such as biases that are all alike, or left out because nothing reads them.
    """

    path: Path
    digest: str
    checkpoint: StoredCheckpoint
    is_artifact: bool = False
    merged: tuple[int, int] = (0, 0)

    def as_in_pytorch(self, size: Size) -> Size:
        """Return the `size` of this graph, or of what a pass made of it, with every parameter.

        So that models are counted alike before and after the export.
        """
        parameters, nonzero = self.merged
        return dataclasses.replace(
            size,
            parameters=size.parameters + parameters,
            nonzero_parameters=size.nonzero_parameters + nonzero,
        )


StoredModel = StoredCheckpoint | StoredGraph
AnyStored = TypeVar("AnyStored", StoredCheckpoint, StoredGraph)


@dataclass(frozen=True)
class Exported:
    """A graph, and what it takes on disk."""

    graph: StoredGraph
    size: Size
    components: ComponentBytes


@dataclass(frozen=True)
class Latencies:
    """The latencies of one provider, as one fact."""

    latencies: tuple[Latency, ...]


@dataclass(frozen=True)
class RuntimeLatencies:
    """The latencies of one artifact in several runtimes, as one fact."""

    latencies: tuple[RuntimeLatency, ...]


def checkpoint_of(step: Step) -> StoredCheckpoint:
    """Return the PyTorch model that a step gave."""
    return StoredCheckpoint(find_checkpoint(str(step.folder / CHECKPOINT)), step.digest)


def graph_of(
    step: Step, checkpoint: StoredCheckpoint, merged: tuple[int, int] = (0, 0)
) -> StoredGraph:
    """Return the graph that a step gave; `checkpoint` is what it was exported from."""
    [name] = [name for name in step.files if name.endswith(".onnx")]
    return StoredGraph(step.folder / name, step.digest, checkpoint, merged=merged)


def exported(step: Step, graph: StoredGraph) -> Exported:
    """Return `graph` with what the step measured about it."""
    return Exported(
        graph, graph.as_in_pytorch(step.fact("size", Size)), step.fact("components", ComponentBytes)
    )


@dataclass
class Told:
    """What a pass said about its work so far, kept apart so that it survives a failure."""

    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PassResult(Generic[AnyStored]):
    """What a pass gave, and how long it took when it was really done."""

    model: AnyStored
    size: Size
    seconds: float
    reused: bool
