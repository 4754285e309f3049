"""The table of families: its page, and what its comparisons are made of."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from compressor.models.families import FAMILIES
from compressor.models.families.layers import find_encoder
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons


@pytest.fixture(scope="module")
def checking(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_families")


def test_the_page_says_what_the_results_say(checking: ModuleType):
    assert checking.PAGE.read_text(encoding="utf-8") == checking.page()


def test_no_result_but_int8_of_random_weights_is_off_and_every_cell_is_there(checking: ModuleType):
    rows = checking.read_results("families")["rows"]
    assert rows
    for row in rows:
        assert list(row["cells"]) == list(checking.COLUMNS)
        assert row["family"].partition(" ")[0] in FAMILIES
        for column, cell in row["cells"].items():
            # int8 loses more of a model that nobody trained; what is exact may not be off at all.
            is_off = column in ("dynamic", "static") and cell.startswith("WRONG ")
            is_right = re.fullmatch(r"yes(, neurons|, \d+ of \d+ in float)?", cell)
            assert is_off or is_right or cell.startswith("no: ")


def test_the_dense_model_of_a_pruned_one_has_its_missing_units_at_zero(
    checking: ModuleType, tiny_bert: TorchModel
):
    dense = tiny_bert.clone()
    prune_heads(find_encoder(tiny_bert.module), {0: [1], 1: [0, 1, 2, 3]})
    prune_neurons(find_encoder(tiny_bert.module), {0: list(range(64)), 1: [5, 7]})
    first, second = find_encoder(checking.with_units_at_zero(dense, tiny_bert).module).layers
    assert first.attention is not None
    assert second.attention is not None
    assert first.feed_forward is not None
    assert second.feed_forward is not None

    def zeros(weight: torch.Tensor) -> list[int]:
        return (weight == 0).all(dim=0).nonzero()[:, 0].tolist()

    assert zeros(first.attention.output.weight) == list(range(8, 16))
    assert zeros(second.attention.output.weight) == list(range(32))
    assert zeros(first.feed_forward.ffn_out.weight) == list(range(64))
    assert zeros(second.feed_forward.ffn_out.weight) == [5, 7]


def test_the_largest_difference_of_two_models_is_a_share_of_the_spread(
    checking: ModuleType, tiny_bert: TorchModel
):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, ["a good film", "bad", "it is fine"])
    moved = tiny_bert.clone()
    with torch.no_grad():
        moved.module.classifier.bias[1] += 0.5
    expected = 0.5 / tiny_bert.predict(batch).std()
    share = checking.largest_share(tiny_bert, moved, [batch])
    assert share == pytest.approx(expected, rel=1e-4)


def test_a_difference_is_held_against_the_spread_of_the_outputs(
    checking: ModuleType, tmp_path: Path, tiny_bert: TorchModel
):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:]
    )
    opset = helper.make_opsetid("", 21)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "g.onnx")
    outputs = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    work = checking.Work("made up", tmp_path, tiny_bert, {})
    for column, spread in {"export": 30.0, "scores": 0.03}.items():
        np.savez(tmp_path / f"{column}.npz", **{"batch/x": spread * outputs})
        wanted = spread * outputs + np.float32(1e-4)
        np.savez(tmp_path / f"{column}-wanted.npz", batch=wanted)
        work.compare(column, arrays=tmp_path / f"{column}-wanted.npz", onnx=tmp_path / "g.onnx")
        work.jobs[-1]["batches"] = str(tmp_path / f"{column}.npz")
    checking._ask_the_other_program(work)
    assert work.cells["export"] == "yes"
    assert work.cells["scores"].startswith("WRONG ")


def test_reasons_are_told_once_below_the_table(checking: ModuleType):
    notes: dict[str, int] = {}
    cells = ["yes", "no: it is a | b", "no: other; supported model types are x, y"]
    cells.append(cells[1])
    found: list[Any] = [checking._shown(cell, notes) for cell in cells]
    assert found == ["yes", "no (1)", "no (2)", "no (1)"]
    assert notes == {"it is a | b": 1, "other": 2}
