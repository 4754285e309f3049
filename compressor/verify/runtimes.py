"""How long one batch of a graph takes in each of several runtimes, which take turns.

Which one is faster depends on the processor, the graph and the size of a batch, so the file that
ships is timed in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from compressor.measurements import Runtime, RuntimeLatency
from compressor.models.onnx_model import OnnxModel, output_of
from compressor.models.provider_options import ProviderSettings
from compressor.progress import SILENT, Progress
from compressor.runtime.openvino_session import OPENVINO, Precision, openvino_version
from compressor.tasks import Batch
from compressor.verify.benchmark import is_noisy
from compressor.verify.timing import Run, clock_for, take_turns

PROVIDER_OF: Mapping[Runtime, str] = {"onnxruntime": "cpu", "openvino": OPENVINO}


def time_runtimes(
    path: Path,
    *,
    runtimes: Sequence[Runtime],
    batches: Sequence[tuple[int, int | None, Batch]],
    warmup_runs: int,
    num_runs: int,
    threads: int,
    precision: Precision = "fp32",
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[RuntimeLatency, ...]:
    """Time the graph in `path` on the CPU and return one latency for each batch and runtime.

    `batches` are batch size, sequence length and inputs. After `warmup_runs` untimed runs follow
    `num_runs` rounds; in a round every runtime runs once, in an order drawn from `seed`, from NumPy
    to NumPy, with `threads` each. OpenVINO computes in `precision`.

    Raises `EnvironmentMismatch` where a runtime is not installed or does not run the graph.
    """
    opened = {
        name: OnnxModel(path, PROVIDER_OF[name], threads, ProviderSettings(precision=precision))
        for name in runtimes
    }
    versions = {name: _version(name) for name in runtimes}
    random, clock = np.random.default_rng(seed), clock_for("cpu", threads)
    found: list[RuntimeLatency] = []
    with progress.bar("runtimes in turns", len(batches) * num_runs) as advance:
        for batch_size, sequence_length, inputs in batches:
            runs = {name: _run_of(model, inputs) for name, model in opened.items()}
            for run in runs.values():
                for _ in range(warmup_runs):
                    run()
            timed = take_turns(
                runs, num_runs, clock=clock, random=random, after_round=lambda _: advance(1)
            )
            for name, wall_ms in timed.wall_ms.items():
                cpu_ms = None if timed.cpu_ms is None else timed.cpu_ms[name]
                found.append(
                    RuntimeLatency(
                        runtime=name,
                        version=versions[name],
                        batch_size=batch_size,
                        sequence_length=sequence_length,
                        p50_ms=float(np.median(wall_ms)),
                        p95_ms=float(np.percentile(wall_ms, 95)),
                        num_runs=len(wall_ms),
                        threads=threads,
                        noisy=is_noisy(wall_ms),
                        cpu_p50_ms=None if cpu_ms is None else float(np.median(cpu_ms)),
                    )
                )
    return tuple(found)


def _run_of(model: OnnxModel, inputs: Batch) -> Run:
    session, feed = model.session, model.feed(inputs)
    outputs = [output_of(session)]
    return lambda: session.run(outputs, feed)


def _version(runtime: Runtime) -> str:
    return openvino_version() if runtime == "openvino" else str(onnxruntime.__version__)
