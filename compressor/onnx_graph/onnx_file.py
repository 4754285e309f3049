"""An .onnx file on disk: reading and writing it, and how much it holds.

Everything that opens or writes a graph goes through here, so that a damaged file is reported the
same way everywhere, a half-written file is never left behind, and two writes of one graph give the
same bytes.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from compressor.errors import EnvironmentMismatch, shortened
from compressor.machine.gzip_sizes import gzipped_bytes
from compressor.onnx_graph.narrow_columns import factor_names
from compressor.onnx_graph.packed_weights import packed_weights
from compressor.onnx_graph.table_codes import coded_tables
from compressor.paths import ABSENT, unreadable

# Protobuf stops at 2 GiB; the graph itself and the framing need some of it.
_LARGEST_SINGLE_FILE = 2**31 - 2**25

_FLOATS = frozenset(
    (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    )
)
_SMALL_INTEGERS = frozenset(
    (
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT4,
        onnx.TensorProto.UINT4,
    )
)
# Of convolutions it is output channels that have zero points of their own; elsewhere the last axis.
_FIRST_AXIS = frozenset(("ConvInteger", "QLinearConv"))

# Where quantized operators read scales and zero points: positions of (value, scale, zero point).
# A value of None is the operator's output, a scale of None is applied by a later operator.
_QUANTIZED_INPUTS: dict[str, tuple[tuple[int | None, int | None, int], ...]] = {
    "DequantizeLinear": ((0, 1, 2),),
    "GatherBlockQuantized": ((0, 2, 3),),
    "QuantizeLinear": ((0, 1, 2),),
    "DynamicQuantizeMatMul": ((1, 2, 3),),
    "MatMulIntegerToFloat": ((0, 2, 4), (1, 3, 5)),
    "MatMulInteger": ((0, None, 2), (1, None, 3)),
    "ConvInteger": ((0, None, 2), (1, None, 3)),
    "QLinearMatMul": ((0, 1, 2), (3, 4, 5), (None, 6, 7)),
    "QLinearConv": ((0, 1, 2), (3, 4, 5), (None, 6, 7)),
    "QLinearAdd": ((0, 1, 2), (3, 4, 5), (None, 6, 7)),
    "QGemm": ((0, 1, 2), (3, 4, 5), (None, 7, 8)),
}

# Where integer operators read the bias that they add in 32 bits.
_BIASES = {"QGemm": 6, "QLinearConv": 8}

# In the name of a table that was copied because a matmul reads it too, in another form.
LOOKUP_COPY = ".lookup"


# Of reading a file and the data files that it names; of a name that is too long, the onnx package
# makes a RuntimeError ("filesystem error").
_UNREADABLE = (DecodeError, onnx.checker.ValidationError, ValueError, OSError, RuntimeError)
_MOST_CHARACTERS = 300  # of somebody else's message, which may quote a name of any length


def load_graph(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Read a graph; without `weights`, tensors in a separate data file stay there.

    Raises `EnvironmentMismatch` when the file or its data file is missing or damaged.
    """
    if (reason := unreadable(path)) not in (None, ABSENT):
        raise EnvironmentMismatch(f"{path}: {reason}; give an ONNX file")
    try:
        # Its extension may be that of another format, such as .json, which would be read as text.
        model = onnx.load(path, format="protobuf", load_external_data=weights)
    except FileNotFoundError as error:
        raise EnvironmentMismatch(f"{path}: not found, or its data file is missing") from error
    except _UNREADABLE as error:
        raise EnvironmentMismatch(
            f"{path}: not a readable ONNX file ({shortened(error, _MOST_CHARACTERS)}); it may be "
            f"truncated, make it again"
        ) from error
    if not model.graph.node:
        raise EnvironmentMismatch(f"{path}: holds no graph; it may be truncated, make it again")
    # Protobuf gives text that is not UTF-8 as bytes.
    if damaged := next((name for name in _names(model.graph) if isinstance(name, bytes)), None):
        raise EnvironmentMismatch(
            f"{path}: the name {damaged[:40]!r} is not UTF-8; the file is damaged, make it again"
        )
    return model


def _names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    for group in (graph.input, graph.output, graph.value_info, graph.initializer):
        yield from (item.name for item in group)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (item.name for item in node.attribute)


