"""Constants of a graph by their names, and new ones under names that nothing in it bears."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper


class Constants:
    """The constants of a graph, to read and to add to.

    `tensors` are those of the graph itself, by name, the added ones among them: what is written
    into one is written into the graph.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.tensors: dict[str, TensorProto] = {item.name: item for item in graph.initializer}
        self._graph = graph
        self._taken = {*self.tensors, *(item.name for item in graph.input)}
        self._taken |= {name for node in graph.node for name in (*node.input, *node.output)}
        self._shared: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def array(self, name: str) -> NDArray[Any]:
        """Return the values of a constant.

        Raises `KeyError` for a name that is no constant.
        """
        values: NDArray[Any] = numpy_helper.to_array(self.tensors[name])
        return values

    def new_name(self, name: str) -> str:
        """Take `name`, or `name` with underscores where that is taken, and return it."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Store a constant under `name`, or a name like it, which is returned."""
        name = self.new_name(name)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        self.tensors[name] = self._graph.initializer[-1]
        return name

    def add_once(self, name: str, values: NDArray[Any]) -> str:
        """Store a small constant once, however often it is asked for, by whichever name."""
        key = (values.dtype.str, values.tobytes(), values.shape)
        if key not in self._shared:
            self._shared[key] = self.add(name, values)
        return self._shared[key]
