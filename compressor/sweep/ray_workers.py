"""Workers of a sweep on a Ray cluster; the process that starts them chooses in the end.

Ray only starts them. What they share lies in the output directory, as for workers that are started
in any other way, so that one that dies costs its trial alone, and others may join.
"""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from compressor.errors import EnvironmentMismatch
from compressor.machine.environment import Device
from compressor.sweep.settings import Sweep
from compressor.sweep.worker import (
    DEFAULT_OPTIONS,
    SweepEnd,
    Worker,
    WorkerOptions,
    join_sweep,
    outcome_words,
    working_on,
)
from compressor.words import counted

_POLL_SECONDS = 2.0


def run_sweep_on_ray(
    sweep: Sweep,
    options: WorkerOptions = DEFAULT_OPTIONS,
    *,
    address: str,
    num_workers: int,
    allow_inconclusive: bool = False,
) -> SweepEnd:
    """Do what `run_sweep` does, with `num_workers` on the Ray cluster at `address`.

    Every host of the cluster has to see the sweep file, what its recipe reads, and the output
    directory under the same paths. The cluster's CPUs, and its GPUs unless `options.device` is
    `cpu`, are shared out evenly. What no worker could do is done here.

    Raises as `run_sweep`, and `EnvironmentMismatch` where the cluster cannot be reached or is too
    small.
    """
    assert sweep.path is not None, "a sweep is read from a file"
    show = not options.quiet
    with working_on(sweep, options) as worker:
        try:
            ray.init(address=address, log_to_driver=show, configure_logging=show)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise EnvironmentMismatch(
                f"--ray {address}: the cluster cannot be reached ({error}); give the address of "
                f"its head, such as ray://head:10001, or `local`"
            ) from error
        try:
            found = _shares(address, num_workers, options.device)
            share = counted(int(found["num_cpus"]), "CPU")
            if found["num_gpus"]:
                share += f" and {found['num_gpus']:g} of a GPU"
            started = counted(num_workers, "worker")
            options.progress.stage(f"{started} on {address}, each with {share}")
            own = WorkerOptions(
                str(worker.folder.absolute()), str(worker.store.absolute()), options.device
            )
            task = ray.remote(join_sweep).options(**found, max_retries=0)
            left = [
                task.remote(
                    str(sweep.path.absolute()),
                    list(sweep.overrides),
                    own,
                    allow_code=sweep.allows_code,
                )
                for _ in range(num_workers)
            ]
            _watch(left, worker)
        finally:
            ray.shutdown()
        worker.do_what_is_left()
        return worker.conclude(allow_inconclusive=allow_inconclusive)


def _shares(address: str, num_workers: int, device: Device) -> dict[str, float]:
    """Return which part of the cluster each worker is given."""
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 0)) // num_workers
    if cpus < 1:
        raise EnvironmentMismatch(
            f"--ray {address}: the cluster has {int(resources.get('CPU', 0))} CPUs, and each of "
            f"{num_workers} workers needs one; give fewer --workers"
        )
    gpus = resources.get("GPU", 0.0) / num_workers
    return {"num_cpus": cpus, "num_gpus": 0.0 if device == "cpu" else min(gpus, 1.0)}


def _watch(left: list[ray.ObjectRef[str | None]], worker: Worker) -> None:
    """Tell how trials end and what stops workers, until all of them have ended."""
    progress = worker.progress
    told = {item.number for item in worker.study.judged()}
    while left:
        done, left = ray.wait(left, timeout=_POLL_SECONDS)
        for item in worker.study.judged():
            if item.number not in told:
                told.add(item.number)
                progress.stage(f"trial {item.number}: {item.words}")
                progress.result(outcome_words(worker.sweep, item.outcome))
        for ref in done:
            try:
                stopped = ray.get(ref)
            except RayError as error:  # the worker's process, or its host, is gone
                stopped = str(error).partition("\n")[0]
            if stopped is not None:
                progress.result(f"a worker stopped: {stopped}")
