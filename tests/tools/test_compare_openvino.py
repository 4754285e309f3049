"""What the comparison says of a model, and whether the goal is met, from made-up numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from compressor.models.onnx_model import OnnxModel


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("compare_openvino")


@pytest.fixture(scope="module")
def quotes(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("quote_results")


def test_a_row_is_beside_the_float_model_and_beside_nncf(tool: ModuleType, tmp_path: Path):
    (tmp_path / "model.xml").write_bytes(b"x" * 1000)
    (tmp_path / "model.bin").write_bytes(b"x" * 9000)
    logits = {
        tool.FLOAT: np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32),
        tool.PEER: np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32),
    }
    spent = {tool.FLOAT: np.array([8.0, 8.0, 8.0]), tool.PEER: np.array([4.0, 4.0, 4.0])}
    model = OnnxModel(tmp_path / "model.xml", "openvino", 1)
    row = tool.row_of(tool.PEER, model, logits, np.array([0, 1, 1, 1]), [spent, spent])
    assert (row["changed"], row["accuracy"], row["megabytes"]) == (1, 50.0, 0.01)
    assert row["logit_rms"] == pytest.approx(0.5)
    assert row["speed_batch_1"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert row["over_nncf_batch_32"]["median"] == 1.0
    assert row["by"] == "other"


@pytest.mark.parametrize(
    ("own", "changed", "told"),
    [
        (1.6, 4, "1.5× at batch 1: met (1.60×); fewer changed predictions: met (4 and 5)"),
        (1.4, 5, "1.5× at batch 1: not met (1.40×); fewer changed predictions: not met (5 and 5)"),
    ],
)
def test_a_goal_that_is_not_met_is_said_to_be_so(
    quotes: ModuleType, own: float, changed: int, told: str
):
    results = {
        "about": {"goal": {"1": 1.5}},
        "rows": [
            {
                "name": "quantize_static",
                "changed": changed,
                "over_nncf_batch_1": {"median": own},
            },
            {"name": "NNCF, default preset", "changed": 5},
        ],
    }
    assert told in quotes._openvino_goal(results)
