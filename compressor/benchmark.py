"""How long one batch takes, for the untouched model and the compressed one in the same minutes.

Machines drift: clocks change and neighbours come and go, so two models timed one after the other
differ even when they are the same file. Here they take turns, in shuffled order, within one run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from compressor.measurements import Latency
from compressor.models.onnx_model import OUTPUT, OnnxModel, provider_that_ran
from compressor.progress import SILENT, Advance, Progress
from compressor.tasks import Batch

Contestant = Literal["baseline", "final"]
Run = Callable[[], object]
# Batch size, sequence length, and the inputs of each model: a pass may change what a model reads.
BenchmarkBatch = tuple[int, int | None, Mapping[Contestant, Batch]]

_WIDEST_SPREAD = 1.5  # 95th percentile over the median
_LARGEST_DRIFT = 1.15  # median of one half of the runs over that of the other
_FEWEST_TO_SEE_DRIFT = 10  # runs; medians of fewer differ by chance

_TOPOLOGY = Path("/sys/devices/system/cpu")


def benchmark(
    models: Mapping[Contestant, Path],
    *,
    provider: str,
    batches: Sequence[BenchmarkBatch],
    warmup_runs: int,
    num_runs: int,
    threads: int,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[Latency, ...]:
    """Time `models` on every batch and return one latency for each, batch by batch.

    After `warmup_runs` untimed runs of each model follow `num_runs` rounds; in a round every model
    runs once, in an order drawn from `seed`. `threads` are those within one operator, operators run
    one after the other. On the CPU a run goes from NumPy to NumPy; on a GPU inputs and outputs stay
    in its memory, and a run ends when the GPU is done.

    Raises `EnvironmentMismatch` when `provider` is not available or does not do the work, and
    `ValueError` when there is nothing to time.
    """
    if not models or not batches or num_runs < 1:
        raise ValueError("a benchmark needs a model, a batch and a run")
    opened = {
        name: OnnxModel(path, provider=provider, threads=threads) for name, path in models.items()
    }
    random = np.random.default_rng(seed)
    found: list[Latency] = []
    with progress.bar(f"benchmark on {provider}", len(batches) * num_runs) as advance:
        for batch_size, sequence_length, own in batches:
            runs = {name: _prepare(model, own[name]) for name, model in opened.items()}
            _warm_up(runs.values(), warmup_runs)
            shape = f"batch {batch_size}" + (f" x {sequence_length}" if sequence_length else "")
            elapsed_ms = _take_turns(runs, num_runs, random, advance, shape)
            found += [
                Latency(
                    model=name,
                    provider=provider_that_ran(opened[name].session),
                    batch_size=batch_size,
                    sequence_length=sequence_length,
                    p50_ms=float(np.percentile(times, 50)),
                    p95_ms=float(np.percentile(times, 95)),
                    num_runs=num_runs,
                    threads=threads,
                    noisy=is_noisy(times),
                )
                for name, times in elapsed_ms.items()
            ]
    return tuple(found)


def is_noisy(elapsed_ms: Sequence[float]) -> bool:
    """Return whether runs of one model, in the order they were made, tell of a busy machine.

    They do when one in twenty took half as long again as the median, or when the median of the
    later half is more than 15% off that of the earlier one. Turns keep a ratio of two models from
    being wrong by as much, and nothing keeps it right.
    """
    times = np.asarray(elapsed_ms)
    spread = np.percentile(times, 95) > _WIDEST_SPREAD * np.median(times)
    if len(times) < _FEWEST_TO_SEE_DRIFT:
        return bool(spread)
    earlier, later = np.median(times[: len(times) // 2]), np.median(times[len(times) // 2 :])
    drift = max(earlier, later) > _LARGEST_DRIFT * min(earlier, later)
    return bool(spread or drift)


def default_threads() -> int:
    """Return the number of physical cores that this process may use.

    Two threads on one core share its multipliers and slow each other down. Where the system does
    not say which logical CPUs share a core, every one counts as a core.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is None:
        return os.cpu_count() or 1
    siblings = {_siblings(cpu) for cpu in allowed}
    return len(siblings)


def _siblings(cpu: int) -> str:
    path = _TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    return path.read_text(encoding="ascii").strip() if path.is_file() else str(cpu)


def _prepare(model: OnnxModel, batch: Batch) -> Run:
    """Return a call that runs `batch` once and returns when the result is there."""
    session, feed = model.session, model.feed(batch)
    if model.provider == "cpu":
        return lambda: session.run([OUTPUT], feed)
    return _bind(session, feed, "cuda")


def _bind(session: onnxruntime.InferenceSession, feed: Batch, device: str) -> Run:
    """Return a run whose inputs and outputs stay in the memory of `device`."""
    binding = session.io_binding()
    for name, value in feed.items():
        on_device = onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0)
        binding.bind_ortvalue_input(name, on_device)
    binding.bind_output(OUTPUT, device, 0)
    binding.synchronize_inputs()

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()  # kernels are queued: without this only the launch is timed

    return run


def _warm_up(runs: Iterable[Run], num_runs: int) -> None:
    for run in runs:
        for _ in range(num_runs):
            run()


def _take_turns(
    runs: Mapping[Contestant, Run],
    num_runs: int,
    random: np.random.Generator,
    advance: Advance,
    shape: str,
) -> dict[Contestant, list[float]]:
    elapsed_ms: dict[Contestant, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for _ in range(num_runs):
        for index in random.permutation(len(names)):
            start = time.perf_counter_ns()
            runs[names[index]]()
            elapsed_ms[names[index]].append((time.perf_counter_ns() - start) / 1e6)
        medians = (f"{name} {np.median(times):.3g} ms" for name, times in elapsed_ms.items())
        advance(1, f"{shape}: {', '.join(medians)}")
    return elapsed_ms
