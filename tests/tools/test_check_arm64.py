"""Integer products that an emulated processor has to give, and how it is described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_arm64")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a graph with an int8 matrix with zero points, and a plain one."""
    random = np.random.default_rng(1)
    weights = {
        "w": random.integers(-128, 128, (7, 3), dtype=np.int8),
        "v": random.integers(-128, 128, (3, 2), dtype=np.int8),
        "z": np.array([1, -2, 0], np.int8),
        "p": np.array(128, np.uint8),
        "s": np.array(1.0, np.float32),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w", "p", "z"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.UINT8),
        helper.make_node(
            "MatMulIntegerToFloat", ["b", "v", "s", "s", "p"], ["y"], domain="com.microsoft"
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_what_is_right_is_what_this_machine_multiplies(
    tool: ModuleType, model: Path, tmp_path: Path
):
    right = tool.products(model, tmp_path)
    assert {name: value.shape for name, value in right.items()} == {"y w": (5, 3), "y v": (5, 2)}
    session = onnxruntime.InferenceSession(tmp_path / "products.onnx")
    with np.load(tmp_path / "given.npz") as given:
        feed: dict[str, Any] = dict(given)
    found = session.run(list(right), feed)
    for own, value in zip(found, right.values(), strict=True):
        assert own.tolist() == value.tolist()


def test_an_emulator_that_fails_is_told(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "qemu-aarch64-static").write_text("#!/bin/sh\necho no such processor >&2; exit 3\n")
    (programs / "qemu-aarch64-static").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    with pytest.raises(SystemExit, match="neoverse-n1: ended with 3: no such processor"):
        tool.run(tmp_path, "neoverse-n1", "print(1)", [], "")
    assert "asimddp" in (tmp_path / "root" / "proc" / "cpuinfo").read_text()