def save_graph(
    model: onnx.ModelProto, path: Path, *, largest_single_file: int = _LARGEST_SINGLE_FILE
) -> None:
    """Write a graph to `path` in one step: readers see the old file or the whole new one.

    Weights go into `<path>.data` only where one file would pass `largest_single_file` bytes, which
    is what protobuf can hold. The same graph gives the same bytes, and stays what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data_path(path)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as scratch:
        written = Path(scratch) / path.name
        if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > largest_single_file:
            onnx.save_model(
                model,
                written,
                save_as_external_data=True,
                location=data.name,
                convert_attribute=True,
            )
            # That took the weights out of memory, and the next to save the graph would lose them.
            load_external_data_for_model(model, scratch)
            (Path(scratch) / data.name).replace(data)
        else:
            written.write_bytes(model.SerializeToString(deterministic=True))
            data.unlink(missing_ok=True)
        written.replace(path)


def data_path(path: Path) -> Path:
    """Return where the weights of `path` lie when they do not fit into it."""
    return path.with_name(path.name + ".data")


def bytes_on_disk(path: Path) -> int:
    """Return the size of the graph file plus every data file it refers to."""
    return sum(file.stat().st_size for file in _files(path))


def compressed_bytes(path: Path) -> int:
    """Return the size after gzip at level 6, the only place where zeros among weights show."""
    return sum(gzipped_bytes(file) for file in _files(path))


def parameter_counts(path: Path) -> tuple[int, int]:
    """Return how many parameters the file holds, and how many of them are not zero.

    A parameter is one element of a constant tensor that carries weights:

    - floating-point tensors of more than one element count, except scales of quantized weights;
      one element alone is a constant of the computation, such as 1 / sqrt(head width);
    - integers of 8 and of 4 bits count, except zero points. An element is zero when it equals its
      zero point (0 where the operator was given none), because that is what it stands for;
    - bytes that hold several integers count as that many (`packed_weights.py`), and codes as the
      weights they stand for (`table_codes.py`); a table that refines the rows of another, and the
      vectors that codes choose from, do not count;
    - a table that only looks up what a matmul reads too (`LOOKUP_COPY` in its name) is that weight
      a second time, and does not count;
    - integers of 32 bits count where they are what an integer operator adds, its bias;
    - other wide integers and booleans are shapes, positions and indices, and do not count.

    So the count does not change when a model is quantized or converted to fp16.
    """
    model = load_graph(path)
    graph = model.graph
    constants = list(_constants(graph))
    packed = packed_weights(model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in constants}
    scales, zero_points = _quantization_constants(graph)
    scales |= _table_scales(graph, values) | factor_names(graph)
    coded = coded_tables(graph)
    scales |= {table.codebook for table in coded.values()}
    for stored in packed.values():
        scales |= {_before_casts(stored.scales, graph), stored.zero_points}
    skipped = scales | {zero_point.name for zero_point in zero_points.values()}
    skipped |= {name for name, stored in packed.items() if stored.refines}
    skipped |= {name for name in values if LOOKUP_COPY in name}
    biases = {
        node.input[_BIASES[node.op_type]]
        for node in graph.node
        if len(node.input) > _BIASES.get(node.op_type, len(node.input))
    }
    parameters = nonzero = 0
    for tensor in constants:
        weight = values[tensor.name]
        if tensor.name in skipped:
            continue
        if (table := coded.get(tensor.name)) is not None:
            parameters += table.num_elements
            nonzero += table.num_elements - table.count_zeros(weight, values[table.codebook])
        elif (item := packed.get(tensor.name)) is not None:
            parameters += item.num_elements
            nonzero += item.count_nonzero(weight, values.get(item.zero_points))
        elif tensor.name in biases or (tensor.data_type in _FLOATS and weight.size > 1):
            parameters += weight.size
            nonzero += int(np.count_nonzero(weight))
        elif tensor.data_type in _SMALL_INTEGERS:
            parameters += weight.size
            zero_point = zero_points.get(tensor.name)
            zeros = 0 if zero_point is None else zero_point.spread(values, weight.shape)
            nonzero += int(np.count_nonzero(weight.astype(np.int16) != zeros))
    return parameters, nonzero


def data_files(path: Path) -> tuple[PurePosixPath, ...]:
    """Return the files beside `path` that hold weights of it, relative to its folder.

    Raises `EnvironmentMismatch` when the file is damaged or names a file outside of its folder.
    """
    found = _named_files(path, _state_of(path))
    for location in found:
        if location.is_absolute() or ".." in location.parts or not location.name:
            raise EnvironmentMismatch(
                f"{path}: reads weights from {str(location)[:_MOST_CHARACTERS]!r}, outside of its "
                f"folder, which is refused; save the model again with its data beside it"
            )
    return found


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Return what is another where a file was written anew; None where there is none."""
    try:
        state = path.stat()
    except OSError:  # which is told when it is read
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


