"""One trace of a PyTorch model by the exporter that comes with transformers.

That exporter is experimental: it patches torch while it works, prints, logs and warns. What is
known to be harmless is silenced here, message by message, and everything else passes through. It
takes seconds to import, so it is where a model is traced and not where a known trace is filled.
"""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

import onnx_ir as ir
import torch
from onnxscript.rewriter._matcher import SimplePatternMatcher
from transformers.exporters.configs import OnnxConfig
from transformers.exporters.exporter_onnx import OnnxExporter

from compressor.machine.collector import seldom_collected
from compressor.models.torch_model import TorchModel

# Log lines that say nothing about the model at hand: the first names the versions the exporter was
# tested with (this package pins the ones it was tested with itself), the second an optional
# package, the third the exporter's own functions.
_HARMLESS_LOGS = {
    "transformers.exporters.utils": re.compile(r"OnnxExporter is experimental"),
    "torch.onnx._internal.exporter._registration": re.compile(
        r"torchvision is not installed|Failed to infer the signature for function '%s'"
    ),
}


def traced(
    model: TorchModel,
    inputs: dict[str, torch.Tensor],
    opset: int,
    fusions: Literal["cuda", "dml"] | None,
) -> ir.Model:
    """Return the exporter's graph of a model in evaluation mode, on the CPU, with `fusions`.

    `inputs` are examples of at least two lengths. Raises whatever the traced code raises.
    """
    config = OnnxConfig(
        dynamic_shapes={name: _dynamic_axes(model, value) for name, value in inputs.items()},
        opset_version=opset,
        ort_fusions=fusions,
    )
    own = vars(model.module)
    had_forward = "forward" in own
    with _quiet(), _whole_numbers_are_exact(), seldom_collected():
        exporter: Any = OnnxExporter()
        try:
            program: ir.Model = exporter.export(model.module, inputs, config=config).program
        finally:
            # transformers puts back what it replaced as an attribute of the module itself, which a
            # model that computes in a way of its own would have.
            if not had_forward:
                own.pop("forward", None)
    return program


def _dynamic_axes(model: TorchModel, value: torch.Tensor) -> dict[int, object]:
    return dict.fromkeys(model.task.free_axes(value.ndim), torch.export.Dim.DYNAMIC)


@contextmanager
def _whole_numbers_are_exact() -> Iterator[None]:
    """Let rewrites take for 0 and 1 nothing but 0 and 1, as long as this lasts.

    onnxscript leaves `x + 0` out, and takes for 0 whatever is below 1e-8, such as what Helium adds
    before it divides by a root: where a row is all zeros, as that of the padding is, the file then
    gives NaN.
    """
    matched: Any = SimplePatternMatcher._match_constant

    def match(self: Any, pattern: Any, value: ir.Value) -> bool:
        whole, constant = pattern.value, value.const_value
        is_whole = isinstance(whole, int | float) and whole == int(whole)
        if is_whole and constant is not None and constant.size == 1 and constant.numpy() != whole:
            return bool(self.fail(f"{value.name} is near {whole} and not {whole}"))
        return bool(matched(self, pattern, value))

    setattr(SimplePatternMatcher, "_match_constant", match)  # noqa: B010 - it has a type
    try:
        yield
    finally:
        setattr(SimplePatternMatcher, "_match_constant", matched)  # noqa: B010


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's harmless chatter away, and leave everything as it was."""

    def keep(record: logging.LogRecord) -> bool:
        return not _HARMLESS_LOGS[record.name].match(str(record.msg))

    loggers = [logging.getLogger(name) for name in _HARMLESS_LOGS]
    for item in loggers:
        item.addFilter(keep)
    # torch.onnx.export prints its progress, and transformers does not let `verbose` through.
    export = torch.onnx.export
    torch.onnx.export = functools.partial(export, verbose=False)
    # Of what it cannot follow torch prints the graph so far, a thousand lines of it.
    tracing = vars(import_module("torch.export._trace"))
    tracing["print"] = lambda *_, **__: None
    try:
        with warnings.catch_warnings():
            # torch 2.13 copies its own tree specifications through a deprecated check.
            warnings.filterwarnings("ignore", r".*LeafSpec.*is deprecated", FutureWarning)
            yield
    finally:
        torch.onnx.export = export
        del tracing["print"]
        for item in loggers:
            item.removeFilter(keep)
