"""The session of ONNX Runtime that computes an artifact, and whether the installed one can."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from .errors import EnvironmentMismatch
from .manifest import MANIFEST
from .openvino_session import OPENVINO, PRECISION, OpenvinoSession, Precision, load_openvino
from .versions import parse_version

MIN_RUNTIME = "min_onnxruntime"  # the key of a manifest
# What onnxruntime calls a provider, followed by those that may take what it has no kernel for.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
SESSION_FAILURES = (
    ort_errors.EngineError,
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotFound,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    UnicodeDecodeError,  # its own message quotes a name in the file that is not UTF-8
)
_BYTES = (np.dtype(np.int8), np.dtype(np.uint8))
# An entry of a tensor's `external_data` as protobuf writes it: field 1, the key, and field 2.
_LOCATION = b"\x0a\x08location\x12"


def session_options(
    *, threads: int | None, keeps_memory: bool = True, as_written: bool = False
) -> onnxruntime.SessionOptions:
    """Return the options of a session that computes with so many threads, None for one a core.

    One that `keeps_memory` of a run for the next is faster. `as_written` lets the CPU compute
    quantize-dequantize pairs in float, as they are written.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: one for each physical core
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = keeps_memory
    options.enable_mem_pattern = keeps_memory
    options.log_severity_level = 3  # errors
    # Otherwise the threads of one session keep spinning while another one runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


@dataclass(frozen=True)
class Opening:
    """How the graph of an artifact is opened; `as_written` is as for `session_options`."""

    provider: str
    precision: Precision
    as_written: bool


def opening_of(directory: Path, manifest: Mapping[str, Any], provider: str | None) -> Opening:
    """Return how an artifact is opened on `provider`, None for what it was made for.

    That is OpenVINO for an artifact made for it, and otherwise the CPU. Pairs made for OpenVINO
    keep 16-bit sums from overflowing, so ONNX Runtime may make integer matmuls of them.

    Raises `EnvironmentMismatch` where an artifact was made for OpenVINO, which is not installed.
    """
    made_for = manifest.get("provider", "cpu")
    if provider is None and made_for == OPENVINO:
        try:
            load_openvino()
        except EnvironmentMismatch as error:
            raise EnvironmentMismatch(
                f"{directory}: was made and judged for OpenVINO: {error}; or load it with provider "
                f"cpu, where it was not judged"
            ) from error
    chosen = provider or (OPENVINO if made_for == OPENVINO else "cpu")
    judged_in: Precision = manifest.get(OPENVINO, {}).get(PRECISION, "fp32")
    return Opening(
        provider=chosen,
        precision=judged_in if chosen == OPENVINO else "fp32",
        as_written=chosen == "cpu" and made_for not in ("cpu", OPENVINO),
    )


