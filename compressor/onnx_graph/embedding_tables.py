"""Embedding tables in fewer bits than int8: four of them, or codes for several numbers together.

A table is only looked up, so its integers meet no arithmetic. In four bits blocks of a row share a
scale, and `GatherBlockQuantized` turns the rows that a batch needs back into floats. The integers
are stored as packed bytes: with ONNX's own type int4 the same operator took five times as long
(ONNX Runtime 1.32, one thread: 12.6 ms against 2.6 for 4096 tokens of 384 channels, where a table
of int8 took 1.2).

Few rows make up most of a text. Those can have four bits more, in a second table that holds what
the first one loses on them; all others find zeros there. Codes (`table_codes.py`) lose too much for
those rows, and are meant for all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.errors import StepFailed
from compressor.onnx_graph.block_weights import Blocks, quantize_blocks, relative_error
from compressor.onnx_graph.constants import Constants
from compressor.onnx_graph.int8_convolutions import store_int8_convolutions
from compressor.onnx_graph.int8_weights import Activations, store_int8_weights
from compressor.onnx_graph.narrow_columns import NarrowColumns
from compressor.onnx_graph.qdq import SignedScales, insert_qdq
from compressor.onnx_graph.quantizable_weights import QuantizableWeight, find_uses
from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint
from compressor.onnx_graph.table_codes import Codes, add_codes, fit_codes, lookup_nodes

BITS = 4
_CONTRIB = "com.microsoft"  # operators of ONNX Runtime's own

# A table that holds less than this part of all table weights stays in 8 bits. Position and token
# type tables are small, and every text reads the same rows of them.
_WORTH = 0.1


@dataclass(frozen=True)
class NarrowTables:
    """Which tables are stored in fewer bits than int8, and how.

    In four bits `block_size` weights of a row share a scale; with `code_width` so many share a
    code of one byte instead. `refined` names the rows of a table that get four bits more.
    """

    weights: frozenset[str] = frozenset()
    block_size: int = 32
    code_width: int | None = None
    refined: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


NO_NARROW_TABLES = NarrowTables()


def store_weights(
    model: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    *,
    activations: Activations | SignedScales,
    tables: NarrowTables,
    narrow: Mapping[str, NarrowColumns] | None = None,
) -> dict[str, float]:
    """Store `weights` as int8, or narrower where `tables` says so; return the errors of those.

    Matrices in `narrow` are int8 to whoever computes, and four bits in the file.
    Signed scales make quantize-dequantize pairs of them, everything else integer matmuls; filters
    of convolutions want fixed scales. Changes the graph in place; raises `StepFailed` like
    `store_int8_weights`, `store_int8_convolutions`, `insert_qdq` and `store_narrow_tables`.
    """
    if filters := [weight for weight in weights if weight.kind == "filter"]:
        assert isinstance(activations, Mapping), "whoever takes filters observes their values"
        scales = {}
        for name, scale in activations.items():
            assert isinstance(scale, ScaleAndZeroPoint), "signed ones are for other providers"
            scales[name] = scale
        store_int8_convolutions(model, filters, scales)
        weights = [weight for weight in weights if weight.kind != "filter"]
    packed = [weight for weight in weights if weight.name in tables.weights]
    errors = store_narrow_tables(model, packed, tables)
    rest = [weight for weight in weights if weight.name not in tables.weights]
    if isinstance(activations, SignedScales):
        insert_qdq(model, rest, activations)
    else:
        store_int8_weights(model, rest, activations=activations, narrow=narrow)
    return errors


def reasons_against(weights: Iterable[QuantizableWeight], code_width: int | None) -> dict[str, str]:
    """Return why tables among `weights` should stay in int8, by their names.

    They would be stored in four bits, or with `code_width` numbers to a byte.
    """
    tables = [weight for weight in weights if weight.kind == "table"]
    total = sum(weight.num_elements for weight in tables)
    found = {}
    for weight in tables:
        width = weight.shape[-1]
        if weight.num_elements < _WORTH * total:
            found[weight.name] = "it is small, and every text reads the same rows"
        elif code_width is None and width % 2:
            found[weight.name] = "its rows have an odd width and integers are packed in pairs"
        elif code_width is not None and width % code_width:
            found[weight.name] = f"code_width: {code_width} does not divide its rows of {width}"
    return found


def store_narrow_tables(
    model: onnx.ModelProto, weights: Sequence[QuantizableWeight], tables: NarrowTables
) -> dict[str, float]:
    """Store `weights` in four bits or as codes, in place, and return each one's error.

    The rows of a table that `tables.refined` names get four bits more. The error is the root mean
    square of what rounding loses, over that of the table. An index beyond a table in four bits
    without such rows gives zeros, where a lookup in float would fail. The float originals are
    removed.

    Raises `StepFailed` when a table is not finite; the graph is then not to be used.
    """
    graph = model.graph
    constants = Constants(graph)
    uses = find_uses(graph)
    lookups: dict[str, list[onnx.NodeProto]] = {}  # by the first output of what they replace
    errors = {}
    for weight in weights:
        table = constants.array(weight.name)
        try:
            stored = _stored(graph, constants, weight.name, table, tables)
        except StepFailed as error:
            raise StepFailed(f"weight {weight.name} {error}") from error
        restored = stored.restored
        rows = tables.refined.get(weight.name)
        rest: tuple[str, _InBlocks] | None = None
        if rows is not None and len(rows):
            places, rests = _rests(table - restored, rows, tables.block_size)
            restored[rows] += rests.restored()[:-1]
            place = constants.add(f"{weight.name}_place", places)
            rest = place, _InBlocks(constants, f"{weight.name}_rest", rests)
        errors[weight.name] = relative_error(table, restored)
        for use in uses[weight.name]:
            [output] = use.node.output
            lookups[output] = (
                stored.look_up(use.node.input[1], output, use.node.name)
                if rest is None
                else _refined_lookup(use.node, stored, *rest)
            )
        graph.initializer.remove(constants.tensors[weight.name])
    replace_nodes(model, lookups)
    return errors


class _InBlocks:
    """A table in four bits, as constants of a graph."""

    def __init__(self, constants: Constants, name: str, blocks: Blocks) -> None:
        self.restored = blocks.restored()
        self._table = constants.add(f"{name}_int4", blocks.packed())
        self._scales = constants.add(f"{name}_scale", blocks.scales)
        self._block_size = blocks.block_size

    def look_up(self, index: str, output: str, name: str) -> list[onnx.NodeProto]:
        """Return what looks rows up and turns them into floats.

        ONNX Runtime computes the cast of a constant once, when it opens the file.
        """
        factors = f"{output}_scale"
        return [
            helper.make_node("Cast", [self._scales], [factors], to=TensorProto.FLOAT),
            helper.make_node(
                "GatherBlockQuantized",
                [self._table, index, factors],
                [output],
                name=name,
                domain=_CONTRIB,
                bits=BITS,
                block_size=self._block_size,
                gather_axis=0,
                quantize_axis=1,
            ),
        ]


class _AsCodes:
    """A table of codes, as constants of a graph."""

    def __init__(
        self, graph: onnx.GraphProto, constants: Constants, name: str, codes: Codes
    ) -> None:
        self.restored = codes.restored()
        self._graph, self._constants = graph, constants
        self._names = add_codes(constants, name, codes)

    def look_up(self, index: str, output: str, name: str) -> list[onnx.NodeProto]:
        """Return what looks rows up and turns them into floats; `name` is that of the last node."""
        nodes = lookup_nodes(self._graph, self._constants, index, self._names, output)
        nodes[-1].name = name
        return nodes


def _stored(
    graph: onnx.GraphProto,
    constants: Constants,
    name: str,
    table: NDArray[np.float32],
    tables: NarrowTables,
) -> _InBlocks | _AsCodes:
    """Return `table`, whose name is `name`, as new constants: in four bits, or as codes."""
    if tables.code_width is not None:
        return _AsCodes(graph, constants, name, fit_codes(table, tables.code_width))
    blocks = quantize_blocks(table, bits=BITS, block_size=tables.block_size)
    return _InBlocks(constants, name, blocks)


def _rests(
    lost: NDArray[np.float32], rows: NDArray[np.int64], block_size: int
) -> tuple[NDArray[np.generic], Blocks]:
    """Return where the rest of each row is, and the rests in blocks: those of `rows`, then zeros.

    `lost` is what the table without rests loses, of its shape.
    """
    rests = np.concatenate([lost[rows], np.zeros((1, lost.shape[1]), np.float32)])
    kind = np.int16 if len(rows) <= np.iinfo(np.int16).max else np.int32
    places = np.full(len(lost), len(rows), kind)
    places[rows] = np.arange(len(rows))
    return places, quantize_blocks(rests, bits=BITS, block_size=block_size)


def _refined_lookup(
    node: onnx.NodeProto, rough_table: _InBlocks | _AsCodes, place: str, rest: _InBlocks
) -> list[onnx.NodeProto]:
    """Return what looks a row up in both tables and adds the two."""
    [output] = node.output
    found, index, rough, lost = (f"{output}_{part}" for part in ("place", "index", "rough", "lost"))
    return [
        helper.make_node("Gather", [place, node.input[1]], [found], axis=0),
        helper.make_node("Cast", [found], [index], to=TensorProto.INT64),
        *rough_table.look_up(node.input[1], rough, rough),
        *rest.look_up(index, lost, lost),
        helper.make_node("Add", [rough, lost], [output], name=node.name),
    ]


def replace_nodes(model: onnx.ModelProto, replaced: dict[str, list[onnx.NodeProto]]) -> None:
    """Put the nodes of `replaced` in the place of those whose first output is their key."""
    nodes = [
        item
        for node in model.graph.node
        for item in replaced.get(node.output[0] if node.output else "", [node])
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    needed = {node.domain for node in nodes} - {opset.domain for opset in model.opset_import}
    if _CONTRIB in needed:
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
