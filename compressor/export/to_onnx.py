"""From a PyTorch model to an .onnx file, through the exporter that comes with transformers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    DeduplicateInitializersPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from compressor.errors import ExportError
from compressor.export.attention_operator import ATTENTION_OPSET, holds_changed_operators
from compressor.export.cpu_graph import optimize_for_cpu
from compressor.export.gpu_graph import optimize_for_cuda
from compressor.export.openvino_graph import optimize_for_openvino
from compressor.export.traces import Traces
from compressor.export.weight_names import name_weights
from compressor.machine.memory import is_out_of_memory
from compressor.models.families import family_of
from compressor.models.onnx_model import OnnxModel
from compressor.models.runtime_releases import EXPORTER_OPSET
from compressor.models.text_files import not_exported
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.onnx_file import save_graph
from compressor.runtime.openvino_session import OPENVINO

logger = logging.getLogger(__name__)

_Fusions = Literal["cuda", "dml"]

# Which of ONNX Runtime's own operators a provider has kernels for. TensorRT knows standard ones.
# The exporter's fusions for DirectML are those for the CPU, but that attention stays one operator,
# which `optimize_for_cpu` then writes in the form that is fastest.
_FUSIONS: dict[str, _Fusions | None] = {
    "cpu": "dml",
    "cuda": "cuda",
    "tensorrt": None,
    "openvino": "dml",
}

# Tracing needs two examples of different length, or it takes the sizes for constants.
_TRACED_LENGTHS = (9, 6)

# Tracing runs other people's code, so it fails in any of these ways; torch's own errors
# (OnnxExporterError, UserError) are RuntimeErrors.
_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    ImportError,
)
_MOST_CHARACTERS = 300  # of what another library says


def export_onnx(
    model: TorchModel,
    path: Path,
    *,
    provider: str = "cpu",
    fuse: bool = True,
    opset: int | None = None,
    threads: int | None = None,
    traces: Traces | None = None,
) -> OnnxModel:
    """Write `model` to `path` as a graph for `provider` and return it.

    The graph reads what the tokenizer or image processor gives, under the same names, with the
    batch and, where the task has one, the sequence of any length. Its one output is the task's:
    `logits`, or `sentence_embedding` with pooling and normalisation in the graph. With `fuse` it
    uses ONNX Runtime's own operators for `provider`; it then runs nowhere else. `opset` None takes
    `EXPORTER_OPSET`, which ONNX Runtime 1.18 runs. The same model gives the same bytes, and no path
    of this machine is in them. A model of the shape of one among `traces` is not traced again: its
    weights take the place of those that were, which gives the same bytes too.

    Raises `ExportError` when the model cannot be traced or translated.
    """
    if provider not in _FUSIONS:
        raise ExportError(
            f"export.provider: '{provider}' is not known (allowed: {', '.join(_FUSIONS)})"
        )
    config = model.module.config
    kind, family = config.model_type, family_of(config.model_type)
    if (reason := family.not_exported) is not None and family.has_own_ways(config):
        raise ExportError(f"{type(model.module).__name__}: {not_exported(kind, reason)}")
    device = model.device
    # Tracing on a GPU would write down the attention kernels that PyTorch picks there.
    model.module.cpu().eval()
    inputs = _traced_inputs(model)
    logger.info("export: %s for %s", type(model.module).__name__, provider)
    fusions = _FUSIONS[provider] if fuse else None
    for_cpu = fuse and provider in ("cpu", OPENVINO)
    # The rewrites for the CPU raise the operator set themselves, and fuse attention better.
    asked = opset or EXPORTER_OPSET
    raised = for_cpu and asked >= ATTENTION_OPSET
    try:
        traces = Traces() if traces is None else traces
        how = (model, inputs, EXPORTER_OPSET if raised else asked, fusions)
        program = traces.traced(*how, _traced)
        if raised and holds_changed_operators(program):
            program = traces.traced(model, inputs, asked, fusions, _traced)
    except _FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise ExportError(
            f"{type(model.module).__name__} cannot be exported: {_first_line(error)}; if the "
            f"untouched checkpoint exports, the passes before the export are the cause, otherwise "
            f"models of type '{model.module.config.model_type}', or opset {opset or '(default)'}, "
            f"are not supported: give a checkpoint of another architecture"
        ) from error
    finally:
        model.move_to(device)
    _finish(program, tuple(inputs), model.task.output)
    if fuse and provider == OPENVINO:
        optimize_for_openvino(program, opset=asked)
    elif for_cpu:
        optimize_for_cpu(program, opset=asked)
    elif fuse and provider == "cuda":
        optimize_for_cuda(program)
    save_graph(ir.to_proto(program), path)
    logger.info("export: %s, %.1f MB", path.name, path.stat().st_size / 1e6)
    return OnnxModel(path, provider=provider, threads=threads)


def _traced(
    model: TorchModel, inputs: dict[str, torch.Tensor], opset: int, fusions: _Fusions | None
) -> ir.Model:
    """Return what the exporter makes of a model."""
    exporter = import_module("compressor.export.exporter")  # seconds, where nothing is traced
    program: ir.Model = exporter.traced(model, inputs, opset, fusions)
    return program


def _traced_inputs(model: TorchModel) -> dict[str, torch.Tensor]:
    examples = [model.task.dummy_example(length) for length in _TRACED_LENGTHS]
    batch = model.task.encode(model.preprocessor, examples)
    return {name: torch.from_numpy(value).to(model.device) for name, value in batch.items()}


def _finish(program: ir.Model, input_names: tuple[str, ...], output: str) -> None:
    """Leave one output, readable names, and nothing that tells how the graph was made."""
    graph = program.graph
    found = [value for value in graph.outputs if value.name == output]
    if len(found) != 1:
        raise ExportError(
            f"the exported model has outputs {', '.join(str(v.name) for v in graph.outputs)}, one "
            f"called {output} is needed; set model.task to what the checkpoint is for"
        )
    graph.outputs[:] = found
    if {value.name for value in graph.inputs} - set(input_names):
        raise ExportError(
            f"the exported model reads {', '.join(str(v.name) for v in graph.inputs)}, the "
            f"tokenizer or image processor gives {', '.join(input_names)}"
        )
    RemoveUnusedNodesPass()(program)
    LiftConstantsToInitializersPass()(program)
    # Layers that share their weights (ALBERT) were given a transposed copy each.
    DeduplicateInitializersPass(size_limit=sys.maxsize)(program)
    name_weights(graph)
    _name_axes(graph)
    _strip(program)


def _name_axes(graph: ir.Graph) -> None:
    """Call the free axes `batch` and `sequence` wherever tracing invented symbols for them."""
    names: dict[str, str] = {}
    for value in graph.inputs:
        for axis, name in zip(value.shape or (), ("batch", "sequence"), strict=False):
            if isinstance(axis, ir.SymbolicDim) and axis.value is not None:
                names[axis.value] = name
    for value in _values(graph):
        if value.shape is not None:
            value.shape = ir.Shape(
                names.get(axis.value or "", axis.value)
                if isinstance(axis, ir.SymbolicDim)
                else axis
                for axis in value.shape
            )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _strip(program: ir.Model) -> None:
    """Remove stack traces and other records of tracing: they hold paths and a tenth of the file."""
    program.metadata_props.clear()
    program.doc_string = program.graph.doc_string = None
    program.graph.metadata_props.clear()
    for node in program.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in _values(program.graph):
        value.metadata_props.clear()
        value.doc_string = None
        if value.const_value is not None:
            value.const_value.metadata_props.clear()
            value.const_value.doc_string = None


def _first_line(error: BaseException) -> str:
    """Return the first line of what is at the bottom of an error, in few characters.

    The exporter's own errors say in which of its steps one came up, and quote the graph.
    """
    while type(error).__module__.startswith("torch.onnx") and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= _MOST_CHARACTERS else f"{lines[0][:_MOST_CHARACTERS]}..."
