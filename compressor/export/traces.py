"""Graphs that were traced, without their weights: a model of the same shape gets one of them.

A pass that only changes weights leaves a model that is traced to the same graph, and tracing is
most of an export. So what a trace gives is kept, with which weights, whole, transposed or several
side by side, each of its tensors is. Where that cannot be told of one tensor, or the graph might
depend on values, a model is traced: when two weights are equal, which the exporter stores once, one
is symmetric, or one is the same everywhere, which may simplify away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from compressor.files import remove_unused
from compressor.models.torch_model import TorchModel

logger = logging.getLogger(__name__)

_KEPT = 4  # traces: a baseline's, and those of a few shapes that take turns
_PLAIN = (bool, int, float, str, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")

Inputs = Mapping[str, torch.Tensor]
Trace = Callable[[TorchModel, Any, int, Any], ir.Model]
Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Part:
    """A tensor of a graph: these weights side by side along its last axis, or one of them."""

    weights: tuple[str, ...]
    transposed: bool

    def of(self, weights: Weights) -> NDArray[Any]:
        found = [weights[name].T if self.transposed else weights[name] for name in self.weights]
        return np.ascontiguousarray(np.concatenate(found, axis=-1) if len(found) > 1 else found[0])


@dataclass(frozen=True)
class _Kept:
    """A graph without the tensors in `parts`."""

    graph: bytes
    parts: Mapping[str, _Part]


class Traces:
    """Graphs that were traced, by the shapes of their models: the last few, and those of a folder.

    `conditions` are all that a trace depends on besides the model, such as versions of packages.
    """

    def __init__(self, folder: Path | None = None, conditions: str = "") -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._folder = folder
        self._conditions = f"{conditions} {version('onnx-ir')}"

    def traced(
        self, model: TorchModel, inputs: Any, opset: int, fusions: Any, trace: Trace
    ) -> ir.Model:
        """Return what `trace` makes of a model, by another one's trace where that is the same."""
        weights = _weights(model.module)
        shape = None if weights is None else _shape_of(model, inputs, opset, fusions)
        if weights is None or shape is None:
            return trace(model, inputs, opset, fusions)
        key = hashlib.sha256(f"{shape} {self._conditions}".encode()).hexdigest()
        kept = self._kept.get(key) or self._read(key)
        if kept is not None:
            self._keep(key, kept)
            return _with_weights(kept, weights)
        program = trace(model, inputs, opset, fusions)
        parts = _parts(program, weights)
        if parts is not None:
            kept = _Kept(_without_weights(program, parts), parts)
            self._keep(key, kept)
            self._write(key, kept)
        return program

    def _keep(self, key: str, kept: _Kept) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _read(self, key: str) -> _Kept | None:
        """Return what lies in the folder; a file that is damaged is as good as none."""
        if self._folder is None:
            return None
        path = self._folder / key
        if not path.is_file():
            return None
        try:
            head, _, graph = path.read_bytes().partition(b"\n")
            about = json.loads(head)
            if about["sha256"] != _checksum(graph, about["parts"]):
                raise ValueError("wrong checksum")
            parts = {name: _Part(tuple(item[0]), item[1]) for name, item in about["parts"].items()}
            os.utime(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.info("%s: damaged (%s), traced again", path, error)
            return None
        return _Kept(graph, parts)

    def _write(self, key: str, kept: _Kept) -> None:
        if self._folder is None:
            return
        parts = {name: [list(part.weights), part.transposed] for name, part in kept.parts.items()}
        about = {"sha256": _checksum(kept.graph, parts), "parts": parts}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_unused(self._folder)
            handle, unfinished = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(handle, "wb") as stream:
                stream.write(json.dumps(about).encode() + b"\n" + kept.graph)
            Path(unfinished).replace(self._folder / key)
        except OSError as error:  # of two runs both trace, which is all that is lost
            logger.info("%s: the trace cannot be kept there (%s)", self._folder, error)


def _checksum(graph: bytes, parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode() + graph).hexdigest()


def _weights(module: nn.Module) -> Weights | None:
    """Return the weights by name, None where the graph may depend on their values.

    They are views of the module's own, each of shared ones by one name.
    """
    found: Weights = {}
    known: set[bytes] = set()
    for name, parameter in module.named_parameters():
        values = parameter.detach().cpu().numpy()
        if values.size < 2 or (values == values.flat[0]).all() or _is_symmetric(values):
            return None
        digest = _digest(values)
        if digest in known:
            return None
        known.add(digest)
        found[name] = values
    return found


def _is_symmetric(values: NDArray[Any]) -> bool:
    return values.ndim == 2 and np.array_equal(values, values.T)


def _digest(values: NDArray[Any]) -> bytes:
    """Return a hash of the values, whatever their shape."""
    return hashlib.sha256(np.ascontiguousarray(values).data.cast("B")).digest()


def _shape_of(model: TorchModel, inputs: Inputs, opset: int, fusions: Any) -> str | None:
    """Return a hash of all besides weights that a graph is made from; None where it is not known.

    That is code, settings, buffers, and which parameters are shared.
    """
    module = model.module
    digest = hashlib.sha256()
    names: dict[int, str] = {}
    for name, child in module.named_modules(remove_duplicate=False):
        if any(getattr(child, hooks, None) for hooks in _HOOKS) or hasattr(
            child, "parametrizations"
        ):
            return None
        if "forward" in vars(child):
            return None  # a function that was put in place of the class's own
        own = {key: value for key, value in vars(child).items() if _is_plain(value)}
        kind = f"{type(child).__module__}.{type(child).__qualname__}"
        digest.update(f"{name} {kind} {sorted(own.items())!r} {child.extra_repr()}".encode())
        for key, value in child.named_parameters(recurse=False):
            shared = names.setdefault(id(value), f"{name}.{key}")
            digest.update(f"{name}.{key} {shared} {tuple(value.shape)} {value.dtype}".encode())
        for key, value in child.named_buffers(recurse=False):
            digest.update(f"{name}.{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(_digest(value.detach().cpu().numpy()))
    for name, value in inputs.items():
        free = model.task.free_axes(value.ndim)
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {free}".encode())
        digest.update(_digest(value.cpu().numpy()))
    config = {
        key: value for key, value in module.config.to_dict().items() if "name_or_path" not in key
    }
    digest.update(json.dumps(config, sort_keys=True, default=repr).encode())
    digest.update(f"{opset} {fusions} {torch.get_default_dtype()} {model.task!r}".encode())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _parts(program: ir.Model, weights: Weights) -> dict[str, _Part] | None:
    """Return which weights the tensors of a graph are; None where one is something else of them.

    A tensor of whole numbers, and a single number, is none: weights have several each.
    """
    if program.functions or any(True for _ in _other_tensors(program)):
        return None
    places: dict[tuple[tuple[int, ...], bytes], tuple[str, bool]] = {}
    for name, values in weights.items():
        places[values.shape, _digest(values)] = (name, False)
        if values.ndim == 2:
            places.setdefault((values.T.shape, _digest(values.T)), (name, True))
    widths = sorted({shape[-1] for shape, _ in places})
    parts: dict[str, _Part] = {}
    for name, value in program.graph.initializers.items():
        if value.const_value is None:
            return None
        values = value.const_value.numpy()
        if values.dtype.kind != "f" or values.size < 2:
            continue
        part = _part(values, places, widths)
        if part is None:
            return None
        parts[str(name)] = part
    return parts


def _part(
    values: NDArray[Any],
    places: Mapping[tuple[tuple[int, ...], bytes], tuple[str, bool]],
    widths: list[int],
) -> _Part | None:
    """Return the weights that lie side by side in a tensor, all transposed or none of them."""
    names: list[str] = []
    turned: set[bool] = set()
    start = 0
    while start < values.shape[-1]:
        for width in (values.shape[-1], *widths):
            piece = values[..., start : start + width]
            found = places.get((piece.shape, _digest(piece)))
            if found is not None:
                break
        else:
            return None
        names.append(found[0])
        turned.add(found[1])
        start += width
    return _Part(tuple(names), turned.pop()) if len(turned) == 1 else None


def _other_tensors(program: ir.Model) -> Iterator[object]:
    """Yield tensors of several fractions that stand in nodes, and not among the initializers."""
    for node in program.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR:
                values = attribute.value.numpy()
                if values.dtype.kind == "f" and values.size > 1:
                    yield attribute


def _without_weights(program: ir.Model, parts: Mapping[str, _Part]) -> bytes:
    proto = ir.to_proto(program)
    for tensor in proto.graph.initializer:
        if tensor.name in parts:
            tensor.ClearField("raw_data")
    content: bytes = proto.SerializeToString()
    return content


def _with_weights(kept: _Kept, weights: Weights) -> ir.Model:
    program = ir.from_proto(onnx.load_model_from_string(kept.graph))
    for name, value in program.graph.initializers.items():
        part = kept.parts.get(str(name))
        assert value.const_value is not None, "only the content of some was left out"
        if part is not None:
            value.const_value = ir.tensor(part.of(weights), name=str(name))
        else:
            value.const_value = _plain(value.const_value)
    for node in program.graph.all_nodes():
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, _plain(attribute.value))
    return program


def _plain(tensor: Any) -> ir.TensorProtocol:
    """Return a tensor that can be changed, in place of a view of what was read."""
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)
