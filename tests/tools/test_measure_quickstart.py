"""What the tool reads off the report of a quickstart."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def measure(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("measure_quickstart")


def latency(model: str, p50_ms: float, cpu_p50_ms: float | None) -> dict[str, Any]:
    return {
        "model": model, "batch_size": 8, "sequence_length": 32, "p50_ms": p50_ms,
        "cpu_p50_ms": cpu_p50_ms,
    }  # fmt: skip


def test_speed_is_a_ratio_of_cpu_time_where_there_is_one(measure: ModuleType):
    times = [latency("baseline", 99.0, 6.0), latency("final", 1.0, 2.0)]
    assert measure.speeds(times) == {"batch 8 x 32": 3.0}


def test_speed_is_a_ratio_of_wall_time_otherwise(measure: ModuleType):
    times = [latency("baseline", 9.0, None), latency("final", 2.0, None)]
    assert measure.speeds(times) == {"batch 8 x 32": 4.5}


def test_a_run_without_an_artifact_is_told_as_far_as_it_came(measure: ModuleType):
    found = measure.of_report(
        {
            "verdict": "failed", "reason": "no room", "final": None, "certificate": None,
            "baseline": {"size": {"bytes_on_disk": 2_000_000}}, "latencies": [],
        }
    )  # fmt: skip
    assert found == {
        "verdict": "failed", "reason": "no room", "megabytes": {"baseline": 2.0}, "speed": {},
    }  # fmt: skip
