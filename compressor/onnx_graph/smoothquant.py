"""SmoothQuant: scales activations into the weights, with calibration data or without.

A few channels of an encoder are ten times larger than the others, and a token's one scale has to
fit them. Dividing each channel by a factor and multiplying the row of the weight with it leaves the
matmul as it was, and moves a part of the difference into the weights, which have a scale for each
column (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438). Which channels are large is read from the
normalisation's own scale and shift (as in Nagel et al. 2019, arXiv:1906.04721), so no rows are
needed, or from calibration rows. The residual reads the same normalisation, and a division does not
pass through GELU, so it is an operator of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import column_scales, quantize_columns
from compressor.onnx_graph.quantizable_weights import QuantizableWeight, Use, find_uses

Floats = NDArray[np.float32]

_STRENGTH = 0.5  # of the difference between channels, in logarithms, that moves into the weights
_WORTH = 0.95  # the predicted error after, as a part of that before, from which on it is done
_TOKENS = 256  # drawn for the prediction
_LEVELS = 127
# A channel's root mean square, as a part of the largest magnitude seen: three deviations.
_TYPICAL = 1 / 3


def smooth_normalized_inputs(
    model: onnx.ModelProto, weights: Iterable[QuantizableWeight]
) -> tuple[str, ...]:
    """Smooth the inputs of those `weights` that gain by it, in place, and return their names.

    Looked at are matrices that one MatMul reads, right after a LayerNormalization with constant
    scale and shift. The gain is predicted with tokens that are normally distributed before that
    scale and shift, the weights quantized as they will be. The float graph computes what it did
    before, up to rounding.

    Raises `StepFailed` when a weight is not finite.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    uses = find_uses(graph)
    found: list[tuple[dict[str, Use], Floats]] = []
    for weight in weights:
        if (use := _only_matmul(weight, uses)) is None:
            continue
        affine = _affine(producers.get(use.node.input[0]), tensors)
        if affine is None:
            continue
        try:
            factors = channel_factors(*affine, numpy_helper.to_array(tensors[weight.name]))
        except StepFailed as error:
            raise StepFailed(f"weight {weight.name} {error}") from error
        if factors is not None:
            found.append(({weight.name: use}, factors))
    return _divide_inputs(graph, found)


def smooth_observed_inputs(
    model: onnx.ModelProto,
    weights: Iterable[QuantizableWeight],
    largest: Mapping[str, Floats],
    strength: float,
    *,
    together: bool = False,
) -> tuple[str, ...]:
    """Smooth the inputs of those `weights` that gain by it, in place, and return their names.

    `largest` gives the largest magnitude of each channel, shape `(K,)`, of activations by their
    names; `strength` (0..1) is how much of the difference moves into the weights. Looked at are
    matrices that one MatMul reads; `together`, those of one input get the same factors and still
    read one value. The float graph computes what it did before, up to rounding.

    Raises `StepFailed` when a weight is not finite.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = find_uses(model.graph)
    groups: dict[str, dict[str, Use]] = {}
    for weight in weights:
        use = _only_matmul(weight, uses)
        if use is not None and use.node.input[0] in largest:
            groups.setdefault(use.node.input[0] if together else weight.name, {})[weight.name] = use
    found = []
    for group in groups.values():
        matrix = np.concatenate([numpy_helper.to_array(tensors[name]) for name in group], axis=1)
        value = next(iter(group.values())).node.input[0]
        try:
            factors = observed_factors(largest[value], matrix, strength)
        except StepFailed as error:
            raise StepFailed(f"weight {' or '.join(group)} {error}") from error
        if factors is not None:
            found.append((group, factors))
    return _divide_inputs(model.graph, found)


def observed_factors(largest: Floats, weight: Floats, strength: float) -> Floats | None:
    """Return what to divide each channel by, shape `(K,)`; None when little would be gained.

    Channel j gets `max |x_j| ** strength / max |w_j| ** (1 - strength)`; one where either is zero
    keeps its size. The gain is predicted for one symmetric range of all channels; what comes from
    GELU or ReLU has a finer scale of its own at run time, which a division before the matmul takes
    from it, so there a form with a scale for each token gains less than predicted, or loses.

    Raises `StepFailed` when a weight is not finite.
    Ref: Xiao et al. 2023, arXiv:2211.10438, eq. 4.
    """
    rows = np.abs(weight.astype(np.float64)).max(axis=1)
    if not np.isfinite(rows).all():
        raise StepFailed("holds NaN or infinity, which no integer can stand for")
    sizes = largest.astype(np.float64)
    lives = (sizes > 0) & (rows > 0)
    if not lives.any():
        return None
    logarithms = strength * np.log(sizes[lives]) - (1 - strength) * np.log(rows[lives])
    factors = np.ones(len(sizes), np.float32)
    factors[lives] = np.exp(logarithms - logarithms.mean())
    before = _predicted_error(sizes, weight, np.ones_like(factors))
    return factors if _predicted_error(sizes, weight, factors) < _WORTH * before else None


def _predicted_error(sizes: NDArray[np.float64], weight: Floats, factors: Floats) -> float:
    """Return the squared error of a matmul by rounding either side, up to a constant factor."""
    even = sizes / factors
    scaled = weight * factors[:, None]
    activations = np.square(even.max() / _LEVELS) * np.square(scaled, dtype=np.float64).sum()
    steps = np.square(column_scales(scaled), dtype=np.float64).sum()
    return float(activations + steps * np.square(_TYPICAL * even).sum())


def _divide_inputs(
    graph: onnx.GraphProto, found: Iterable[tuple[Mapping[str, Use], Floats]]
) -> tuple[str, ...]:
    """Divide the input of each group of matrices by its factors, and multiply their rows by them.

    Return the names of the matrices.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    divisions: dict[str, onnx.NodeProto] = {}  # by what they give, until their first reader
    smoothed: list[str] = []
    for group, factors in found:
        first, use = next(iter(group.items()))
        graph.initializer.append(numpy_helper.from_array(1 / factors, f"{first}_smoothing"))
        values, even = use.node.input[0], f"{first}_smoothed_input"
        divisions[even] = helper.make_node("Mul", [values, f"{first}_smoothing"], [even])
        for name, reader in group.items():
            weight = numpy_helper.to_array(tensors[name])
            tensors[name].CopyFrom(numpy_helper.from_array(weight * factors[:, None], name))
            reader.node.input[0] = even
            smoothed.append(name)
    nodes = []
    for node in graph.node:
        nodes += [divisions.pop(name) for name in node.input if name in divisions]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return tuple(smoothed)


