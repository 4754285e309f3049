"""One trace of each model in a run of the tests, however many of them export it.

Tracing is other people's code (torch, transformers, onnxscript) and takes seconds however small the
model is: it was most of the time of all tests, and nearly every run of a recipe begins with the
export of the same untouched checkpoint. So what a trace gives is kept in a file, under a hash of
everything it is made from; what the package itself does before and after it runs each time. A model
with code that a hash cannot cover, such as a module of a test's own or a hook, is traced each time,
as is everything in a test with the fixture `traces_anew` and in processes that a test starts.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
import transformers

from compressor.export import to_onnx
from compressor.models.torch_model import TorchModel

trace_anew = to_onnx._traced

# Code of these does not change while tests run.
FIXED_PACKAGES = ("_operator", "builtins", "compressor", "torch", "transformers")
# Where a model was read from, and how its tensors were named there, is in no graph.
LOADING = ("name_or_path", "_name_or_path", "_weight_conversions")


class CodeOfATest(Exception):
    """What a model computes depends on more than on the values it holds."""


class TracedGraphs:
    """A stand-in for `to_onnx._traced` over a folder that all processes of a run may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, model: TorchModel, inputs: dict[str, torch.Tensor], opset: int, fusions: str | None
    ) -> ir.Model:
        free = {name: model.task.free_axes(value.ndim) for name, value in inputs.items()}
        made_from = (model.module, inputs, free, opset, fusions, torch.get_default_dtype())
        try:
            facts = _facts(made_from, {})
        except CodeOfATest:
            return trace_anew(model, inputs, opset, fusions)
        path = self.folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()}.onnx"
        if not path.exists():
            program = trace_anew(model, inputs, opset, fusions)
            # Two processes may trace one model at once; either file is whole when it appears.
            handle, unfinished = tempfile.mkstemp(dir=self.folder)
            with os.fdopen(handle, "wb") as stream:
                stream.write(ir.to_proto(program).SerializeToString())
            Path(unfinished).replace(path)
        program = ir.from_proto(onnx.load(path))
        _hold_tensors(program)
        return program


def _hold_tensors(program: ir.Model) -> None:
    """Replace tensors that are views of a file's content, which cannot be edited, by plain ones."""
    for value in program.graph.initializers.values():
        value.const_value = _plain(value.const_value)
    for node in program.graph.all_nodes():
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, _plain(attribute.value))


def _plain(tensor: Any) -> ir.Tensor:
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def _facts(value: Any, met: dict[int, int]) -> object:
    """Return nested tuples that are equal for parts of models that compute the same.

    `met` has the place of each module and tensor met so far: weights that are shared are not the
    same as equal ones.
    """
    match value:
        case None | bool() | int() | float() | str() | torch.dtype() | torch.device():
            return repr(value)
        case torch.Tensor() | torch.nn.Module() | transformers.PreTrainedConfig() if (
            id(value) in met
        ):
            return "met", met[id(value)]
        case torch.Tensor():
            met[id(value)] = len(met)
            content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return str(value.dtype), tuple(value.shape), hashlib.sha256(content).hexdigest()
        case torch.nn.Module() | transformers.PreTrainedConfig():
            met[id(value)] = len(met)
            held = {key: item for key, item in vars(value).items() if key not in LOADING}
            return _code(type(value)), _facts(held, met)
        case Mapping():
            return tuple((repr(key), _facts(item, met)) for key, item in value.items())
        case list() | tuple() | range():
            return tuple(_facts(item, met) for item in value)
        case set() | frozenset():
            return tuple(sorted(repr(_facts(item, met)) for item in value))
        case type() | types.FunctionType() | types.BuiltinFunctionType():
            return _code(value)
    raise CodeOfATest(type(value))


def _code(named: Any) -> str:
    """Return the full name of a class or function of a package, which says what it does."""
    package = str(named.__module__).partition(".")[0]
    if package not in FIXED_PACKAGES or "<locals>" in named.__qualname__:
        raise CodeOfATest(named)
    return f"{named.__module__}.{named.__qualname__}"
