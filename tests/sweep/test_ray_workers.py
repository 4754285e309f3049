"""Workers on a Ray cluster, with a stand-in for Ray that runs them in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch
from compressor.sweep.worker import WorkerOptions, join_sweep


class RayError(Exception):
    pass


class Ray(ModuleType):
    """What is called of Ray; a task runs when its result is waited for."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.resources = {"CPU": 4.0, "GPU": 1.0}
        self.options: list[dict[str, float]] = []
        self.refuses: Exception | None = None
        self.is_open = False

    def init(self, **settings: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.is_open = True

    def shutdown(self) -> None:
        self.is_open = False

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, function: Callable[..., Any]) -> Any:
        owner = self

        class Task:
            def options(self, **settings: float) -> Task:
                owner.options.append(settings)
                return self

            def remote(self, *arguments: Any, **others: Any) -> Callable[[], Any]:
                return lambda: function(*arguments, **others)

        return Task()

    def wait(self, left: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return left[:1], left[1:]

    def get(self, ref: Callable[[], Any]) -> Any:
        return ref()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    found, exceptions = Ray(), ModuleType("ray.exceptions")
    exceptions.RayError = RayError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    monkeypatch.delitem(sys.modules, "compressor.sweep.ray_workers", raising=False)
    return found


def run_on(sweep: Any, num_workers: int) -> Any:
    module = importlib.import_module("compressor.sweep.ray_workers")
    return module.run_sweep_on_ray(sweep, address="local", num_workers=num_workers)


def test_workers_do_the_trials_and_who_started_them_chooses(
    make_sweep, stand_in, ray: Ray, tmp_path: Path
):
    end = run_on(make_sweep(), 2)
    assert end.front.headline == "3 of 3 trials, 2 on the front, trial 2 chosen"
    assert len(stand_in.trials) == 3
    assert len(stand_in.chosen) == 1
    assert ray.options == [{"num_cpus": 2, "num_gpus": 0.5, "max_retries": 0}]
    assert not ray.is_open


def test_a_cluster_that_is_too_small_is_told(make_sweep, stand_in, ray: Ray):
    with pytest.raises(EnvironmentMismatch, match="the cluster has 4 CPUs, and each of 5 workers"):
        run_on(make_sweep(), 5)
    assert not ray.is_open


def test_a_cluster_that_cannot_be_reached_is_told(make_sweep, stand_in, ray: Ray):
    ray.refuses = ConnectionError("refused")
    with pytest.raises(EnvironmentMismatch, match=r"the cluster cannot be reached \(refused\)"):
        run_on(make_sweep(), 2)


def test_what_no_worker_did_is_done_by_who_started_them(
    make_sweep, stand_in, ray: Ray, monkeypatch: pytest.MonkeyPatch
):
    def gone(ref: Any) -> None:
        raise RayError("the worker died")

    monkeypatch.setattr(ray, "get", gone)
    assert len(run_on(make_sweep(), 2).front.trials) == 3


def test_a_worker_without_the_shared_directory_says_so(make_sweep, stand_in, tmp_path: Path):
    make_sweep()
    options = WorkerOptions(str(tmp_path / "out"), str(tmp_path / "store"), "cpu")
    told = join_sweep(str(tmp_path / "sweep.yaml"), [], options, allow_code=False)
    assert told is not None
    assert told.startswith(f"{tmp_path / 'out'}: no sweep was begun here")
    assert not (tmp_path / "out").exists()


def test_what_stops_a_worker_comes_back_as_words(make_sweep, stand_in, ray: Ray, tmp_path: Path):
    stand_in.raises = {0.2: EnvironmentMismatch("the disk is full")}
    with pytest.raises(EnvironmentMismatch, match="the disk is full"):
        run_on(make_sweep(), 1)
    assert len(stand_in.trials) == 3  # this process did the one that was left
