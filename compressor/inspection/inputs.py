"""Inputs to try a graph on: real texts through its tokenizer, or random ones that fit."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.data.check import file_source
from compressor.data.readers import read_table
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.guard import foreign
from compressor.tasks import Batch, load_task
from compressor.words import counted

MAX_ROWS = 128  # of a data file; a saturating matmul in NumPy takes a while
_BATCH_SIZE = 32
_RANDOM_ROWS = 8
_RANDOM_LENGTH = 32
_MOST_ELEMENTS = 1 << 26  # of one input: half a gigabyte while it is drawn
_SMALL_VOCABULARY = 100  # where no table says how many ids there are
_MAX_LENGTH = 128


@dataclass(frozen=True)
class TextRows:
    """Rows to read: a file, its column of texts, and where the tokenizer lies."""

    data: Path
    text: str
    tokenizer: Path


def text_batches(model: onnx.ModelProto, rows: TextRows) -> tuple[str, list[Batch]]:
    """Return what the rows are called, and batches of the inputs that the graph reads.

    At most the first 128 rows are read, of 128 tokens at most.

    Raises `RecipeError` for a wrong column, `EnvironmentMismatch` when the file or the tokenizer
    is missing and when the tokenizer does not give what the graph reads.
    """
    table = read_table(file_source(rows.data), (rows.text,), ())
    texts = [value for value in table.columns[rows.text][:MAX_ROWS] if isinstance(value, str)]
    if not texts:
        raise RecipeError(f"{rows.data}: column '{rows.text}' holds no text; name another one")
    task = load_task("text-classification")
    with foreign(
        f"{rows.tokenizer}: no tokenizer can be loaded",
        "give --tokenizer DIRECTORY with the files that the model was trained with",
    ):
        tokenizer = task.load_preprocessor(rows.tokenizer)
    tokenizer.model_max_length = min(_MAX_LENGTH, tokenizer.model_max_length)
    wanted = _input_names(model)
    found = []
    for start in range(0, len(texts), _BATCH_SIZE):
        batch = task.encode(tokenizer, texts[start : start + _BATCH_SIZE])
        if absent := [name for name in wanted if name not in batch]:
            raise EnvironmentMismatch(
                f"{rows.tokenizer}: the tokenizer gives {', '.join(batch)}, but the graph also "
                f"reads {', '.join(absent)}; give --tokenizer of the model it was exported from"
            )
        found.append({name: batch[name] for name in wanted})
    return f"{counted(len(texts), 'row')} of {rows.data.name}", found


def random_batch(model: onnx.ModelProto, *, seed: int = 0) -> tuple[str, list[Batch]]:
    """Return what the rows are called, and one batch that fits the graph's inputs.

    Ids are drawn from the table that they look up, masks are ones, floats are standard normal.
    Raises `EnvironmentMismatch` for a graph whose fixed shapes take too much memory.
    """
    random = np.random.default_rng(seed)
    batch: Batch = {}
    for info in _inputs(model):
        kind = info.type.tensor_type
        shape = [
            axis.dim_value if axis.HasField("dim_value") else _free_axis(position)
            for position, axis in enumerate(kind.shape.dim)
        ]
        if prod(shape) > _MOST_ELEMENTS:
            raise EnvironmentMismatch(
                f"input '{info.name}' of the graph has the fixed shape {shape}, which takes "
                f"{8 * prod(shape) / 1e9:.1f} GB to try; export the model with a free batch axis"
            )
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        values: NDArray[Any]
        if kind.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            values = random.standard_normal(shape)
        elif "mask" in info.name:
            values = np.ones(shape)
        elif "position" in info.name:
            values = np.broadcast_to(np.arange(shape[-1]), shape)
        elif "type" in info.name or "segment" in info.name:
            values = np.zeros(shape)
        else:
            values = random.integers(0, _vocabulary(model.graph, info.name), shape)
        batch[info.name] = np.ascontiguousarray(values, dtype=dtype)
    return f"{_RANDOM_ROWS} random rows", [batch]


def _free_axis(position: int) -> int:
    return _RANDOM_ROWS if position == 0 else _RANDOM_LENGTH


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs without a default; old files list their weights among the inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in constants]


def _input_names(model: onnx.ModelProto) -> list[str]:
    return [info.name for info in _inputs(model)]


def _vocabulary(graph: onnx.GraphProto, ids: str) -> int:
    """Return the rows of the table that `ids` look up."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 2}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in rows:
            rows[node.output[0]] = rows[node.input[0]]
        elif node.op_type in ("Gather", "GatherBlockQuantized") and node.input[1] == ids:
            return int(rows.get(node.input[0], _SMALL_VOCABULARY))
    return _SMALL_VOCABULARY