def channel_factors(scale: Floats, shift: Floats, weight: Floats) -> Floats | None:
    """Return what to divide each channel by, shape `(K,)`; None when little would be gained.

    `scale` and `shift`, shape `(K,)`, are those of a normalisation before `weight`, `(K, N)`.
    """
    sizes = np.abs(scale.astype(np.float64)) + np.abs(shift)
    if not np.isfinite(sizes).all() or not sizes.any():
        return None
    logarithms = np.log(np.maximum(sizes, 1e-3 * sizes.max()))
    factors = np.exp(_STRENGTH * (logarithms - logarithms.mean())).astype(np.float32)
    tokens = np.random.default_rng(0).normal(size=(_TOKENS, len(scale))) * scale + shift
    before = _error(tokens, weight, np.ones_like(factors))
    return factors if _error(tokens, weight, factors) < _WORTH * before else None


def _error(tokens: NDArray[np.float64], weight: Floats, factors: Floats) -> float:
    """Return the mean squared error of the matmul, both sides quantized."""
    even = tokens / factors
    steps = np.maximum(np.abs(even).max(axis=1, keepdims=True), 1e-30) / _LEVELS
    values, scales = quantize_columns(weight * factors[:, None])
    matmul = (np.rint(even / steps) * steps) @ (values * scales.astype(np.float64))
    return float(np.mean(np.square(matmul - tokens @ weight)))


def _only_matmul(weight: QuantizableWeight, uses: dict[str, list[Use]]) -> Use | None:
    readers = uses[weight.name]
    is_plain = weight.kind == "matrix" and weight.obstacle is None and len(readers) == 1
    return readers[0] if is_plain and readers[0].node.op_type == "MatMul" else None


def _affine(
    node: onnx.NodeProto | None, tensors: dict[str, onnx.TensorProto]
) -> tuple[Floats, Floats] | None:
    """Return scale and shift of a normalisation along the last axis."""
    if node is None or node.op_type != "LayerNormalization" or len(node.input) < 3:
        return None
    axis = next((item.i for item in node.attribute if item.name == "axis"), -1)
    if axis != -1 or any(name not in tensors for name in node.input[1:3]):
        return None
    scale, shift = (numpy_helper.to_array(tensors[name]) for name in node.input[1:3])
    return (scale, shift) if scale.ndim == shift.ndim == 1 else None
