"""Weight-only quantization to 4 or 8 bits with `MatMulNBits`, dequantized inside the matmul.

The integers are read from memory once and become floats (or meet activations of 8 bits) in the
registers, so the matmul needs the memory of its integers and no more. That pays where reading
weights takes the time, with one row or few; with many, an integer matmul is faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from compressor.errors import StepFailed
from compressor.onnx_graph.block_weights import Blocks, quantize_blocks, relative_error
from compressor.onnx_graph.constants import Constants
from compressor.onnx_graph.embedding_tables import replace_nodes
from compressor.onnx_graph.quantizable_weights import QuantizableWeight, Use, find_uses

# What the operator calls the precision that activations have at least.
_ACCURACY_LEVELS = {"float": 1, "int8": 4}


@dataclass(frozen=True)
class PackedForm:
    """How matrices are stored: `block_size` weights of an output column share a scale.

    `activations` of `int8` have one scale for as many channels of each token, at run time.
    """

    bits: int
    block_size: int
    activations: Literal["float", "int8"]


def pack_matrices(
    model: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    form: PackedForm,
    *,
    chosen: Mapping[str, Blocks] | None = None,
) -> dict[str, float]:
    """Store the matrices of `weights` as packed integers, in place, and return each one's error.

    `chosen` holds the integers of those that are not to be rounded to the nearest ones.

    The error is the root mean square of what rounding loses, over that of the matrix. The float
    originals are removed.

    Raises `ValueError` when a weight has an obstacle or is not finite; the graph is then not
    to be used.
    """
    graph = model.graph
    constants = Constants(graph)
    uses = find_uses(graph)
    matmuls: dict[str, list[onnx.NodeProto]] = {}
    errors = {}
    for weight in weights:
        if weight.obstacle is not None:
            raise ValueError(f"weight {weight.name} cannot be packed: {weight.obstacle}")
        transposed, factor = uses[weight.name][0].layout
        stored: NDArray[np.float32] = constants.array(weight.name)
        columns = (stored if transposed else stored.T) * np.float32(factor)  # (N, K)
        blocks = (chosen or {}).get(weight.name)
        if blocks is None:
            blocks = _nearest(weight.name, columns, form)
        errors[weight.name] = relative_error(columns, blocks.restored())
        names = _store(constants, weight.name, blocks)
        for use in uses[weight.name]:
            node = _matmul(use, names, columns.shape, form)
            matmuls[use.node.output[0]] = [node, *_addition(constants, use, node)]
        graph.initializer.remove(constants.tensors[weight.name])
    replace_nodes(model, matmuls)
    return errors


def _nearest(name: str, columns: NDArray[np.float32], form: PackedForm) -> Blocks:
    try:
        # Scales stay float32: the kernel wants them constant when it opens the file, which the
        # cast of a constant is only once ONNX Runtime has optimized the graph.
        return quantize_blocks(
            columns, bits=form.bits, block_size=form.block_size, float16_scales=False
        )
    except StepFailed as error:
        raise StepFailed(f"weight {name} {error}") from error


def _store(constants: Constants, name: str, blocks: Blocks) -> list[str]:
    return [
        constants.add(f"{name}_int{blocks.bits}", blocks.packed_in_blocks()),
        constants.add(f"{name}_scale", blocks.scales),
    ]


def _matmul(
    use: Use, names: Sequence[str], shape: tuple[int, ...], form: PackedForm
) -> onnx.NodeProto:
    return helper.make_node(
        "MatMulNBits",
        [use.node.input[0], *names],
        [use.node.output[0]],
        name=use.node.name,
        domain="com.microsoft",
        N=shape[0],
        K=shape[1],
        bits=form.bits,
        block_size=form.block_size,
        accuracy_level=_ACCURACY_LEVELS[form.activations],
    )


def _addition(constants: Constants, use: Use, matmul: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return what adds a Gemm's third input, times its beta, to the `matmul`."""
    beta = use.number("beta", 1)
    if use.node.op_type != "Gemm" or len(use.node.input) < 3 or beta == 0:
        return []
    term, output = use.node.input[2], use.node.output[0]
    if not term:
        return []
    nodes = []
    if beta != 1:
        factor = constants.add(f"{output}_beta", np.array(beta, np.float32))
        nodes.append(helper.make_node("Mul", [term, factor], [f"{output}_term"]))
        term = f"{output}_term"
    matmul.output[0] = f"{output}_product"
    return [*nodes, helper.make_node("Add", [matmul.output[0], term], [output])]
