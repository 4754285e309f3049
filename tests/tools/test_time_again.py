"""Speeds that are taken again: of the shapes that a report has, as ratios of CPU times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("time_again")


def sum_of_ids(path: Path, *, times: int) -> None:
    """Write a graph that adds its tokens up so many times."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [helper.make_node("Cast", ["input_ids"], ["x0"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Sin", [f"x{k}"], [f"x{k + 1}"]) for k in range(times)]
    nodes.append(helper.make_node("ReduceSum", [f"x{times}", "axes"], ["logits"]))
    names = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, names)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.parent.mkdir()
    onnx.save(model, path)


def test_each_shape_of_the_report_has_a_ratio_a_round(tool: ModuleType, tmp_path: Path):
    sum_of_ids(tmp_path / "baseline" / "model.onnx", times=40)
    sum_of_ids(tmp_path / "artifact" / "model.onnx", times=1)
    shapes = [{"batch_size": size, "sequence_length": 64} for size in (8, 64, 8, 64)]
    report: dict[str, Any] = {"task": "text-scoring", "latencies": shapes}
    (tmp_path / "report.json").write_text(json.dumps(report))
    rows = list(tool.timed(tmp_path, rounds=3, num_runs=10))
    assert [(row["batch_size"], row["tokens"]) for row in rows] == [(8, 64), (64, 64)]
    assert [len(row["ratios"]) for row in rows] == [3, 3]
    assert [row["median"] for row in rows] == [np.median(row["ratios"]) for row in rows]
    assert rows[1]["median"] > 2  # of forty times the work


def test_a_ratio_is_of_cpu_times(tool: ModuleType):
    assert tool.ratio_of({"baseline": 6.0, "final": 1.5}) == 4.0
