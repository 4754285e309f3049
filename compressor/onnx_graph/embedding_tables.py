"""Embedding tables in four bits, half the size of int8: blocks of a row share a scale.

A table is only looked up, so its integers meet no arithmetic, and `GatherBlockQuantized` turns
those that a batch needs back into floats. The integers are stored as packed bytes: with ONNX's own
type int4 the same operator took five times as long (ONNX Runtime 1.32, one thread: 12.6 ms against
2.6 for 4096 tokens of 384 channels, where a table of int8 took 1.2).

Few rows make up most of a text. Those can have four bits more, in a second table that holds what
the first one loses on them; all others find zeros there.
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

BITS = 4

# A table that holds less than this part of all table weights stays in 8 bits. Position and token
# type tables are small, and every text reads the same rows of them.
_WORTH = 0.1


@dataclass(frozen=True)
class Int4Tables:
    """Which tables are stored in four bits, and how many weights of a row share a scale.

    `refined` names the rows of a table that get four bits more.
    """

    weights: frozenset[str] = frozenset()
    block_size: int = 32
    refined: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


NO_INT4 = Int4Tables()


def store_weights(
    model: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    *,
    activations: Activations | SignedScales,
    tables: Int4Tables,
    narrow: Mapping[str, NarrowColumns] | None = None,
) -> dict[str, float]:
    """Store `weights` as int8, or int4 where `tables` says so; return the error of each int4 one.

    Matrices in `narrow` are int8 to whoever computes, and four bits in the file.
    Signed scales make quantize-dequantize pairs of them, everything else integer matmuls; filters
    of convolutions want fixed scales. Changes the graph in place; raises `StepFailed` like
    `store_int8_weights`, `store_int8_convolutions`, `insert_qdq` and `store_int4_tables`.
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
    errors = store_int4_tables(model, packed, block_size=tables.block_size, refined=tables.refined)
    rest = [weight for weight in weights if weight.name not in tables.weights]
    if isinstance(activations, SignedScales):
        insert_qdq(model, rest, activations)
    else:
        store_int8_weights(model, rest, activations=activations, narrow=narrow)
    return errors


def reasons_against_int4(weights: Iterable[QuantizableWeight]) -> dict[str, str]:
    """Return why tables among `weights` should not be stored in four bits, by their names."""
    tables = [weight for weight in weights if weight.kind == "table"]
    total = sum(weight.num_elements for weight in tables)
    found = {}
    for weight in tables:
        if weight.num_elements < _WORTH * total:
            found[weight.name] = "it is small, and every text reads the same rows"
        elif weight.shape[-1] % 2:
            found[weight.name] = "its rows have an odd width and integers are packed in pairs"
    return found


def store_int4_tables(
    model: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    *,
    block_size: int,
    refined: Mapping[str, NDArray[np.int64]] | None = None,
) -> dict[str, float]:
    """Store the tables of `weights` as int4 in blocks, in place, and return each one's error.

    The rows of a table that `refined` names get four bits more. The error is the root mean square
    of what rounding loses, over that of the table. An index beyond a table without such rows gives
    zeros, where a lookup in float would fail. The float originals are removed.

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
            blocks = quantize_blocks(table, bits=BITS, block_size=block_size)
        except StepFailed as error:
            raise StepFailed(f"weight {weight.name} {error}") from error
        restored = blocks.restored()
        names = _store(constants, weight.name, blocks)
        rows = (refined or {}).get(weight.name)
        more: tuple[str, str, str] | None = None
        if rows is not None and len(rows):
            places, rests = _rests(table - restored, rows, block_size)
            restored[rows] += rests.restored()[:-1]
            place = constants.add(f"{weight.name}_place", places)
            more = (place, *_store(constants, f"{weight.name}_rest", rests))
        errors[weight.name] = relative_error(table, restored)
        for use in uses[weight.name]:
            [output] = use.node.output
            if more is None:
                lookups[output] = _lookup(
                    use.node.input[1], *names, output, use.node.name, block_size
                )
            else:
                lookups[output] = _refined_lookup(use.node, names, more, block_size)
        graph.initializer.remove(constants.tensors[weight.name])
    replace_nodes(model, lookups)
    return errors


def _store(constants: Constants, name: str, blocks: Blocks) -> tuple[str, str]:
    packed = constants.add(f"{name}_int4", blocks.packed())
    return packed, constants.add(f"{name}_scale", blocks.scales)


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
    node: onnx.NodeProto, names: tuple[str, str], more: tuple[str, str, str], block_size: int
) -> list[onnx.NodeProto]:
    """Return what looks a row up in both tables and adds the two."""
    [output] = node.output
    place, rest, rest_scales = more
    found, index, rough, lost = (f"{output}_{part}" for part in ("place", "index", "rough", "lost"))
    return [
        helper.make_node("Gather", [place, node.input[1]], [found], axis=0),
        helper.make_node("Cast", [found], [index], to=TensorProto.INT64),
        *_lookup(node.input[1], *names, rough, rough, block_size),
        *_lookup(index, rest, rest_scales, lost, lost, block_size),
        helper.make_node("Add", [rough, lost], [output], name=node.name),
    ]


def _lookup(
    index: str, table: str, scales: str, output: str, name: str, block_size: int
) -> list[onnx.NodeProto]:
    """Return what looks rows up and turns them into floats.

    ONNX Runtime computes the cast of a constant once, when it opens the file.
    """
    factors = f"{output}_scale"
    return [
        helper.make_node("Cast", [scales], [factors], to=TensorProto.FLOAT),
        helper.make_node(
            "GatherBlockQuantized",
            [table, index, factors],
            [output],
            name=name,
            domain="com.microsoft",
            bits=BITS,
            block_size=block_size,
            gather_axis=0,
            quantize_axis=1,
        ),
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
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
