"""Rows of an embedding table as codes: one byte stands for several neighbouring numbers of a row.

The numbers of a row are cut into parts, and each part is replaced by one of 256 vectors that are
chosen for the parts of all rows at that place (product quantization). With 12 numbers to a byte a
table takes a twelfth of what int8 takes. That loses more than half of a row's length, which is too
much for the pieces that texts are made of, and far better than no row at all for those that they
hardly ever contain.

Ref: Jegou et al. 2011, "Product Quantization for Nearest Neighbor Search", section II; there of
vectors that are searched. Shu and Nakayama 2018, arXiv:1711.01068, of embedding tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.errors import StepFailed
from compressor.onnx_graph.constants import Constants
from compressor.onnx_graph.packed_weights import Bytes

Floats = NDArray[np.float32]

NUM_VECTORS = 256  # what a byte tells apart

_STEPS = 12  # of Lloyd's algorithm; further ones change the error by less than a hundredth
_MOST_ROWS = 1 << 14  # that vectors are chosen by
_ROWS_AT_ONCE = 1 << 12
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_SMALLEST_FLOAT16 = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class Codes:
    """For each part of each row which vector of the codebook it is.

    `values` has shape `(rows, parts)`. `codebook` has shape `(parts * 256, numbers)`, those of a
    part one after the other, as float16 where that has their digits, float32 elsewhere.
    """

    values: Bytes
    codebook: NDArray[np.float16] | NDArray[np.float32]

    @property
    def offsets(self) -> NDArray[np.int32]:
        """Return where the vectors of each part begin, `(parts,)`."""
        return NUM_VECTORS * np.arange(self.values.shape[1], dtype=np.int32)

    def restored(self) -> Floats:
        """Return what the codes stand for, `(rows, parts * numbers)`."""
        found: Floats = self.codebook[self.values + self.offsets].astype(np.float32)
        return found.reshape(len(self.values), -1)


def fit_codes(table: Floats, numbers: int) -> Codes:
    """Return the rows of `table`, shape `(rows, width)`, with `numbers` of them to a byte.

    The vectors of a part are the means that Lloyd's algorithm finds from rows drawn at random,
    always the same ones, by at most 16,384 rows. Where there are fewer rows than vectors, each row
    is one.

    Raises `ValueError` when `numbers` does not divide the width, and `StepFailed` when an entry is
    not finite.
    """
    if table.shape[1] % numbers:
        raise ValueError(f"{numbers} numbers to a byte do not divide rows of {table.shape[1]}")
    if not np.isfinite(table).all():
        raise StepFailed("holds NaN or infinity, which no code can stand for")
    random = np.random.default_rng(0)
    order = random.permutation(len(table))[:_MOST_ROWS]
    num_parts = table.shape[1] // numbers
    values = np.empty((len(table), num_parts), np.uint8)
    vectors = np.zeros((num_parts, NUM_VECTORS, numbers), np.float32)
    for place in range(num_parts):
        part = np.ascontiguousarray(table[:, place * numbers : (place + 1) * numbers])
        means = _means(part[order])
        vectors[place, : len(means)] = means
        values[:, place] = _nearest(part, means)
    return Codes(values, _storable(vectors.reshape(-1, numbers)))


def add_codes(constants: Constants, name: str, codes: Codes) -> tuple[str, str, str]:
    """Store codes as constants of a graph, and return the names that `lookup_nodes` takes."""
    return (
        constants.add(f"{name}_codes", codes.values),
        constants.add_once(f"code_offsets_{len(codes.offsets)}", codes.offsets),
        constants.add(f"{name}_codebook", codes.codebook),
    )


def lookup_nodes(
    graph: onnx.GraphProto,
    constants: Constants,
    index: str,
    names: tuple[str, str, str],
    output: str,
) -> list[onnx.NodeProto]:
    """Return what looks up the rows of `index` and writes them into `output`, last node last.

    ONNX Runtime computes the cast of the codebook once, when it opens the file.
    """
    codes, offsets, codebook = names
    width = constants.tensors[codes].dims[1] * constants.tensors[codebook].dims[1]
    found, wide, place, vectors, parts, shape = (
        f"{output}_{part}" for part in ("codes", "wide", "place", "vectors", "parts", "shape")
    )
    nodes = [
        helper.make_node("Gather", [codes, index], [found], axis=0),
        helper.make_node("Cast", [found], [wide], to=TensorProto.INT32),
        helper.make_node("Add", [wide, offsets], [place]),
        helper.make_node("Cast", [codebook], [vectors], to=TensorProto.FLOAT),
        helper.make_node("Gather", [vectors, place], [parts], axis=0),
    ]
    if (rank := _rank(graph, index)) is not None:
        sizes = np.array([0] * rank + [width], np.int64)  # 0 is the size that the axis has
        shape = constants.add_once(f"row_sizes_{rank}", sizes)
    else:
        row = constants.add_once("row_size", np.array([width], np.int64))
        nodes.append(helper.make_node("Shape", [index], [f"{shape}_of_index"]))
        nodes.append(helper.make_node("Concat", [f"{shape}_of_index", row], [shape], axis=0))
    return [*nodes, helper.make_node("Reshape", [parts, shape], [output], name=output)]


def _rank(graph: onnx.GraphProto, name: str) -> int | None:
    """Return how many axes a value has, None where the graph does not say."""
    for value in (*graph.input, *graph.value_info):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


@dataclass(frozen=True)
class CodedTable:
    """What a constant of codes stands for, and which constant holds its vectors."""

    rows: int
    width: int
    codebook: str

    @property
    def num_elements(self) -> int:
        """Return the number of weights that the codes stand for."""
        return self.rows * self.width

    def count_zeros(self, codes: Bytes, codebook: NDArray[np.floating]) -> int:
        """Return how many of those weights are 0."""
        zeros = np.count_nonzero(codebook == 0, axis=1)
        return int(zeros[codes + NUM_VECTORS * np.arange(codes.shape[1], dtype=np.int64)].sum())


def coded_tables(graph: onnx.GraphProto) -> dict[str, CodedTable]:
    """Return the constants of codes in a graph, by their names."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    return {
        codes: CodedTable(
            tensors[codes].dims[0],
            tensors[codes].dims[1] * tensors[codebook].dims[1],
            codebook,
        )
        for codes, codebook in _lookups(graph, producers)
        if codes in tensors and codebook in tensors
    }


