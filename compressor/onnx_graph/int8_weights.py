"""Puts int8 weights into an ONNX graph in place of the float ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import quantize_columns, quantize_rows
from compressor.onnx_graph.constants import Constants
from compressor.onnx_graph.narrow_columns import NarrowColumns, store_narrow
from compressor.onnx_graph.quantizable_weights import QuantizableWeight, Use, find_uses
from compressor.onnx_graph.quantized_activations import (
    Quantized,
    ScaleAndZeroPoint,
    SignedScale,
    quantize_static,
    quantize_tokens,
    token_scale_after,
)

# How activations become integers: at run time, or with the scales of a mapping, by their names.
# Activations that a mapping lacks are quantized per token.
FixedScale = ScaleAndZeroPoint | SignedScale
Activations = Literal["per_tensor", "per_token"] | Mapping[str, FixedScale]

_CONTRIB = "com.microsoft"


def store_int8_weights(
    model: onnx.ModelProto,
    weights: Iterable[QuantizableWeight],
    *,
    activations: Activations,
    narrow: Mapping[str, NarrowColumns] | None = None,
) -> None:
    """Store `weights` as int8 and rewrite the operators that read them, in place.

    Weights of matrices have one scale for each output column. Their activations are quantized to
    unsigned 8 bits: `per_tensor` at run time with one scale and zero point for the whole tensor
    (`DynamicQuantizeMatMul`), `per_token` with one scale for each vector along the last axis and a
    constant zero point (`MatMulIntegerToFloat`, multiplied by that scale afterwards). Those with a
    scale of their own need no more than that operator: measured against `QLinearMatMul`, `QGemm`,
    `MatMulInteger` and what ONNX Runtime fuses from quantize-dequantize pairs, it took the least
    time with one row of 20 tokens and with 32 of 24 (by 2 to 19%). Those with a `SignedScale` pass
    through a quantize-dequantize pair, and so do their weights: OpenVINO makes one int8 matmul of
    both pairs and what stands around them. Tables are looked up in int8 and multiplied by the scale
    of each row. The float originals are removed. Of the matrices in `narrow` four bits are stored,
    and the graph makes the int8 weights of them.

    Raises `ValueError` when a weight has an obstacle or is not finite; the graph is then not
    to be used.
    """
    rewriter = _Rewriter(model, activations, narrow or {})
    for weight in weights:
        if weight.obstacle is not None:
            raise ValueError(f"weight {weight.name} cannot be int8: {weight.obstacle}")
        rewriter.store(weight)
    rewriter.finish()


class _Rewriter:
    """Collects what replaces each node, then writes the node list once, in its order."""

    def __init__(
        self,
        model: onnx.ModelProto,
        activations: Activations,
        narrow: Mapping[str, NarrowColumns],
    ) -> None:
        self.model = model
        self.activations = activations
        self.narrow = narrow
        self.stored: dict[str, NarrowColumns] = {}  # by the names of their int8 weights
        self.graph = model.graph
        self.opsets = model.opset_import
        self.opset = next(item.version for item in self.opsets if item.domain in ("", "ai.onnx"))
        self.uses = find_uses(model.graph)
        self.constants = Constants(model.graph)
        self.removed: set[str] = set()
        # By the first output of the replaced node, because outputs are unique and names may be
        # missing.
        self.replacements: dict[str, list[onnx.NodeProto]] = {}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        # Activations that several matmuls read are quantized once, before the first of them.
        self.quantized: dict[str, tuple[Quantized, list[onnx.NodeProto]]] = {}
        self.pairs: dict[str, tuple[str, list[onnx.NodeProto]]] = {}  # the same with signed scales

    def store(self, weight: QuantizableWeight) -> None:
        """Add the int8 form of `weight`, and replace its readers."""
        values = self.constants.array(weight.name)
        readers = self.uses[weight.name]
        replace = self._matmul if weight.kind == "matrix" else self._lookup
        try:
            if (narrow := self.narrow.get(weight.name)) is not None:
                integers, scales = narrow.integers(), narrow.scales
            elif weight.kind == "matrix":
                transposed, factor = readers[0].layout
                integers, scales = quantize_columns(
                    (values.T if transposed else values) * np.float32(factor)
                )
            else:
                integers, scales = quantize_rows(values)
                scales = scales[:, None]  # (rows, 1): looked up like the rows themselves
        except StepFailed as error:
            raise StepFailed(f"weight {weight.name} {error}") from error
        names = (
            self.constants.add(f"{weight.name}_int8", integers),
            self.constants.add(f"{weight.name}_scale", scales),
        )
        if narrow is not None:
            self.stored[names[0]] = narrow
        self.removed.add(weight.name)
        for use in readers:
            self.replacements[use.node.output[0]] = replace(use, *names)

    def finish(self) -> None:
        """Write the new nodes and drop the float weights and what only they needed."""
        nodes = list(self._rewritten())
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        kept = [tensor for tensor in self.graph.initializer if tensor.name not in self.removed]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        described = [info for info in self.graph.value_info if info.name not in self.removed]
        del self.graph.value_info[:]
        self.graph.value_info.extend(described)
        if all(opset.domain != _CONTRIB for opset in self.opsets):
            self.opsets.append(helper.make_opsetid(_CONTRIB, 1))
        store_narrow(self.model, self.stored)

    def _rewritten(self) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of the new graph, each after what it reads."""
        waiting = {name: nodes for name, (_, nodes) in self.quantized.items()}
        waiting |= {name: nodes for name, (_, nodes) in self.pairs.items()}
        for node in self.graph.node:
            replacement = self.replacements.get(node.output[0] if node.output else "")
            if replacement is None:
                yield node
                continue
            for name in node.input:
                yield from waiting.pop(name, ())
            yield from replacement

    def _matmul(self, use: Use, weight: str, scale: str) -> list[onnx.NodeProto]:
        term = self._third_input(use)
        bias = self._bias(use, term, self.constants.tensors[scale].dims[0])
        if isinstance(self._fixed_scale(use), SignedScale):
            return self._matmul_of_pairs(use, weight, scale, bias, term)
        if self.activations != "per_tensor":
            return self._integer_matmul(use, weight, scale, bias, term)
        added_later = bool(term) and not bias
        output = f"{use.node.output[0]}_product" if added_later else use.node.output[0]
        # The zero point of symmetric weights is 0, which is what leaving it out means.
        inputs = [use.node.input[0], weight, scale, *(["", bias] if bias else [])]
        nodes = [_contrib("DynamicQuantizeMatMul", inputs, output, use.node.name)]
        return nodes + (self._addition(use, term, output) if added_later else [])

    def _integer_matmul(
        self, use: Use, weight: str, scale: str, bias: str, term: str
    ) -> list[onnx.NodeProto]:
        output, found = use.node.output[0], self._quantize(use.node.input[0])
        inputs = [found.integers, weight, found.scale, scale, found.zero_point]
        matmul = f"{output}_product" if term else output
        if found.ranges is None:
            inputs += ["", bias] if bias else []
            matmul = output if bias else matmul
            nodes = [_contrib("MatMulIntegerToFloat", inputs, matmul, use.node.name)]
            return nodes + (self._addition(use, term, matmul) if term and not bias else [])
        units = f"{output}_units"  # what the matmul would be if every range were 1
        nodes = [
            _contrib("MatMulIntegerToFloat", inputs, units, use.node.name),
            helper.make_node("Mul", [units, found.ranges], [matmul]),
        ]
        if bias:
            return [*nodes, helper.make_node("Add", [matmul, bias], [output])]
        return nodes + (self._addition(use, term, matmul) if term else [])

    def _fixed_scale(self, use: Use) -> FixedScale | None:
        """Return the scale that the activations of a matmul have, None where a run finds it."""
        known = self.activations if isinstance(self.activations, Mapping) else {}
        return known.get(use.node.input[0])

    def _matmul_of_pairs(
        self, use: Use, weight: str, scale: str, bias: str, term: str
    ) -> list[onnx.NodeProto]:
        """Return a float matmul of activations and weights that passed through int8."""
        fixed = self._fixed_scale(use)
        assert isinstance(fixed, SignedScale)
        values, original = use.node.input[:2]
        output = use.node.output[0]
        if values not in self.pairs:
            self.pairs[values] = self._pair(values, fixed)
        if original not in self.pairs:
            self.pairs[original] = self._dequantized(weight, scale)
        factors = [self.pairs[values][0], self.pairs[original][0]]
        matmul = f"{output}_product" if term else output
        nodes = [helper.make_node("MatMul", factors, [matmul], name=use.node.name)]
        if bias:
            return [*nodes, helper.make_node("Add", [matmul, bias], [output])]
        return nodes + (self._addition(use, term, matmul) if term else [])

    def _dequantized(self, weight: str, scale: str) -> tuple[str, list[onnx.NodeProto]]:
        """Return a weight as floats again, and the node for it."""
        zeros = self.constants.add_once(
            "zero_points", np.zeros(self.constants.tensors[scale].dims[0], np.int8)
        )
        inputs, floats = [weight, scale, zeros], f"{weight}_dequantized"
        return floats, [helper.make_node("DequantizeLinear", inputs, [floats], axis=1)]

    def _pair(self, values: str, fixed: SignedScale) -> tuple[str, list[onnx.NodeProto]]:
        """Return activations that passed through signed 8 bits, and the nodes for it."""
        constants = [
            self.constants.add_once("signed_scale", np.array(fixed.scale, np.float32)),
            self.constants.add_once("signed_zero_point", np.array(0, np.int8)),
        ]
        integers, floats = f"{values}_int8", f"{values}_dequantized"
        return floats, [
            helper.make_node("QuantizeLinear", [values, *constants], [integers]),
            helper.make_node("DequantizeLinear", [integers, *constants], [floats]),
        ]

    def _quantize(self, values: str) -> Quantized:
        """Return the quantized form of activations, whose nodes come before their first reader."""
        if values not in self.quantized:
            fixed = self.activations.get(values) if isinstance(self.activations, Mapping) else None
            assert not isinstance(fixed, SignedScale)
            if fixed is not None:
                made = quantize_static(values, fixed, self.constants.add_once)
            else:
                token_scale = token_scale_after(self.producers.get(values))
                made = quantize_tokens(values, token_scale, self.opset, self.constants.add_once)
            self.quantized[values] = made
        return self.quantized[values][0]

    def _third_input(self, use: Use) -> str:
        is_gemm = use.node.op_type == "Gemm" and use.number("beta", 1) != 0
        return use.node.input[2] if is_gemm and len(use.node.input) > 2 else ""

    def _bias(self, use: Use, term: str, width: int) -> str:
        """Return a constant `(width,)` to be added to each row, or "" when `term` is not one."""
        if term not in self.constants.tensors:
            return ""
        values = self.constants.array(term)
        beta = use.number("beta", 1)
        if values.shape == (width,) and beta == 1:
            return term
        if values.shape in ((width,), (1, width)):
            scaled = (values * np.float32(beta)).reshape(width)
            return self.constants.add(f"{use.node.output[0]}_bias", scaled)
        return ""

    def _addition(self, use: Use, term: str, matmul: str) -> list[onnx.NodeProto]:
        nodes = []
        if (beta := use.number("beta", 1)) != 1:
            factor = self.constants.add(f"{use.node.output[0]}_beta", np.array(beta, np.float32))
            scaled = f"{use.node.output[0]}_term"
            nodes.append(helper.make_node("Mul", [term, factor], [scaled]))
            term = scaled
        nodes.append(helper.make_node("Add", [matmul, term], [use.node.output[0]]))
        return nodes

    def _lookup(self, use: Use, table: str, scale: str) -> list[onnx.NodeProto]:
        indices, output = use.node.input[1], use.node.output[0]
        rows, floats, factors = f"{output}_int8", f"{output}_float", f"{output}_scale"
        return [
            helper.make_node("Gather", [table, indices], [rows], name=use.node.name),
            helper.make_node("Cast", [rows], [floats], to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [scale, indices], [factors]),
            helper.make_node("Mul", [floats, factors], [output]),
        ]


def _contrib(operator: str, inputs: list[str], output: str, name: str) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=name, domain=_CONTRIB)
