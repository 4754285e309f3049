"""The facts about where a run is made, which make its numbers repeatable.

Part of what `report.json` holds, as those of `compressor.measurements`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict
from typing_extensions import TypedDict


class Cpu(TypedDict, total=False):
    """The processor of the machine that a run was made on."""

    model: str | None
    """Name of the processor. Null: the system does not tell."""
    logical_cores: int | None
    """Cores that the system shows. Null: the system does not tell."""
    features: list[str] | None
    """Features that decide which integer kernels run. Null: null: the system does not tell;
    empty: none of them."""


class Processes(TypedDict):
    """The processes that trained together."""

    count: int
    """How many."""
    sharded: bool
    """Whether parameters and optimizer state were divided among them (FSDP2)."""


class Environment(TypedDict, total=False):
    """What makes a number repeatable; a report may lack some of it, and know more."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    python: str
    """Version."""
    platform: str
    """Operating system and kernel."""
    cpu: Cpu
    """The processor."""
    gpu: str | None
    """Name of the GPU. Null: there is none."""
    device: str
    """Where PyTorch ran."""
    threads: int
    """Threads of ONNX Runtime within one operator."""
    seed: int
    """Seed of the run."""
    packages: Mapping[str, str]
    """Version of each package that a result depends on."""
    onnxruntime_providers: list[str]
    """Execution providers that this onnxruntime has."""
    variables: Mapping[str, str]
    """Environment variables, of those that were set, by which libraries choose kernels,
    precision or numbers of threads. Empty when none was set."""
    processes: Processes
    """The processes that trained together. Absent: there was one."""
