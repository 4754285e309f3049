"""Of the processes that share a host, one measures at a time; wall times want quiet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Literal

import pytest

from compressor.machine.locks import Lock
from compressor.machine.turns import measuring, on_shared_host, working


def is_free(folder: Path, kind: str) -> bool:
    lock = Lock(folder / f"host.{kind}")
    found = lock.acquire(wait=False)
    lock.release()
    return found


def at_once(*calls: Callable[[], object]) -> bool:
    """Return whether all calls end within some seconds, each in a thread of its own."""
    threads = [threading.Thread(target=copy_context().run, args=(call,)) for call in calls]
    for thread in threads:
        thread.daemon = True
        thread.start()
    for thread in threads:
        thread.join(20)
    return not any(thread.is_alive() for thread in threads)


def test_alone_nobody_takes_a_lock(tmp_path: Path):
    with working(), measuring("wall"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("clock", "quiet"), [("cpu", True), ("wall", False)])
def test_who_measures_keeps_other_measurements_out_and_wall_times_other_steps(
    tmp_path: Path, clock: Literal["cpu", "wall"], quiet: bool
):
    with on_shared_host(tmp_path, "host"), measuring(clock):
        assert not is_free(tmp_path, "measure")
        assert is_free(tmp_path, "gate") == quiet
    assert is_free(tmp_path, "measure")


def test_who_waits_to_measure_within_a_step_holds_nobody_up(tmp_path: Path):
    measured: list[str] = []

    def step(name: str) -> Callable[[], None]:
        def work() -> None:
            with on_shared_host(tmp_path, "host"), working():
                for _ in range(20):
                    with measuring("wall"):
                        assert not is_free(tmp_path, "work")
                    measured.append(name)

        return work

    assert at_once(step("a"), step("b"))
    assert sorted(measured) == ["a"] * 20 + ["b"] * 20
    assert is_free(tmp_path, "work")


def test_a_quiet_host_is_one_where_no_other_step_is_under_way(tmp_path: Path):
    other = Lock(tmp_path / "host.work")
    other.acquire(shared=True)
    order: list[str] = []

    def measure() -> None:
        with on_shared_host(tmp_path, "host"), measuring("wall"):
            order.append("measured")

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    while is_free(tmp_path, "gate"):  # until it waits for the other's step
        pass
    order.append("the other step ended")
    other.release()
    thread.join(20)
    assert order == ["the other step ended", "measured"]