class Graph:
    """The graph of an artifact in a session that threads may share."""

    def __init__(
        self,
        path: Path,
        *,
        opening: Opening,
        threads: int | None,
        output: str,
        streams: int = 1,
    ) -> None:
        own = opening
        self.session: Any = (
            OpenvinoSession(
                path, threads=threads, precision=own.precision, streams=streams, place=str(path)
            )
            if own.provider == OPENVINO
            else _session(path, own.provider, threads=threads, as_written=own.as_written)
        )
        if output not in (given := [item.name for item in self.session.get_outputs()]):
            raise EnvironmentMismatch(
                f"{path}: has outputs {', '.join(given)} but none called {output}; copy the "
                f"artifact again"
            )
        self.output = output
        self.inputs = tuple(item.name for item in self.session.get_inputs())

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return what the graph gives for a batch: float32, or bytes where it gives some."""
        feed = {name: batch[name] for name in self.inputs}
        found = np.asarray(self.session.run([self.output], feed)[0])
        return found if found.dtype in _BYTES else found.astype(np.float32, copy=False)

    def some_at_a_time(self, batch: Mapping[str, NDArray[Any]], most: int) -> NDArray[Any]:
        """Return what the graph gives for a batch, of which it reads at most `most` rows together.

        A long document is many rows, which would take memory that its examples do not.
        """
        count = len(next(iter(batch.values())))
        if count <= most:
            return self(batch)
        parts = [
            self({name: value[start : start + most] for name, value in batch.items()})
            for start in range(0, count, most)
        ]
        return np.concatenate(parts)


def _session(
    path: Path, provider: str, *, threads: int | None, as_written: bool
) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime's session of a graph that really runs on `provider`."""
    names = PROVIDERS.get(provider)
    if names is None:
        raise EnvironmentMismatch(
            f"provider '{provider}' is not known (allowed: {', '.join([*PROVIDERS, OPENVINO])})"
        )
    if names[0] not in (there := onnxruntime.get_available_providers()):
        raise EnvironmentMismatch(
            f"provider '{provider}' is not in this onnxruntime {onnxruntime.__version__} "
            f"(has: {', '.join(there)}); install onnxruntime-gpu, or take cpu"
        )
    if provider != "cpu":
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
    options = session_options(threads=threads, as_written=as_written)
    try:
        # Without enable_fallback=0 a provider that fails is replaced by the CPU.
        session = onnxruntime.InferenceSession(
            str(path), options, providers=list(names), enable_fallback=0
        )
    except SESSION_FAILURES as error:
        raise EnvironmentMismatch(
            f"{path}: provider '{provider}' cannot run this graph: {error}; copy the artifact again"
        ) from error
    if (ran := session.get_providers()[0]) != names[0]:
        raise EnvironmentMismatch(
            f"{path}: provider '{provider}' did not start, and {ran} would compute; check the "
            f"GPU, its driver and the CUDA libraries, or take cpu"
        )
    return session


def weights_beside(path: Path, listed: Collection[str]) -> tuple[PurePosixPath, ...]:
    """Return the files beside a graph that it reads weights from, where one may not be `listed`.

    The graph is searched only where its folder holds files that are not: what is not there is not
    read, and ONNX Runtime itself refuses a graph that names a file outside of its folder.
    """
    beside = (item for item in path.parent.rglob("*") if item.is_file())
    others = {item.relative_to(path.parent).as_posix() for item in beside} - {*listed, MANIFEST}
    return tuple(map(PurePosixPath, sorted(others & _named(path)))) if others else ()


def _named(path: Path) -> set[str]:
    """Return what a graph calls its files of weights."""
    content = path.read_bytes()
    found = set()
    start = content.find(_LOCATION)
    while start >= 0:
        place = start + len(_LOCATION)
        length = shift = 0  # a number of 7 bits a byte, and then the text
        while place < len(content):
            length |= (content[place] & 0x7F) << shift
            shift += 7
            place += 1
            if content[place - 1] < 0x80:
                break
        name = content[place : place + length].decode("utf-8", "replace")
        found.add(PurePosixPath(name).as_posix())
        start = content.find(_LOCATION, start + 1)
    return found


def require_runtime(directory: Path, manifest: Mapping[str, object]) -> None:
    """Raise `EnvironmentMismatch` when this ONNX Runtime is older than a manifest asks for.

    Artifacts of earlier versions of this package do not say what they ask for.
    """
    asked = manifest.get(MIN_RUNTIME)
    if asked is None:
        return
    found = parse_version(asked) if isinstance(asked, str) else None
    if found is None:
        raise EnvironmentMismatch(
            f"{directory}/manifest.json: {MIN_RUNTIME} must be a version such as 1.24.1, got "
            f"{str(asked)[:40]!r}; copy the artifact again"
        )
    here = parse_version(onnxruntime.__version__)
    if here is not None and here < found:
        raise EnvironmentMismatch(
            f"{directory}: needs onnxruntime {asked} or newer, and {onnxruntime.__version__} is "
            f"installed, which lacks what the graph uses; install a newer onnxruntime, or make the "
            f"artifact again with a lower export.opset"
        )
