from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from compressor.passes.prune_structured import latency_table as latency
from compressor.passes.prune_structured.budget import Freedom, UnitsByLayer, units_to_remove
from compressor.passes.prune_structured.importance import UnitScores
from compressor.passes.prune_structured.latency_table import (
    MeasuredTable,
    Situation,
    TableCost,
    latency_of_sub_layers,
)
from compressor.passes.prune_structured.sub_layer_graphs import SubLayerKind
from compressor.progress import SILENT

KIND = SubLayerKind(
    hidden_size=128, head_dim=32, activation="gelu", norms_first=False, has_mask=True
)
SITUATION = Situation(
    kind=KIND,
    max_heads=4,
    max_neurons=512,
    round_to=16,
    batch_size=1,
    num_tokens=32,
    precision="float32",
    threads=1,
    one_token_last=False,
)
BUSY = 8
NUM_LAYERS = 4


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> MeasuredTable:
    monkeypatch.setenv("COMPRESSOR_CACHE", str(cache))
    return latency_of_sub_layers(SITUATION, SILENT)


def chosen_by(table: MeasuredTable) -> tuple[UnitsByLayer, UnitsByLayer]:
    """Return what half of the time takes off an encoder whose units have drawn scores."""
    draw = torch.Generator().manual_seed(0)
    scores = UnitScores(
        tuple(torch.rand(4, generator=draw) for _ in range(NUM_LAYERS)),
        tuple(torch.rand(512, generator=draw) / 50 for _ in range(NUM_LAYERS)),
    )
    tables = (*(table.others.table for _ in range(NUM_LAYERS - 1)), table.last.table)
    cost = TableCost(tables, (4,) * NUM_LAYERS, (512,) * NUM_LAYERS)
    return units_to_remove(scores, cost, 0.5 * cost.total, Freedom(round_to=16))


def test_the_same_shape_is_chosen_at_rest_and_among_busy_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(latency, "_MOST_BLOCKS", 30)  # seconds, of a core shared by five

    at_rest = measured(tmp_path / "rest", monkeypatch)
    with busy_processes(BUSY):
        among_others = measured(tmp_path / "busy", monkeypatch)

    assert (at_rest.is_cached, among_others.is_cached) == (False, False)
    assert among_others.others == at_rest.others
    assert chosen_by(among_others) == chosen_by(at_rest)
