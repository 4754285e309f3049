"""The arithmetic of the simulation of cost, by hand."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("simulate_cost")


@pytest.fixture
def arguments() -> argparse.Namespace:
    return argparse.Namespace(examples=1000, tokens=10, epochs=2, batch_size=100)


@pytest.fixture
def gpu(tool: ModuleType):
    return tool.Gpu(tool.Rates(1e9, 1e9, 1e9), memory_bytes=1e9, inside=1e8, between=1e7)


def test_a_reading_costs_two_operations_a_weight_and_token_beside_attention(tool: ModuleType):
    size = tool.Size(2, 8)  # 12 * 2 * 64 = 1536 weights, attention 2 * 2 * 8 * 5 = 160 a token

    assert tool.forward_flops(size, rows=3, tokens=5) == 2 * 15 * (1536 + 160)


def test_a_ring_sends_gradients_twice_and_a_divided_model_three_times(tool: ModuleType):
    size = tool.Size(2, 8)

    assert tool.reduced_bytes(size, 1, divided=False) == 0
    assert tool.reduced_bytes(size, 4, divided=False) == 2 * 4 * 1536 * 3 / 4
    assert tool.reduced_bytes(size, 4, divided=True) == 3 * 4 * 1536 * 3 / 4


def test_a_training_is_shared_and_its_gradients_are_exchanged(
    tool: ModuleType, arguments: argparse.Namespace, gpu
):
    size = tool.Size(2, 8)
    one, four = (
        tool.simulate("finetune", size, gpus, [1.0, 0, 0, 0, 5.0], gpu, arguments)
        for gpus in (1, 4)
    )
    flops = 3 * 2 * tool.forward_flops(size, 1000, 10)

    assert one["seconds"] == pytest.approx(flops / 1e9 + 5, abs=0.01)
    exchanged = 20 * 2 * 4 * 1536 * 3 / 4 / 1e8  # 20 steps
    assert four["seconds"] == pytest.approx(flops / 4e9 + 5 + exchanged, abs=0.01)
    assert four["gpu_hours"] == pytest.approx(4 * four["seconds"] / 3600, abs=1e-3)


def test_what_only_the_first_process_does_takes_as_long_on_many(
    tool: ModuleType, arguments: argparse.Namespace, gpu
):
    size = tool.Size(12, 32)
    one, many = (
        tool.simulate("prune by reconstruction", size, gpus, [1.0] * 5, gpu, arguments)
        for gpus in (1, 64)
    )

    assert one["seconds"] == many["seconds"]
    assert many["gpu_hours"] == pytest.approx(64 * one["gpu_hours"], rel=0.05)


def test_what_does_not_fit_is_no_number_but_a_reason(
    tool: ModuleType, arguments: argparse.Namespace, gpu
):
    size = tool.Size(12, 768)  # 85 million: 1.36 GB of weights, gradients and moments
    found = {
        (name, gpus): tool.simulate(name, size, gpus, [1.0] * 5, gpu, arguments)
        for name in ("finetune", "distill", "quantize_aware_train")
        for gpus in (1, 4)
    }

    assert found["finetune", 1]["seconds"] is None
    assert found["finetune", 4]["divided"]
    assert found["finetune", 4]["seconds"] > 0
    # The teacher is whole in each: 1.36 / 4 + 0.34 = 0.68 of 0.8 GB.
    assert found["distill", 4]["gb_a_gpu"] == 0.7
    assert found["quantize_aware_train", 4]["reason"] == (
        "does not fit whole, and FSDP2 is refused"
    )


def test_factors_are_found_again_from_what_they_made(tool: ModuleType):
    cpu = tool.Rates(1e10, 1e10, 1e10)
    points = []
    for size, rows, batch in (("2x64", 100, 10), ("2x64", 100, 50), ("4x256", 300, 10)):
        for name in tool._PASSES:
            point = {"pass": name, "size": size, "rows": rows, "tokens": 20, "batch_size": batch}
            seconds = cpu.seconds(tool.work_at(point))
            points.append({**point, "cpu_seconds": 2.0 * seconds[0] + 0.5 * seconds[4] + 1e-9})

    found = tool.fitted(points, cpu)["finetune"]

    assert found[0] == pytest.approx(2.0, rel=1e-3)
    assert found[2] == pytest.approx(0.0, abs=1e-3)
    assert found[4] == pytest.approx(0.5, rel=1e-3)
