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
from compressor.verify.timing import Run, TimingPlan, clock_for, take_turns, warm_up

PROVIDER_OF: Mapping[Runtime, str] = {"onnxruntime": "cpu", "openvino": OPENVINO}


def time_runtimes(
    path: Path,
    *,
    runtimes: Sequence[Runtime],
    batches: Sequence[tuple[int, int | None, Batch]],
    plan: TimingPlan,
    precision: Precision = "fp32",
    progress: Progress = SILENT,
) -> tuple[RuntimeLatency, ...]:
    """Time the graph in `path` on the CPU and return one latency for each batch and runtime.

    `batches` are batch size, sequence length and inputs. Every runtime runs from NumPy to NumPy,
    with the threads of `plan` each. OpenVINO computes in `precision`.

    Raises `EnvironmentMismatch` where a runtime is not installed or does not run the graph.
    """
    opened = {
        name: OnnxModel(
            path, PROVIDER_OF[name], plan.threads, ProviderSettings(precision=precision)
        )
        for name in runtimes
    }
    versions = {name: _version(name) for name in runtimes}
    random, clock = np.random.default_rng(plan.seed), clock_for("cpu", plan.threads)
    found: list[RuntimeLatency] = []
    with progress.bar("runtimes in turns", len(batches) * plan.num_runs) as advance:
        for batch_size, sequence_length, inputs in batches:
            runs = {name: _run_of(model, inputs) for name, model in opened.items()}
            warm_up(runs.values(), plan.warmup_runs)
            timed = take_turns(
                runs, plan.num_runs, clock=clock, random=random, after_round=lambda _: advance(1)
            )
            for name in opened:
                times = timed.of(name)
                found.append(
                    RuntimeLatency(
                        runtime=name,
                        version=versions[name],
                        batch_size=batch_size,
                        sequence_length=sequence_length,
                        p50_ms=times.percentile(50),
                        p95_ms=times.percentile(95),
                        num_runs=times.num_runs,
                        threads=plan.threads,
                        noisy=times.is_noisy,
                        cpu_p50_ms=times.cpu_percentile(50),
                    )
                )
    return tuple(found)


def _run_of(model: OnnxModel, inputs: Batch) -> Run:
    session, feed = model.session, model.feed(inputs)
    outputs = [output_of(session)]
    return lambda: session.run(outputs, feed)


def _version(runtime: Runtime) -> str:
    return openvino_version() if runtime == "openvino" else str(onnxruntime.__version__)