def _lookups(
    graph: onnx.GraphProto, producers: Mapping[str, onnx.NodeProto]
) -> Iterator[tuple[str, str]]:
    """Yield the names of codes and of their codebook, wherever nodes lie as `lookup_nodes` says."""
    for node in graph.node:
        if node.op_type != "Gather":
            continue
        chain = [producers.get(node.input[1])]
        for operator in ("Add", "Cast"):
            before = chain[-1]
            if before is None or before.op_type != operator:
                break
            chain.append(producers.get(before.input[0]))
        else:
            table, vectors = chain[-1], producers.get(node.input[0])
            if table is not None and table.op_type == "Gather" and vectors is not None:
                yield table.input[0], vectors.input[0]


def _means(part: Floats) -> Floats:
    """Return the vectors that rows lie near to, `(at most 256, numbers)`."""
    means = part[:NUM_VECTORS].copy()
    if len(part) <= NUM_VECTORS:
        return means
    for _ in range(_STEPS):
        nearest = _nearest(part, means)
        counts = np.bincount(nearest, minlength=len(means))
        sums = np.stack(
            [np.bincount(nearest, column, minlength=len(means)) for column in part.T], axis=1
        )
        is_used = counts > 0  # a mean that no row is near to stays where it is
        means[is_used] = (sums[is_used] / counts[is_used, None]).astype(np.float32)
    return means


def _nearest(part: Floats, means: Floats) -> Bytes:
    """Return which of the means each row is nearest to."""
    half = np.einsum("vn,vn->v", means, means) / 2
    found = [
        np.argmin(half - part[start : start + _ROWS_AT_ONCE] @ means.T, axis=1)
        for start in range(0, len(part), _ROWS_AT_ONCE)
    ]
    return np.concatenate(found).astype(np.uint8)


def _storable(vectors: Floats) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return vectors as float16 where that keeps their digits."""
    largest = np.abs(vectors).max(initial=0.0)
    typical = float(np.median(np.abs(vectors[vectors != 0]))) if largest else 1.0
    fits = largest <= _LARGEST_FLOAT16 and typical >= _SMALLEST_FLOAT16
    return vectors.astype(np.float16) if fits else vectors
