"""Lets the graph of a sentence encoder give the states of its tokens beside its vectors.

Programs that pool by themselves (sentence-transformers, ORTModel of optimum-onnx, fastembed) look
for an output called `last_hidden_state`. Which value of a graph holds the states is not told by its
name: passes and fusions rename everything. So each value near the end is tried, and the first that
gives the graph's own vectors when it is pooled as the checkpoint says is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from compressor.errors import ExportError
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.tasks import Batch

OUTPUT = "last_hidden_state"  # what transformers calls the states
_TRIED = 80  # values, from the vectors backwards
_CLOSE = 1e-3  # of the length of a vector, which a graph in float16 rounds to


def add_token_states(
    model: OnnxModel, batch: Batch, pooled: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    """Let the graph in the file of `model` give `last_hidden_state` too, in place.

    Its shape is `(batch, tokens, hidden_size)`, or `(batch, 1, hidden_size)` where only the first
    token's state is computed because no other is pooled. `batch` holds texts of several lengths;
    `pooled` makes vectors of states, shape `(batch, width)`.

    Raises `ExportError` where no value of the graph gives its vectors when it is pooled.
    """
    path = model.path
    vectors = model.predict(batch)
    if vectors.dtype != np.float32:
        raise ExportError(
            "export.token_states: the graph gives vectors as bytes (quantize_vectors), and a "
            "program that pools states gives floats; leave one of the two out"
        )
    content = load_graph(path)
    places = list(_near_the_end(content.graph, model.output_name))
    trial = onnx.ModelProto()
    trial.CopyFrom(content)
    trial.graph.output.extend(onnx.ValueInfoProto(name=name) for name in places)
    tried = path.with_name(f".{path.name}.tried")
    try:
        save_graph(trial, tried)
        session = OnnxModel(tried, provider=model.provider, settings=model.settings).session
        feed = model.feed(batch)
        values = session.run(places, feed)
    finally:
        for file in path.parent.glob(f"{tried.name}*"):
            file.unlink()
    rows, tokens = next(iter(batch.values())).shape
    for name, value in zip(reversed(places), reversed(values), strict=True):
        if _gives(value, vectors, pooled, rows, tokens):
            _rename(content.graph, name, value)
            save_graph(content, path)
            return
    raise ExportError(
        "export.token_states: no value near the end of the graph gives its vectors when it is "
        "pooled, so there are no states to give; leave the setting out"
    )


def _near_the_end(graph: onnx.GraphProto, output: str) -> Iterator[str]:
    """Yield the values that an output is computed from, the nearest first."""
    makers = {name: node for node in graph.node for name in node.output}
    pending, seen = [output], {output}
    while pending and len(seen) <= _TRIED:
        node = makers.get(pending.pop(0))
        for name in () if node is None else node.input:
            if name in makers and name not in seen:
                seen.add(name)
                pending.append(name)
                yield name


def _gives(
    value: NDArray[Any],
    vectors: NDArray[np.float32],
    pooled: Callable[[NDArray[Any]], NDArray[Any]],
    rows: int,
    tokens: int,
) -> bool:
    """Return whether a value holds states that give these vectors when they are pooled."""
    if value.dtype.kind != "f" or value.ndim != 3:
        return False
    if value.shape[0] != rows or value.shape[1] not in (1, tokens) or value.shape[2] == 1:
        return False
    found = pooled(value.astype(np.float32))
    if found.shape != vectors.shape:
        return False
    lengths = np.linalg.norm(vectors, axis=1)
    return bool((np.linalg.norm(found - vectors, axis=1) <= _CLOSE * lengths).all())


def _rename(graph: onnx.GraphProto, name: str, value: NDArray[Any]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, own in enumerate(names):
                if own == name:
                    names[place] = OUTPUT
    for info in list(graph.value_info):
        if info.name == name:
            graph.value_info.remove(info)
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    axes: list[str | int] = [*_free_axes(graph), value.shape[2]]
    if value.shape[1] == 1:
        axes[1] = 1
    graph.output.append(helper.make_tensor_value_info(OUTPUT, kind, axes))


def _free_axes(graph: onnx.GraphProto) -> list[str]:
    """Return what the first input calls its axes: batch and tokens."""
    dims = graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_param or str(place) for place, dim in enumerate(dims)][:2]
