"""The work of the passes over the graph that store weights in fewer bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from compressor.models.onnx_model import OnnxModel
    from compressor.passes.base import PassContext


class WritesGraph(Protocol):
    """Settings of a pass that still do its work themselves."""

    def write_graph(self, model: OnnxModel, context: PassContext) -> OnnxModel:
        """Write the quantized graph and return it."""


def apply(settings: WritesGraph, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the quantized graph and return it."""
    return settings.write_graph(model, context)
