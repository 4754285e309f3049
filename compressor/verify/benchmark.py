"""How long one batch takes, for the untouched model and the compressed one in the same minutes.

Machines drift: clocks change and neighbours come and go, so two models timed one after the other
differ even when they are the same file. Here they take turns, in shuffled order, within one run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from compressor.errors import EnvironmentMismatch
from compressor.measurements import Latency
from compressor.models.gpu_memory import GpuMemory
from compressor.models.onnx_model import OnnxModel, check_provider, output_of, provider_that_ran
from compressor.models.provider_options import PLAIN, ProviderSettings, axes_of, output_shape
from compressor.progress import SILENT, Advance, Progress
from compressor.runtime.openvino_session import OPENVINO
from compressor.tasks import Batch
from compressor.verify.timing import (
    Run,
    RunTimes,
    TimingPlan,
    Turns,
    clock_for,
    standard_error,
    take_turns,
    warm_up,
)

Contestant = Literal["baseline", "final"]
# Batch size, sequence length, and the inputs of each model: a pass may change what a model reads.
BenchmarkBatch = tuple[int, int | None, Mapping[Contestant, Batch]]

# A speed-up to choose by is measured until its standard error is good, or so many runs were made.
_GOOD_ERROR, _LARGEST_ERROR, _MOST_RUNS = 0.01, 0.05, 600
_PARTS = 6  # into which runs fall, to see how its ratio varies
_RUNS_TO_FILL_MEMORY = 3  # in the first a session also makes its plans, a later one reuses them

_ON_CPU = ("cpu", OPENVINO)
_TOPOLOGY = Path("/sys/devices/system/cpu")


def benchmark(
    models: Mapping[Contestant, Path],
    *,
    provider: str,
    batches: Sequence[BenchmarkBatch],
    plan: TimingPlan,
    settings: ProviderSettings = PLAIN,
    must_be_steady: bool = False,
    progress: Progress = SILENT,
) -> tuple[Latency, ...]:
    """Time `models` on every batch and return one latency for each, batch by batch.

    On the CPU a run goes from NumPy to NumPy; on a GPU inputs and outputs stay in its memory, where
    they are written once, and a run ends when the GPU is done.

    Of `settings`, `cuda_graph` records the kernels of each shape in the warm-up and replays them as
    one. TensorRT builds one engine for all shapes, and keeps it in a folder of `cache_dir` for each
    model. In OpenVINO the final model computes in `precision`, the baseline in float32. On a GPU
    each model's memory is measured first, in a session of its own for each batch.

    With one thread of the CPU the CPU time of a run is kept beside its wall time: what the thread
    computed, without waiting for a core that others use.

    Raises `EnvironmentMismatch` when `provider` is not available, does not do the work or cannot
    record it, and with `must_be_steady` when the times that choices go by vary too much;
    `ValueError` when there is nothing to time.
    """
    if not models or not batches or plan.num_runs < 1:
        raise ValueError("a benchmark needs a model, a batch and a run")
    shared = replace(
        settings,
        cuda_graph=settings.cuda_graph and provider not in _ON_CPU,
        rounds_float32=True,  # as ONNX Runtime does by itself: else fp32 looks slower than it is
        axes=axes_of([(size, length) for size, length, _ in batches]),
    )
    opened = {
        name: OnnxModel(path, provider, plan.threads, _own_settings(name, shared))
        for name, path in models.items()
    }
    check_provider(provider)  # which also loads what every session on a GPU needs
    memory = {} if provider in _ON_CPU else _memory(opened, batches, GpuMemory(), progress)
    random, clock = np.random.default_rng(plan.seed), clock_for(provider, plan.threads)
    found: list[Latency] = []
    with progress.bar(f"benchmark on {provider}", len(batches) * plan.num_runs) as advance:
        for place, batch in enumerate(batches):
            runs = {name: _prepare(model, batch[2][name], place) for name, model in opened.items()}
            warm_up(runs.values(), plan.warmup_runs)
            shape = _shape_words(batch)
            time_now = partial(
                take_turns,
                runs,
                plan.num_runs,
                clock=clock,
                random=random,
                after_round=partial(_advance, advance, shape),
            )
            timed = _steady_turns(time_now, shape) if must_be_steady else time_now()
            found += [
                _latency(name, model, batch, timed.of(name), memory.get((name, place)))
                for name, model in opened.items()
            ]
    return tuple(found)


def _own_settings(name: Contestant, settings: ProviderSettings) -> ProviderSettings:
    """Return the settings of one contestant's sessions."""
    folder = settings.cache_dir
    return replace(
        settings,
        cache_dir=None if folder is None else folder / name,
        precision=settings.precision if name == "final" else "fp32",
    )


