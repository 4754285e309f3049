from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from compressor.verify import timing
from compressor.verify.timing import clock_for, measure_until_steady, standard_error, take_turns


class Clocks:
    """Clocks that stand still but while a run moves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.wall = self.cpu = 0
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.wall)
        monkeypatch.setattr(time, "thread_time_ns", lambda: self.cpu)

    def run(self, cpu_ms: float, waits_ms: float = 0.0) -> None:
        self.cpu += round(1e6 * cpu_ms)
        self.wall += round(1e6 * (cpu_ms + waits_ms))


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    found = Clocks(monkeypatch)
    monkeypatch.setattr(timing, "reference_kernel", lambda threads: lambda: found.run(2.0))
    return found


def always(error: float):
    return lambda blocks: error


def measure(runs, **settings):
    return measure_until_steady(
        runs,
        **{
            "clock": "cpu",
            "threads": 1,
            "error_of": always(1.0),
            "rounds_in_block": 3,
            "fewest_blocks": 2,
            "most_blocks": 5,
            "random": np.random.default_rng(0),
            **settings,
        },
    )


@pytest.mark.parametrize(
    ("provider", "threads", "clock"),
    [("cpu", 1, "cpu"), ("cpu", 2, "wall"), ("cpu", None, "wall"), ("cuda", 1, "wall")],
)
def test_only_one_thread_of_the_cpu_is_timed_on_its_clock(provider, threads, clock):
    assert clock_for(provider, threads) == clock


def test_waiting_for_a_core_is_in_wall_times_alone(clocks: Clocks):
    found = take_turns(
        {"waits": lambda: clocks.run(1.0, waits_ms=7.0)},
        2,
        clock="cpu",
        random=np.random.default_rng(0),
    )
    assert found.wall_ms["waits"].tolist() == [8.0, 8.0]
    assert found.deciding_ms["waits"].tolist() == [1.0, 1.0]


def test_without_a_cpu_clock_wall_times_decide(clocks: Clocks):
    found = take_turns(
        {"waits": lambda: clocks.run(1.0, waits_ms=7.0)},
        1,
        clock="wall",
        random=np.random.default_rng(0),
    )
    assert found.cpu_ms is None
    assert found.deciding_ms["waits"].tolist() == [8.0]


def test_times_are_relative_to_the_reference(clocks: Clocks):
    found = measure({"a": lambda: clocks.run(1.0), "b": lambda: clocks.run(6.0)})
    assert found.relative == {"a": 0.5, "b": 3.0}
    assert found.fast_ms == {"a": 1.0, "b": 6.0}
    assert (found.num_rounds, len(found.blocks), found.error) == (6, 2, 1.0)


def test_a_clock_that_slows_down_slows_the_reference_too(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
):
    def slower(cpu_ms: float) -> None:
        clocks.run(cpu_ms * (1 if clocks.wall < 40e6 else 2))

    monkeypatch.setattr(timing, "reference_kernel", lambda threads: lambda: slower(2.0))
    found = measure({"a": lambda: slower(4.0)}, fewest_blocks=9, most_blocks=9)
    assert found.relative["a"] == pytest.approx(2.0)


def test_blocks_are_added_until_the_error_is_small(clocks: Clocks):
    def error_of(blocks: Sequence[Mapping[str, float]]) -> float:
        return 4.0 / len(blocks)

    found = measure({"a": lambda: clocks.run(1.0)}, error_of=error_of)
    assert (len(found.blocks), found.error) == (4, 1.0)


def test_what_stays_noisy_is_measured_no_longer_than_allowed(clocks: Clocks):
    found = measure({"a": lambda: clocks.run(1.0)}, error_of=always(7.0))
    assert (len(found.blocks), found.error) == (5, 7.0)


def test_the_error_of_a_median():
    assert standard_error([1.0, 3.0]) == pytest.approx(1.25 * np.sqrt(2) / np.sqrt(2))
    assert standard_error([1.0]) == 0.0


def test_one_thread_of_onnx_runtime_works_on_the_calling_thread():
    # Otherwise the CPU clock of the calling thread would miss the work.
    run = timing.reference_kernel(threads=1)
    run()
    others, own = time.process_time() - time.thread_time(), time.thread_time()
    [run() for _ in range(200)]
    others, own = time.process_time() - time.thread_time() - others, time.thread_time() - own
    assert others < 0.05 * own
