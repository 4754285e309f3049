"""An .onnx file and the session that runs it, on the execution provider that was asked for.

ONNX Runtime answers a missing GPU by running on the CPU with no more than a log line, so a latency
could carry the name of a provider that never ran. Sessions are only opened here, and only handed
out when the provider is registered and computes every node that matters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.errors import EnvironmentMismatch, shortened
from compressor.machine.memory import is_out_of_memory
from compressor.measurements import ComponentBytes, Size
from compressor.models.components import component_bytes
from compressor.models.provider_options import PLAIN, ProviderSettings, provider_options
from compressor.onnx_graph.onnx_file import (
    bytes_on_disk,
    compressed_bytes,
    load_graph,
    parameter_counts,
)
from compressor.runtime.openvino_session import OPENVINO, OpenvinoSession, Precision
from compressor.runtime.session import PROVIDERS, session_options
from compressor.runtime.session import SESSION_FAILURES as SESSION_FAILURES
from compressor.tasks import Batch, output_names

OUTPUT = "logits"
Session: TypeAlias = onnxruntime.InferenceSession | OpenvinoSession

_BYTES = (np.dtype(np.int8), np.dtype(np.uint8))
_MOST_CHARACTERS = 600  # of a foreign message, which quotes names of any length

# The operators that take the time of an encoder. Everything else may run on the CPU: shape
# arithmetic belongs there, CUDA itself asks for that.
_COMPUTE = frozenset(
    (
        "Attention",
        "BiasGelu",
        "Conv",
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalization",
        "FastGelu",
        "FusedMatMul",
        "Gelu",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "PackedMultiHeadAttention",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "SkipLayerNormalization",
        "Softmax",
    )
)


@dataclass(frozen=True)
class OnnxModel:
    """An .onnx file that is never changed in place; its session opens with the first prediction.

    `threads` are those within one operator, None leaves the number to the runtime (the physical
    cores). `settings` say how a GPU is used, and `streams` how many batches OpenVINO computes at
    the same time. One that does not spin costs less CPU time and gives the same outputs, for what
    is not timed: threads that have nothing to do wait, in place of trying again and again.
    """

    path: Path
    provider: str = "cpu"
    threads: int | None = None
    settings: ProviderSettings = PLAIN
    streams: int = 1
    spins: bool = True

    @cached_property
    def session(self) -> Session:
        """Return the open session; raises `EnvironmentMismatch` like `open_session`."""
        return open_session(
            self.path,
            self.provider,
            threads=self.threads,
            settings=self.settings,
            streams=self.streams,
            spins=self.spins,
        )

    @property
    def output_name(self) -> str:
        """Return what the graph gives, named as the task names it."""
        return output_of(self.session)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Return what the graph reads, named as the tokenizer names it."""
        return tuple(item.name for item in self.session.get_inputs())

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Return the output that the task names, such as logits of shape `(batch, num_labels)`.

        It is float32, or what the graph gives where that is bytes, int8 or uint8. Entries of
        `batch` that the graph does not read are left out.

        Raises `EnvironmentMismatch` when one that it reads is missing.
        """
        outputs = np.asarray(self.session.run([self.output_name], self.feed(batch))[0])
        return outputs if outputs.dtype in _BYTES else outputs.astype(np.float32, copy=False)

    def size(self) -> Size:
        """Return how large the file is, in parameters, bytes, and bytes after gzip."""
        parameters, nonzero = parameter_counts(self.path)
        return Size(parameters, nonzero, bytes_on_disk(self.path), compressed_bytes(self.path))

    def components(self) -> ComponentBytes:
        """Return how many bytes of the file each part of the encoder takes."""
        return component_bytes(self.path)

    def feed(self, batch: Batch) -> Batch:
        """Return the entries of `batch` that the graph reads."""
        return feed_of(self.session, batch, self.path)


def feed_of(session: Session, batch: Batch, path: Path) -> Batch:
    """Return the entries of `batch` that a session of the graph in `path` reads.

    Raises `EnvironmentMismatch` when one is missing.
    """
    names = [item.name for item in session.get_inputs()]
    missing = [name for name in names if name not in batch]
    if missing:
        raise EnvironmentMismatch(
            f"{path}: the graph reads {', '.join(missing)}, the batch holds {', '.join(batch)}; "
            f"use the tokenizer or image processor it was exported with"
        )
    return {name: batch[name] for name in names}


def open_content(content: bytes, path: Path) -> Session:
    """Open a session on the CPU, with one thread, of a graph that was made from the one in `path`.

    Raises `EnvironmentMismatch` when it cannot run.
    """
    return _open(content, "cpu", threads=1, place=str(path))


def open_session(
    path: Path,
    provider: str,
    *,
    threads: int | None = None,
    keeps_memory: bool = True,
    settings: ProviderSettings = PLAIN,
    streams: int = 1,
    spins: bool = True,
) -> Session:
    """Open a session that really runs on `provider`: cpu, cuda, tensorrt or openvino.

    One that `keeps_memory` of a run for the next is faster, and holds what the largest of all runs
    so far took, rounded up. `spins` is as for `OnnxModel`.

    Raises `EnvironmentMismatch` when the file is missing, damaged or has no output that a task
    names, when this onnxruntime does not have the provider, when the provider did not start, when
    it left nodes that take time to another one, and when it cannot do what `settings` ask for.
    """
    if not path.is_file():
        raise EnvironmentMismatch(f"{path}: not found; give the path of an .onnx file")
    session = _open(
        path,
        provider,
        threads=threads,
        place=str(path),
        keeps_memory=keeps_memory,
        settings=settings,
        streams=streams,
        spins=spins,
    )
    outputs = [item.name for item in session.get_outputs()]
    known = output_names()
    if not set(outputs) & set(known):
        raise EnvironmentMismatch(
            f"{path}: has outputs {', '.join(outputs)} but none called {' or '.join(known)}; "
            f"export the checkpoint with this package"
        )
    return session


def output_of(session: Session) -> str:
    """Return the name of the output that a task reads of a session from `open_session`."""
    names = (str(item.name) for item in session.get_outputs())
    known = output_names()
    return next(name for name in names if name in known)


def optimized_graph(path: Path) -> onnx.ModelProto:
    """Return the graph of a file as ONNX Runtime runs it on the CPU, after its own fusions.

    What a file says and what runs differ: quantize-dequantize pairs around a matmul become one
    integer matmul, and a file with int8 weights may turn out to compute in float.

    Raises `EnvironmentMismatch` when ONNX Runtime cannot open the file.
    """
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # the last that is portable
    options.graph_optimization_level = level
    options.log_severity_level = 3
    # Otherwise the written graph would look for a data file beside itself.
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "weights"
    )
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except SESSION_FAILURES as error:
            if is_out_of_memory(error):
                raise
            told = shortened(error, _MOST_CHARACTERS)
            raise EnvironmentMismatch(
                f"{path}: ONNX Runtime cannot open it on the CPU: {told}; "
                f"make the file again, or with operators that this onnxruntime "
                f"{onnxruntime.__version__} knows"
            ) from error
        return load_graph(written)


def check_provider(provider: str, *, precision: Precision = "fp32") -> None:
    """Raise `EnvironmentMismatch` unless a small matmul runs on `provider`, in `precision`.

    An onnxruntime built for CUDA lists the provider on machines without a GPU too, so only a
    session tells.
    """
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "probe", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    settings = ProviderSettings(precision=precision)
    place = "benchmark.providers"
    session = _open(model.SerializeToString(), provider, threads=1, place=place, settings=settings)
    session.run(["y"], {"x": np.ones((1, 1), np.float32)})


def check_opset(opset: int) -> None:
    """Raise `EnvironmentMismatch` unless this onnxruntime runs operator set `opset` on the CPU.

    Tried on what every encoder has: shape arithmetic, a matmul, a normalisation and quantization.
    """
    if not _runs_opset(opset):
        newest = next((item for item in range(opset - 1, 0, -1) if _runs_opset(item)), 0)
        raise EnvironmentMismatch(
            f"export.opset: this onnxruntime {onnxruntime.__version__} runs operator sets up to "
            f"{newest}, got {opset}; set {newest} or less, or install a newer onnxruntime"
        )


def _runs_opset(opset: int) -> bool:
    graph = onnx.parser.parse_graph("""probe (float[b, 2, 4] x) => (float[b, 4, 2] y)
        <float[4] one = {1, 1, 1, 1}, float[2] step = {0.5, 0.5}, uint8[2] zero = {0, 0}>
        { normal = LayerNormalization <axis: int = -1> (x, one)
          mirrored = Transpose <perm: ints = [0, 2, 1]> (normal)
          shape = Shape (mirrored) same = Reshape (mirrored, shape) chances = Softmax (same)
          small = QuantizeLinear <axis: int = 2> (chances, step, zero)
          large = DequantizeLinear <axis: int = 2> (small, step, zero)
          product = MatMul (large, x) sum = MatMul (product, large) kept = Identity (sum)
          y = Cast <to: int = 1> (kept) }""")
    # Not the newest version of the format: an older runtime would refuse the file for that alone.
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except SESSION_FAILURES:
        return False
    return True


def provider_that_ran(session: Session) -> str:
    """Return the provider that a session computes on, as recipes spell it."""
    if isinstance(session, OpenvinoSession):
        return OPENVINO
    registered = session.get_providers()[0]
    return next(name for name, names in PROVIDERS.items() if names[0] == registered)


def misplaced_nodes(
    assignments: Iterable[tuple[str, str]], expected: str
) -> dict[str, tuple[str, ...]]:
    """Return the operators that take time and do not run on the provider `expected`.

    `assignments` holds the provider and the operator of each node, the result the operators of
    each other provider in alphabetical order.
    """
    found: dict[str, set[str]] = {}
    for provider, operator in assignments:
        if provider != expected and operator in _COMPUTE:
            found.setdefault(provider, set()).add(operator)
    return {provider: tuple(sorted(operators)) for provider, operators in sorted(found.items())}


def _open(
    source: Path | bytes,
    provider: str,
    *,
    threads: int | None,
    place: str,
    keeps_memory: bool = True,
    settings: ProviderSettings = PLAIN,
    streams: int = 1,
    spins: bool = True,
) -> Session:
    if provider == OPENVINO:
        return OpenvinoSession(
            source, threads=threads, precision=settings.precision, streams=streams, place=place
        )
    names = _available(provider)
    options = session_options(
        threads=threads,
        keeps_memory=keeps_memory,
        as_written=provider == "cpu" and settings.as_written,
    )
    if not spins:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    told = provider_options(provider, source, settings)
    try:
        # Without enable_fallback=0 a provider that fails is replaced by the CPU, with a print.
        session = onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source),
            options,
            providers=list(names),
            provider_options=[told.get(name, {}) for name in names],
            enable_fallback=0,
        )
    except SESSION_FAILURES as error:
        if is_out_of_memory(error):
            raise
        graphs = ", or benchmark.cuda_graph turned off" if settings.cuda_graph else ""
        raise EnvironmentMismatch(
            f"{place}: provider '{provider}' cannot run this graph: {error}; a damaged file has to "
            f"be made again, a provider without a kernel for an operator has to be replaced{graphs}"
        ) from error
    if provider != "cpu":
        _check_placement(session, provider, place)
    return session


def _available(provider: str) -> tuple[str, ...]:
    if provider not in PROVIDERS:
        raise EnvironmentMismatch(
            f"provider '{provider}' is not known (allowed: {', '.join([*PROVIDERS, OPENVINO])})"
        )
    names = PROVIDERS[provider]
    built_in = onnxruntime.get_available_providers()
    if names[0] not in built_in:
        has = ", ".join(name for name, known in PROVIDERS.items() if known[0] in built_in)
        raise EnvironmentMismatch(
            f"provider '{provider}' is not in this onnxruntime {onnxruntime.__version__} "
            f"(has: {has}); install the GPU build (extra 'gpu' instead of 'cpu'), or remove it "
            f"from benchmark.providers and export.provider; export.evaluate_on: cpu judges a model "
            f"for it without it"
        )
    if provider != "cpu":
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
    return names


def _check_placement(session: onnxruntime.InferenceSession, provider: str, place: str) -> None:
    expected = PROVIDERS[provider][0]
    if expected not in session.get_providers():
        raise EnvironmentMismatch(
            f"{place}: provider '{provider}' did not start and onnxruntime fell back to "
            f"{', '.join(session.get_providers())}; check the GPU, its driver and the CUDA "
            f"libraries, or remove it from benchmark.providers"
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise EnvironmentMismatch(
            f"onnxruntime {onnxruntime.__version__} cannot say which provider runs which node, "
            f"so a number of '{provider}' could not be trusted; install a newer onnxruntime-gpu"
        )
    misplaced = misplaced_nodes(_assignments(session), expected)
    if misplaced:
        listed = "; ".join(f"{name}: {', '.join(ops)}" for name, ops in misplaced.items())
        raise EnvironmentMismatch(
            f"{place}: provider '{provider}' left operators to others ({listed}); export for this "
            f"provider (export.provider) and without passes made for another"
        )


def _assignments(session: onnxruntime.InferenceSession) -> list[tuple[str, str]]:
    return [
        (subgraph.ep_name, node.op_type)
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    ]
