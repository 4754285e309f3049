from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

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
from compressor.verify import timing
from compressor.verify.timing import Clock, Run, Turns

KIND = SubLayerKind(hidden_size=32, head_dim=8, activation="gelu", norms_first=False, has_mask=True)
SITUATION = Situation(
    kind=KIND,
    max_heads=4,
    max_neurons=128,
    round_to=16,
    batch_size=1,
    num_tokens=32,
    precision="float32",
    threads=1,
    one_token_last=False,
)
NUM_LAYERS = 4
STARTING_MS, REFERENCE_MS = 0.02, 0.4
# One sub-layer: what is left without units, what it takes before its first one, and each unit.
TIMES_MS = {"heads": (0.02, 0.05, 0.05), "neurons": (0.02, 0.05, 0.0026)}


def planted_ms(name: str) -> float:
    """Return what a run of this name takes on a machine that does nothing else."""
    if name == timing.REFERENCE:
        return REFERENCE_MS
    match = re.fullmatch(r"(heads|neurons)-(\d+)", name)
    if match is None:
        return STARTING_MS
    empty, fixed, unit_ms = TIMES_MS[match[1]]
    count = int(match[2])
    return STARTING_MS + 2 * (fixed + count * unit_ms if count else empty)


class Machine:
    """Draws what runs take beside other work, in place of the clocks.

    At rest times wander by 2%. Beside other work a clock that falls makes all runs of some rounds
    slower by up to half, and three of five runs wait for memory besides, attention the longest.
    """

    def __init__(self, seed: int, *, is_busy: bool):
        self._draw, self._is_busy = np.random.default_rng(seed), is_busy

    def take_turns(
        self, runs: Mapping[str, Run], num_rounds: int, *, clock: Clock, random: np.random.Generator
    ) -> Turns[str]:
        slower = np.ones(num_rounds)
        if self._is_busy:
            slower = np.repeat(self._draw.uniform(1, 1.5, (num_rounds + 4) // 5), 5)[:num_rounds]
        times = {name: planted_ms(name) * slower * self._wander(num_rounds) for name in runs}
        if self._is_busy:
            for name in runs:
                waits = self._draw.exponential(0.8 if "heads" in name else 0.1, num_rounds)
                times[name] *= 1 + waits * (self._draw.random(num_rounds) < 0.6)
        return Turns(clock, times, times)

    def _wander(self, num_rounds: int) -> np.ndarray:
        return np.exp(0.02 * self._draw.standard_normal(num_rounds))


def measured(
    machine: Machine, situation: Situation, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> MeasuredTable:
    monkeypatch.setenv("COMPRESSOR_CACHE", str(cache))
    monkeypatch.setattr(timing, "take_turns", machine.take_turns)
    return latency_of_sub_layers(situation, SILENT)


def chosen_by(table: MeasuredTable) -> tuple[UnitsByLayer, UnitsByLayer]:
    """Return what half of the time takes off an encoder whose units have drawn scores."""
    draw = torch.Generator().manual_seed(0)
    scores = UnitScores(
        tuple(torch.rand(4, generator=draw) for _ in range(NUM_LAYERS)),
        tuple(torch.rand(128, generator=draw) / 50 for _ in range(NUM_LAYERS)),
    )
    tables = (*(table.others.table for _ in range(NUM_LAYERS - 1)), table.last.table)
    cost = TableCost(tables, (4,) * NUM_LAYERS, (128,) * NUM_LAYERS)
    return units_to_remove(scores, cost, 0.5 * cost.total, Freedom(round_to=16))


# `tools/check_load.py` measures the same on a machine whose cores are really shared.
def test_the_same_shape_is_chosen_at_rest_and_beside_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    at_rest = measured(Machine(0, is_busy=False), SITUATION, tmp_path / "rest", monkeypatch)

    for seed in range(1, 6):
        machine = Machine(seed, is_busy=True)
        beside = measured(machine, SITUATION, tmp_path / f"busy-{seed}", monkeypatch)
        assert (at_rest.is_cached, beside.is_cached) == (False, False)
        assert beside.others == at_rest.others
        assert chosen_by(beside) == chosen_by(at_rest)


def test_another_machine_has_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = measured(Machine(0, is_busy=False), SITUATION, tmp_path / "one", monkeypatch)
    monkeypatch.setitem(TIMES_MS, "heads", (0.02, 0.05, 0.15))
    other = measured(Machine(0, is_busy=False), SITUATION, tmp_path / "other", monkeypatch)

    assert other.others.attention[4] > 1.3 * one.others.attention[4]
