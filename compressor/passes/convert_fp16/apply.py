"""The work of `convert_fp16`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.models.onnx_model import OnnxModel
    from compressor.passes.base import PassContext
    from compressor.passes.convert_fp16.settings import ConvertFp16


def apply(settings: ConvertFp16, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the graph in half precision and return it."""
    return settings.write_graph(model, context)
