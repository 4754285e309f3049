"""The work of `quantize_vectors`: a few nodes behind the output of the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressor.errors import StepFailed
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.onnx_graph.vector_codes import give_bits, give_int8, int8_scale
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import Encoder, in_batches, sampled_rows
from compressor.passes.quantize.vector_settings import QuantizeVectors
from compressor.tasks import Example
from compressor.words import counted

_BATCH_SIZE = 32
_FLOAT_BYTES = 4


def apply(settings: QuantizeVectors, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the graph that gives codes and return it.

    Raises `StepFailed` when a vector of a calibration row is not finite.
    """
    read = (context.load_exported or context.load_baseline)()
    width = read.task.vector_width(read.module.config)
    graph = load_graph(model.path)
    untouched = read.task.vector_width(context.load_baseline().module.config)
    found: dict[str, object] = {
        "precision": settings.precision,
        "dimensions": width,
        "baseline_bytes": _FLOAT_BYTES * untouched,
    }
    if settings.precision == "int8":
        examples, num_borrowed = sampled_rows(context, settings.rows)
        largest = _largest_number(model, examples, Encoder(read.task, read.preprocessor), context)
        scale = int8_scale(largest)
        give_int8(graph, model.output_name, scale)
        num_bytes = width
        of_train = f", {num_borrowed:,} of them of the train split" if num_borrowed else ""
        found |= {"dtype": "int8", "scale": float(scale), "bytes": num_bytes}
        context.note(
            f"Numbers of vectors are int8, {float(scale):.6g} times which they are as float, by "
            f"the largest number of {counted(len(examples), 'calibration row')}{of_train}."
        )
    else:
        give_bits(graph, model.output_name, width)
        num_bytes = -(-width // 8)
        found |= {"dtype": "uint8", "bytes": num_bytes}
    context.record("output", found)
    context.note(
        f"A vector of {width:,} numbers takes {counted(num_bytes, 'byte')} in place of "
        f"{_FLOAT_BYTES * width:,}."
    )
    path = context.work_dir / "model.onnx"
    save_graph(graph, path)
    return OnnxModel(path, provider=model.provider, threads=model.threads)


def _largest_number(
    model: OnnxModel, examples: Sequence[Example], encode: Encoder, context: PassContext
) -> float:
    """Return the largest number of any vector, its sign aside."""
    largest = 0.0
    with context.progress.bar("calibrating", len(examples)) as advance:
        for batch in in_batches(examples, _BATCH_SIZE, encode):
            vectors = model.predict(batch)
            if not np.isfinite(vectors).all():
                raise StepFailed(
                    "a vector of a calibration row is not finite; the checkpoint or the pass "
                    "before is broken"
                )
            largest = max(largest, float(np.abs(vectors).max()))
            advance(len(vectors))
    return largest