def _latency(
    name: Contestant,
    model: OnnxModel,
    batch: BenchmarkBatch,
    times: RunTimes,
    peak_memory_bytes: int | None,
) -> Latency:
    batch_size, sequence_length, _ = batch
    assert model.threads is not None, "the plan says it"
    return Latency(
        model=name,
        provider=provider_that_ran(model.session),
        batch_size=batch_size,
        sequence_length=sequence_length,
        p50_ms=times.percentile(50),
        p95_ms=times.percentile(95),
        num_runs=times.num_runs,
        threads=model.threads,
        noisy=times.is_noisy,
        p99_ms=times.percentile(99),
        cuda_graph=model.settings.cuda_graph,
        peak_memory_bytes=peak_memory_bytes,
        cpu_p50_ms=times.cpu_percentile(50),
        cpu_p95_ms=times.cpu_percentile(95),
    )


def _shape_words(batch: BenchmarkBatch) -> str:
    batch_size, sequence_length, _ = batch
    return f"batch {batch_size}" + (f" x {sequence_length}" if sequence_length else "")


def _steady_turns(time_now: Callable[[], Turns[Contestant]], shape: str) -> Turns[Contestant]:
    """Return turns that tell a speed-up, more than asked for where they vary.

    Raises `EnvironmentMismatch` when so many do not tell it either.
    """
    timed = time_now()
    while (error := _ratio_error(timed)) > _GOOD_ERROR and _num_runs(timed) < _MOST_RUNS:
        timed = timed.followed_by(time_now())
    if error <= _LARGEST_ERROR:
        return timed
    quieter = "" if timed.clock == "cpu" else ", or with benchmark.threads: 1, on the CPU clock"
    raise EnvironmentMismatch(
        f"{shape}: times on the {timed.clock} clock vary too much to choose by a speed-up, which "
        f"is known to {error:.1%} (allowed: {_LARGEST_ERROR:.0%}) after {_num_runs(timed)} runs; "
        f"run again when the machine is quieter{quieter}"
    )


def _num_runs(timed: Turns[Contestant]) -> int:
    return len(next(iter(timed.wall_ms.values())))


def _ratio_error(timed: Turns[Contestant]) -> float:
    """Return the standard error of baseline over final, from parts of the rounds by themselves.

    Infinite where there are too few rounds to see how the ratio varies.
    """
    if len(timed.deciding_ms) < 2:
        return 0.0
    if _num_runs(timed) < _PARTS:
        return float("inf")
    before, after = (
        np.array_split(timed.deciding_ms[name], _PARTS) for name in ("baseline", "final")
    )
    ratios = [
        float(np.median(one) / np.median(other)) for one, other in zip(before, after, strict=True)
    ]
    return standard_error(ratios) / float(np.median(ratios))


def _advance(advance: Advance, shape: str, wall_ms: Mapping[Contestant, Sequence[float]]) -> None:
    medians = (f"{name} {np.median(times):.3g} ms" for name, times in wall_ms.items())
    advance(1, f"{shape}: {', '.join(medians)}")


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


def _prepare(model: OnnxModel, batch: Batch, number: int) -> Run:
    """Return a call that runs `batch` once and returns when the result is there.

    `number` tells the shapes of one session apart, each of which has a CUDA graph of its own.
    """
    session, feed = model.session, model.feed(batch)
    if model.provider in _ON_CPU:
        outputs = [output_of(session)]
        return lambda: session.run(outputs, feed)
    options = onnxruntime.RunOptions()
    if model.settings.cuda_graph:
        options.add_run_config_entry("gpu_graph_id", str(number + 1))
    return _bind(session, feed, "cuda", options)


def _bind(
    session: onnxruntime.InferenceSession,
    feed: Batch,
    device: str,
    options: onnxruntime.RunOptions | None = None,
) -> Run:
    """Return a run whose inputs and outputs stay in one place in the memory of `device`."""
    binding = session.io_binding()
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0)
        for name, value in feed.items()
    }
    inputs = {item.name: item.shape for item in session.get_inputs()}
    [output] = [item for item in session.get_outputs() if item.name == output_of(session)]
    shape = output_shape(inputs, output.shape, feed)
    result = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0)
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output(output.name, result)
    binding.synchronize_inputs()

    def run() -> onnxruntime.OrtValue:
        session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()  # kernels are queued: without this only the launch is timed
        return result

    return run


def _memory(
    models: Mapping[Contestant, OnnxModel],
    batches: Sequence[BenchmarkBatch],
    gpu: GpuMemory,
    progress: Progress,
) -> dict[tuple[Contestant, int], int]:
    """Return how many bytes of the GPU each model takes at most, for each batch by its place.

    A session does not give memory back before it closes, so what it holds after a few runs is what
    it took at most. Other processes on the same GPU would be counted too.
    """
    found: dict[tuple[Contestant, int], int] = {}
    with progress.bar("GPU memory", len(models) * len(batches)) as advance:
        for place, (_, _, own) in enumerate(batches):
            for name, model in models.items():
                before = gpu.used_bytes()
                alone = replace(model, settings=replace(model.settings, exact_memory=True))
                warm_up([_prepare(alone, own[name], place)], _RUNS_TO_FILL_MEMORY)
                found[name, place] = max(0, gpu.used_bytes() - before)
                del alone  # and with it the session
                advance()
    return found
