"""Session options of each of ONNX Runtime's execution providers, and of OpenVINO.

Options are strings that a provider reads when it starts; an unknown one is an error there. They are
made here from facts of the graph, so that a benchmark and an evaluation ask for the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from compressor.errors import EnvironmentMismatch
from compressor.onnx_graph.onnx_file import load_graph
from compressor.runtime.openvino_session import Precision

Options = dict[str, str]


@dataclass(frozen=True)
class AxisRange:
    """The smallest and largest size of a free axis of the inputs, and the one to be fastest at."""

    smallest: int
    usual: int
    largest: int


@dataclass(frozen=True)
class ProviderSettings:
    """How a session uses a GPU; on the CPU nothing but `as_written` and `precision` apply.

    `cuda_graph` records the kernels of a run once for each shape and replays them as one, which
    needs inputs and outputs that stay where they are. `axes` are the free axes of the inputs by
    name: TensorRT builds one engine for that range, in place of a new one whenever a shape is
    outside of those seen before. `cache_dir` keeps its engines and kernel timings, of this graph
    alone: TensorRT finds an engine by the names in a graph, and not by its weights. `as_written`
    lets the CPU compute quantize-dequantize pairs in float, as TensorRT would understand them, in
    place of the integer matmuls that it makes of them: those saturate on CPUs without VNNI.
    `precision` is what OpenVINO computes in where a graph says float32.
    """

    cuda_graph: bool = False
    # Tensor cores round the factors of float32 matmuls to 11 significant bits. ONNX Runtime does
    # so unless told otherwise, which would count as a difference between two exact graphs.
    rounds_float32: bool = False
    exact_memory: bool = False  # ask the GPU for what is needed, not for the next power of two
    axes: Mapping[str, AxisRange] = field(default_factory=dict, hash=False)
    cache_dir: Path | None = None
    as_written: bool = False
    precision: Precision = "fp32"


PLAIN = ProviderSettings()
AS_WRITTEN = ProviderSettings(as_written=True)


def provider_options(
    provider: str, source: Path | bytes, settings: ProviderSettings
) -> dict[str, Options]:
    """Return the options of `provider` and of what runs beside it, by ONNX Runtime's names.

    `source` is the graph that will run. Raises `EnvironmentMismatch` when `settings.axes` are given
    and lack a free axis that the graph has.
    """
    if provider == "cpu":
        return {}
    cuda = _cuda_options(settings)
    if provider == "cuda":
        return {"CUDAExecutionProvider": cuda}
    # TensorRT records graphs itself; the CUDA provider beside it computes no whole run.
    return {
        "TensorrtExecutionProvider": _tensorrt_options(_graph(source), settings),
        "CUDAExecutionProvider": {**cuda, "enable_cuda_graph": "0"},
    }


def axes_of(batches: Sequence[tuple[int, int | None]]) -> dict[str, AxisRange]:
    """Return the range of the axes `batch` and `sequence` over pairs of their sizes.

    The largest sizes are those to be fastest at. Images have no sequence.
    """
    sizes = [size for size, _ in batches]
    axes = {"batch": AxisRange(min(sizes), max(sizes), max(sizes))}
    lengths = [length for _, length in batches if length is not None]
    if lengths:
        axes["sequence"] = AxisRange(min(lengths), max(lengths), max(lengths))
    return axes


def output_shape(
    inputs: Mapping[str, Sequence[int | str | None]],
    output: Sequence[int | str | None],
    feed: Mapping[str, NDArray[np.generic]],
) -> tuple[int, ...]:
    """Return the shape that an output will have for `feed`, from the names of free axes.

    Raises `EnvironmentMismatch` when an axis of the output is no axis of an input.
    """
    sizes: dict[int | str | None, int] = {}
    for name, shape in inputs.items():
        sizes.update(zip(shape, feed[name].shape, strict=True))
    unknown = [axis for axis in output if not isinstance(axis, int) and axis not in sizes]
    if unknown:
        raise EnvironmentMismatch(
            f"the graph's output has an axis '{unknown[0]}' that none of its inputs has, so its "
            f"memory cannot be set aside before a run; export the model again"
        )
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in output)


def _cuda_options(settings: ProviderSettings) -> Options:
    options = {
        "use_tf32": _flag(settings.rounds_float32),
        "enable_cuda_graph": _flag(settings.cuda_graph),
    }
    if settings.exact_memory:
        options["arena_extend_strategy"] = "kSameAsRequested"
    return options


def _tensorrt_options(graph: onnx.GraphProto, settings: ProviderSettings) -> Options:
    kinds = {tensor.data_type for tensor in graph.initializer}
    # A graph in half precision still computes in float32 where TensorRT is not allowed other types.
    options = {
        "trt_fp16_enable": _flag(TensorProto.FLOAT16 in kinds),
        "trt_bf16_enable": _flag(TensorProto.BFLOAT16 in kinds),
        # The pairs in the graph say what is int8 and with which scale; a calibration table beside
        # them would be an error.
        "trt_int8_enable": _flag(any(node.op_type == "QuantizeLinear" for node in graph.node)),
        "trt_cuda_graph_enable": _flag(settings.cuda_graph),
    }
    if settings.cache_dir is not None:
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
        folder = str(settings.cache_dir)
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }
    return options | _profile(graph, settings.axes)


def _profile(graph: onnx.GraphProto, axes: Mapping[str, AxisRange]) -> Options:
    """Return the range of shapes of each input, such as `input_ids:1x8,attention_mask:1x8`."""
    if not axes:
        return {}
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
        if value.name not in weights
    }
    free = {axis for shape in inputs.values() for axis in shape if isinstance(axis, str)}
    if unknown := sorted(free - set(axes)):
        raise EnvironmentMismatch(
            f"TensorRT needs the smallest and largest size of every free axis, but that of "
            f"{', '.join(unknown)} is not known (known: {', '.join(axes)}); export the model again"
        )

    def shapes(which: str) -> str:
        return ",".join(
            f"{name}:" + "x".join(str(_size(axis, axes, which)) for axis in shape)
            for name, shape in inputs.items()
            if any(isinstance(axis, str) for axis in shape)
        )

    return {
        "trt_profile_min_shapes": shapes("smallest"),
        "trt_profile_opt_shapes": shapes("usual"),
        "trt_profile_max_shapes": shapes("largest"),
    }


def _size(axis: int | str, axes: Mapping[str, AxisRange], which: str) -> int:
    return axis if isinstance(axis, int) else int(getattr(axes[axis], which))


def _graph(source: Path | bytes) -> onnx.GraphProto:
    if isinstance(source, bytes):
        return onnx.load_model_from_string(source).graph
    return load_graph(source, weights=False).graph


def _flag(value: bool) -> str:
    return "1" if value else "0"
