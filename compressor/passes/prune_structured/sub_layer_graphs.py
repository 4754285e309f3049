"""Writes ONNX graphs of single sub-layers of any size, in the form that the exporter gives them.

They are there to be timed: exporting a model for each size would take minutes, building a graph
takes none. Weights are random, because no time depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compressor.models.families.layers import Encoder
from compressor.models.onnx_model import OUTPUT
from compressor.models.outputs import first_output
from compressor.onnx_graph.int8_weights import store_int8_weights
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights

Precision = Literal["float32", "int8"]
STATES = "hidden_states"  # an input, `(batch, tokens, hidden)`
MASK = "mask"  # an input where the kind has one, `(batch, 1, tokens, tokens)`, added to the scores

_OPSET, _IR_VERSION = 23, 11
_CONTRIB = "com.microsoft"
_Output = Tensor | tuple[Tensor, ...]  # of a layer; of some with more than the hidden states
_MOST_TOKENS = 8192  # that a graph rotates
_SMALLEST_INT8 = 2048  # weights; `quantize_dynamic` leaves smaller matrices in float by default


@dataclass(frozen=True)
class SubLayerKind:
    """What all sub-layers of an encoder have in common.

    `norms_first` says whether the norm comes before the sub-layer or after the sum with the
    residual, `has_mask` whether attention adds one, `is_gated` whether a second half of the
    feed-forward network multiplies the first, `rotates` whether queries and keys are rotated by
    their position.
    """

    hidden_size: int
    head_dim: int
    activation: str  # as the configuration calls it
    norms_first: bool
    has_mask: bool
    is_gated: bool = False
    rotates: bool = False

    def facts(self) -> dict[str, object]:
        """Return plain values; what tables of earlier versions did not know is left out if false.

        >>> SubLayerKind(32, 8, "gelu", norms_first=False, has_mask=True, is_gated=True).facts()
        {'hidden_size': 32, 'head_dim': 8, 'activation': 'gelu', 'norms_first': False, \
'has_mask': True, 'is_gated': True}
        """
        later = ("is_gated", "rotates")
        return {name: value for name, value in asdict(self).items() if value or name not in later}


def sub_layer_kind(encoder: Encoder) -> SubLayerKind:
    """Read the kind off an encoder."""
    config, parts = encoder.config, encoder.parts
    attention = next((it.attention for it in encoder.layers if it.attention), None)
    activation = "gelu" if parts.activation is None else getattr(config, parts.activation)
    return SubLayerKind(
        hidden_size=config.hidden_size,
        head_dim=attention.head_dim if attention else 1,
        activation=activation if isinstance(activation, str) else type(activation).__name__,
        norms_first=parts.norms_first,
        has_mask=encoder.module.main_input_name == "input_ids",
        is_gated=parts.feed_forward.gate is not None,
        rotates=parts.rotates,
    )


def attention_graph(
    kind: SubLayerKind,
    num_heads: int,
    copies: int,
    precision: Precision,
    *,
    one_token: bool = False,
) -> onnx.ModelProto:
    """Return `copies` attention sub-layers, one after another, with their norms and residuals.

    With `one_token` the last one computes what a classifier reads: the first token, from the keys
    and values of all.
    """
    graph = _Graph(kind)
    for _ in range(copies - one_token):
        graph.attention(num_heads)
    if one_token:
        graph.attention_of_one_token(num_heads)
    return _in_precision(graph.model(), precision)


def feed_forward_graph(
    kind: SubLayerKind,
    num_neurons: int,
    copies: int,
    precision: Precision,
    *,
    one_token: bool = False,
) -> onnx.ModelProto:
    """Return `copies` feed-forward sub-layers, one after another, with norms and residuals.

    With `one_token` they read the first token alone.
    """
    graph = _Graph(kind)
    if one_token:
        graph.states = graph.first_token(graph.states)
    for _ in range(copies):
        graph.feed_forward(num_neurons)
    return _in_precision(graph.model(), precision)


def _in_precision(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    if precision == "int8":
        weights = [
            weight
            for weight in find_quantizable_weights(model)
            if weight.obstacle is None and weight.num_elements >= _SMALLEST_INT8
        ]
        store_int8_weights(model, weights, activations="per_token")
    return model


@dataclass
class _Graph:
    """A graph that grows; `states` is the value that the next sub-layer reads."""

    kind: SubLayerKind
    states: str = STATES
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def attention(self, num_heads: int) -> None:
        """Append an attention sub-layer, packed as the exporter packs it."""
        width, residual = num_heads * self.kind.head_dim, self.states
        if num_heads == 0:
            self._leave([residual])
            return
        states = self._normalised_first(residual)
        packed = self._product(states, self.kind.hidden_size, 3 * width)
        sizes = self._constant(np.full(3, width, np.int64))
        parts = self._node("Split", [packed, sizes], outputs=3, axis=-1)
        self._attend(parts, [MASK] if self.kind.has_mask else [], num_heads, residual)

    def _attend(self, parts: list[str], mask: list[str], num_heads: int, residual: str) -> None:
        """Append biases, attention, its output projection and the sum with the residual."""
        width = num_heads * self.kind.head_dim
        inputs = [self._one("Add", [part, self._vector(width)]) for part in parts]
        if self.kind.rotates:
            inputs[:2] = map(self._rotated, inputs[:2])
        context = self._one(
            "Attention",
            [*inputs, *mask],
            q_num_heads=num_heads,
            kv_num_heads=num_heads,
            scale=self.kind.head_dim**-0.5,
        )
        output = self._product(context, width, self.kind.hidden_size)
        self._leave([output, residual])

    def attention_of_one_token(self, num_heads: int) -> None:
        """Append an attention sub-layer whose only query is the first token's."""
        width, residual = num_heads * self.kind.head_dim, self.first_token(self.states)
        if num_heads == 0:
            self._leave([residual])
            return
        states = self._normalised_first(self.states)
        own = self.first_token(states) if self.kind.norms_first else residual
        query = self._product(own, self.kind.hidden_size, width)
        packed = self._product(states, self.kind.hidden_size, 2 * width)
        sizes = self._constant(np.full(2, width, np.int64))
        parts = [query, *self._node("Split", [packed, sizes], outputs=2, axis=-1)]
        mask = [self.first_token(MASK, axis=2)] if self.kind.has_mask else []
        self._attend(parts, mask, num_heads, residual)

    def first_token(self, value: str, axis: int = 1) -> str:
        """Append what leaves the first position along `axis` only, and return that."""
        first = self._constant(np.zeros(1, np.int64))
        return self._one("Gather", [value, first], axis=axis)

    def feed_forward(self, num_neurons: int) -> None:
        """Append a feed-forward sub-layer."""
        residual, hidden_size = self.states, self.kind.hidden_size
        if num_neurons == 0:
            self._leave([residual])
            return
        states = self._normalised_first(residual)
        if self.kind.is_gated:
            both = self._product(states, hidden_size, 2 * num_neurons)
            sizes = self._constant(np.full(2, num_neurons, np.int64))
            inner, gate = self._node("Split", [both, sizes], outputs=2, axis=-1)
            inner = self._one("Mul", [self._activated(inner, self._vector(num_neurons)), gate])
        else:
            inner = self._product(states, hidden_size, num_neurons)
            inner = self._activated(inner, self._vector(num_neurons))
        output = self._product(inner, num_neurons, hidden_size)
        self._leave([output, residual])

    def model(self) -> onnx.ModelProto:
        """Return the whole graph; its output is the last hidden state."""
        self.nodes.append(helper.make_node("Identity", [self.states], [OUTPUT]))
        floats, width = TensorProto.FLOAT, self.kind.hidden_size
        inputs = [helper.make_tensor_value_info(STATES, floats, ["batch", "tokens", width])]
        if self.kind.has_mask:
            inputs.append(
                helper.make_tensor_value_info(MASK, floats, ["batch", 1, "tokens", "tokens"])
            )
        output = helper.make_tensor_value_info(OUTPUT, floats, ["batch", "tokens", width])
        graph = helper.make_graph(self.nodes, "sub_layers", inputs, [output], self.tensors)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _leave(self, terms: list[str]) -> None:
        """Add terms and the output projection's bias, and normalise where that comes afterwards."""
        bias = self._vector(self.kind.hidden_size)
        total = self._one("Sum", [terms[0], bias, *terms[1:]])
        self.states = total if self.kind.norms_first else self._normalised(total)

    def _normalised_first(self, states: str) -> str:
        return self._normalised(states) if self.kind.norms_first else states

    def _normalised(self, states: str) -> str:
        vectors = [self._vector(self.kind.hidden_size) for _ in range(2)]
        return self._one("LayerNormalization", [states, *vectors], axis=-1, epsilon=1e-12)

    def _activated(self, inner: str, bias: str) -> str:
        if self.kind.activation == "gelu":
            return self._one("BiasGelu", [inner, bias], domain=_CONTRIB)
        if self.kind.activation == "relu":
            return self._one("Relu", [self._one("Add", [inner, bias])])
        # Whatever else it is, one smooth function of each number.
        return self._one("FastGelu", [inner, bias], domain=_CONTRIB)

    def _rotated(self, states: str) -> str:
        """Append the rotation of each token's heads by its position, and return the result."""
        angles = [self._constant(self._angles(wave)) for wave in (np.cos, np.sin)]
        first = self._constant(np.zeros(1, np.int64))
        return self._one("RotaryEmbedding", [states, first, *angles], domain=_CONTRIB)

    def _angles(self, wave: np.ufunc) -> NDArray[np.float32]:
        frequencies = 10_000.0 ** -np.linspace(0, 1, self.kind.head_dim // 2, endpoint=False)
        return np.asarray(wave(np.arange(_MOST_TOKENS)[:, None] * frequencies), np.float32)

    def _product(self, inputs: str, rows: int, columns: int) -> str:
        weight = self.random.standard_normal((rows, columns), dtype=np.float32) * rows**-0.5
        return self._one("MatMul", [inputs, self._constant(weight.astype(np.float32))])

    def _vector(self, size: int) -> str:
        return self._constant(self.random.standard_normal(size, dtype=np.float32))

    def _constant(self, values: NDArray[Any]) -> str:
        name = f"constant_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def _one(self, operator: str, inputs: list[str], *, domain: str = "", **settings: Any) -> str:
        return self._node(operator, inputs, domain=domain, **settings)[0]

    def _node(
        self,
        operator: str,
        inputs: list[str],
        *,
        outputs: int = 1,
        domain: str = "",
        **settings: Any,
    ) -> list[str]:
        name = f"{operator}_{len(self.nodes)}"
        values = [f"{name}_{index}" for index in range(outputs)]
        node = helper.make_node(operator, inputs, values, name=name, domain=domain, **settings)
        self.nodes.append(node)
        return values


def reads_one_token(encoder: Encoder, inputs: Mapping[str, Tensor]) -> bool:
    """Return whether predictions depend on the first token of the last layer's output alone.

    The export then computes that layer for no other (`export/unread_positions.py`), and most of it
    costs next to nothing. Found by the gradient of a random sum of the logits, so it holds for any
    head; `inputs` are those of some rows of two tokens or more.
    """
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: _Output) -> _Output:
        states = output[0] if isinstance(output, tuple) else output
        leaf = states.detach().requires_grad_()
        seen.append(leaf)
        return (leaf, *output[1:]) if isinstance(output, tuple) else leaf

    handle = encoder.layer_list[-1].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = first_output(encoder.module(**inputs))
            random = torch.Generator().manual_seed(0)
            probe = torch.randn(logits.shape, generator=random).to(logits)
            [gradient] = torch.autograd.grad((logits * probe).sum(), [seen[0]])
    finally:
        handle.remove()
    is_read = gradient.abs().sum(dim=(0, 2)) > 0  # (tokens,)
    return bool(is_read[0]) and not bool(is_read[1:].any())
