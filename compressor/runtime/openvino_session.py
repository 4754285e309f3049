"""The session of OpenVINO that computes a graph on the CPU.

OpenVINO is loaded where a session is opened, and nowhere else. What it does by itself is not left
to it: on a CPU with AMX or AVX-512 BF16 it would compute float32 graphs in bfloat16, quantize the
activations of matmuls with packed weights, pin its threads to the cores that another process pins
its own to, and report its first import to its maker.
"""

from __future__ import annotations

import importlib
import queue
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EnvironmentMismatch
from .manifest import OPENVINO as OPENVINO
from .manifest import PRECISION as PRECISION
from .manifest import Precision as Precision

REQUIREMENT = "openvino>=2026.4,<2027"  # as pyproject.toml has it
PRECISION_HINT = "INFERENCE_PRECISION_HINT"
_HINTS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16"}
_CPU = "CPU"
_REPORTS = "openvino_telemetry"


@dataclass(frozen=True)
class Value:
    """An input or output of a graph; free axes of its `shape` are None."""

    name: str
    shape: tuple[int | None, ...]


def load_openvino() -> ModuleType:
    """Return the package; raises `EnvironmentMismatch` where it is not installed or broken."""
    try:
        with _no_reports():
            return importlib.import_module(OPENVINO)
    except ImportError as error:
        raise EnvironmentMismatch(
            f"provider 'openvino' needs the package openvino, which cannot be loaded ({error}); "
            f"install it: pip install '{REQUIREMENT}'"
        ) from error


@contextmanager
def _no_reports() -> Iterator[None]:
    """Let OpenVINO find its package of usage reports missing, for which it has a stand-in.

    Otherwise an import sends an event over the network and writes into the home directory.
    """
    if _REPORTS in sys.modules:
        yield
        return
    sys.modules[_REPORTS] = None  # type: ignore[assignment]  # an import of it fails
    try:
        yield
    finally:
        del sys.modules[_REPORTS]


def openvino_version() -> str:
    """Return the version that is installed, such as `2026.4.1`; raises as `load_openvino` does."""
    return str(load_openvino().__version__).partition("-")[0]


def openvino_properties(
    *, threads: int | None, precision: Precision = "fp32", streams: int = 1
) -> dict[str, str | int | bool]:
    """Return what a model is compiled with, by OpenVINO's names.

    `threads` are those of one batch, None for one a core; `streams` is how many batches are
    computed at the same time.
    """
    properties: dict[str, str | int | bool] = {
        PRECISION_HINT: _HINTS[precision],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # otherwise activations of packed weights are rounded
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,
        "CACHE_DIR": "",
    }
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads * streams
    return properties


class OpenvinoSession:
    """A compiled graph that threads may share; it has the methods of ONNX Runtime's that are used.

    As many threads as it has `streams` compute at the same time, others wait.
    """

    def __init__(
        self,
        source: Path | bytes,
        *,
        threads: int | None,
        precision: Precision = "fp32",
        streams: int = 1,
        place: str,
    ) -> None:
        """Compile a graph for the CPU; `place` is what messages begin with.

        Raises `EnvironmentMismatch` when OpenVINO is not installed or does not know an operator of
        the graph, and when this CPU does not compute in `precision`. Running out of memory is a
        `RuntimeError`.
        """
        openvino = load_openvino()
        self.properties = openvino_properties(threads=threads, precision=precision, streams=streams)
        core = openvino.Core()
        try:
            model = core.read_model(source if isinstance(source, bytes) else str(source))
            self._compiled = core.compile_model(model, _CPU, self.properties)
        except RuntimeError as error:
            if "bad_alloc" in str(error) or "allocat" in str(error):
                raise
            raise EnvironmentMismatch(
                f"{place}: provider 'openvino' cannot run this graph: {_told(error)}; a damaged "
                f"file has to be made again, a graph with operators that OpenVINO "
                f"{openvino_version()} does not know needs another provider"
            ) from error
        ran = self._compiled.get_property(PRECISION_HINT).to_string()
        if ran != _HINTS[precision]:
            raise EnvironmentMismatch(
                f"{place}: asks for {precision} in OpenVINO, which computes in {ran} on this CPU; "
                + (
                    "bf16 needs AVX-512 BF16 or AMX: take precision fp32"
                    if precision == "bf16"
                    else "install another release of OpenVINO"
                )
            )
        self._inputs = {_input_name(port): port for port in self._compiled.inputs}
        # What was joined into an output gave it further names.
        self._outputs = {
            str(name): port for port in self._compiled.outputs for name in sorted(port.get_names())
        }
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._idle.put(self._compiled.create_infer_request())

    def run(
        self, names: Sequence[str], feed: Mapping[str, NDArray[Any]], options: None = None
    ) -> list[NDArray[Any]]:
        """Return the outputs called `names` for the inputs in `feed`.

        Raises `ValueError` where `feed` lacks an input: OpenVINO would take that of an earlier run.
        """
        assert options is None, "options of a run are ONNX Runtime's"
        if missing := self._inputs.keys() - feed.keys():
            raise ValueError(f"the graph reads {', '.join(sorted(missing))} too")
        inputs = {self._inputs[name]: np.ascontiguousarray(value) for name, value in feed.items()}
        request = self._idle.get()
        try:
            request.infer(inputs)
            return [np.array(request.get_tensor(self._outputs[name]).data) for name in names]
        finally:
            self._idle.put(request)

    def get_inputs(self) -> list[Value]:
        """Return what the graph reads."""
        return [Value(name, _shape(port)) for name, port in self._inputs.items()]

    def get_outputs(self) -> list[Value]:
        """Return what the graph gives, an output once for each name that it has."""
        return [Value(name, _shape(port)) for name, port in self._outputs.items()]


def _input_name(port: Any) -> str:
    """Return the name of an input in its ONNX file, which OpenVINO calls its node by."""
    own, names = port.get_node().get_friendly_name(), port.get_names()
    return str(own if own in names else min(names))


def _shape(port: Any) -> tuple[int | None, ...]:
    return tuple(
        None if axis.is_dynamic else int(axis.get_length()) for axis in port.get_partial_shape()
    )


def _told(error: RuntimeError) -> str:
    """Return the lines of a message that are not the places in OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(told or lines)[:600]