@lru_cache(maxsize=64)
def _named_files(path: Path, state: tuple[int, ...] | None) -> tuple[PurePosixPath, ...]:  # noqa: ARG001
    """Return the files that a graph names; one that was not written anew is not read again."""
    graph = load_graph(path, weights=False).graph
    locations = {
        entry.value
        for tensor in _constants(graph)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(PurePosixPath(location) for location in sorted(locations))


def _files(path: Path) -> list[Path]:
    return [path, *(path.parent / location for location in data_files(path))]


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every constant tensor: initializers, and values of Constant nodes by their output."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].type == onnx.AttributeProto.TENSOR:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            yield tensor


@dataclass(frozen=True)
class _ZeroPoint:
    """A constant that says which integer stands for 0: one, or several along an axis."""

    name: str
    axis: int
    block_size: int  # elements that share one along the axis; 0 where each has its own

    def spread(self, values: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> Any:
        """Return the zero of every element of a weight of `shape`, or one for all.

        It is 0 where nothing is known of it: it is computed, or does not fit the weight.
        """
        zeros = values.get(self.name, np.zeros(1)).astype(np.int16)
        axis = self.axis % len(shape)
        if zeros.size == 1:
            return zeros.reshape(())
        if self.block_size and zeros.ndim == len(shape):
            blocks = np.repeat(zeros, self.block_size, axis)
            return blocks[tuple(slice(size) for size in shape)]
        if zeros.size != shape[axis]:
            return 0
        return zeros.reshape([-1 if place == axis else 1 for place in range(len(shape))])


def _zero_point(node: onnx.NodeProto, name: str) -> _ZeroPoint:
    said = {item.name: int(item.i) for item in node.attribute}
    if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        return _ZeroPoint(name, said.get("axis", 1), said.get("block_size", 0))
    if node.op_type == "GatherBlockQuantized":
        return _ZeroPoint(name, said.get("quantize_axis", 1), said.get("block_size", 128))
    is_first = node.op_type in _FIRST_AXIS or (node.op_type == "QGemm" and said.get("transB", 0))
    return _ZeroPoint(name, 0 if is_first else -1, 0)


def _quantization_constants(graph: onnx.GraphProto) -> tuple[set[str], dict[str, _ZeroPoint]]:
    """Return the names of scales, and the zero point of each quantized value."""
    scales: set[str] = set()
    zero_points: dict[str, _ZeroPoint] = {}
    for node in graph.node:
        for value, scale, zero_point in _QUANTIZED_INPUTS.get(node.op_type, ()):
            if scale is not None and scale < len(node.input):
                scales.add(node.input[scale])
            if zero_point < len(node.input) and node.input[zero_point]:
                name = node.output[0] if value is None else node.input[value]
                zero_points[name] = _zero_point(node, node.input[zero_point])
    return scales, zero_points


def _before_casts(name: str, graph: onnx.GraphProto) -> str:
    """Return the constant that `name` is, converted to another type or not."""
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    while name in casts:
        name = casts[name]
    return name


def _table_scales(graph: onnx.GraphProto, values: dict[str, NDArray[Any]]) -> set[str]:
    """Return the scales of int8 embedding tables.

    Such a table is looked up with the same indices as its scales, a column of one per row.
    """
    lookups: dict[str, list[NDArray[Any]]] = defaultdict(list)
    names: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in values:
            table = values[node.input[0]]
            if table.ndim == 2 and table.dtype.kind in "iu" and table.dtype.itemsize == 1:
                lookups[node.input[1]].append(table)
            elif table.ndim == 2 and table.shape[1] == 1 and table.dtype.kind == "f":
                names[node.input[0]] = node.input[1]
    return {
        name
        for name, indices in names.items()
        if any(len(table) == len(values[name]) for table in lookups[indices])
    }
