"""Simulate what each pass costs from 1 to 64 GPUs and from 100 million to 10 billion parameters.

    tools/simulate_cost.py TOKENIZER --train FILE --text COLUMN [--json FILE]
        [--points FILE] [--examples 100000] [--tokens 128] [--epochs 3] [--batch-size 512]
        [--gpu-tflops 989] [--gpu-fp64-tflops 34] [--gpu-gb 80] [--gpu-gb-per-s 3350]
        [--utilisation 0.4] [--inside-gb-per-s 300] [--between-gb-per-s 100]

Nothing of this was run on a GPU: it is arithmetic. What is measured are passes on encoders with
random weights of three small sizes, on one thread of this CPU (about two minutes), beside the
rates of its own matmuls and copies. For each pass, factors on what it computes (floating-point
operations in the precision of training and in float64, bytes of weights and optimizer state,
seconds that depend on nothing) are fitted to those points with no factor below 0; the table of
points says how far the fit is off. The factors are then carried over to a GPU whose rates are
given above, all of them assumptions: by default those of a data sheet, at a utilisation.

Of several processes the model of cost is that of this package: trainings are shared, and rows that
units are scored on, all else runs in the first process while the others wait; gradients are summed
in a ring in float32; a teacher is whole in every process and computes each row once; where
parameters, gradients and optimizer state do not fit, they are divided (FSDP2), which refuses
quantize_aware_train.

Carried over too is what small encoders spend besides large matmuls: the factor on those is several
times 1 where a data sheet would have 1, so large models come out dearer than they are likely to be.

Left out, each of which makes a real run dearer: activations in memory, small matmuls that keep a
GPU from its utilisation when a process gets few rows, the start of processes, reading and
tokenizing rows, evaluation after each pass, checkpoints, rows of unequal length, exchange of
gradients that is slower than its links, and whatever fails. Left out too, and cheaper: exchange
that overlaps with computing.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classifier_rows import quieten
from pruning_cost import Size, random_model
from results import write_results
from scipy.optimize import nnls

from compressor.data import Dataset, DataSettings, SplitSource, load_splits
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel
from compressor.passes import PassContext, apply_pass, settings_of
from compressor.progress import SILENT
from compressor.tasks.columns import TextColumns

GPUS = (1, 2, 4, 8, 16, 32, 64)
# Encoders of that many parameters without tables, 12 x layers x hidden size^2.
MODELS = {
    "100 million": Size(12, 832),
    "300 million": Size(24, 1024),
    "1 billion": Size(24, 1856),
    "3 billion": Size(32, 2784),
    "10 billion": Size(40, 4544),
}
_MEASURED = (Size(2, 192), Size(4, 192), Size(4, 384))
_MEASURED_FILES = (Size(2, 192), Size(8, 768))  # for what writes weights into a file
_MEASURED_ROWS = (96, 256)
_MEASURED_BATCHES = (16, 128)
_SCORE_ROWS, _RECONSTRUCTION_ROWS = 256, 2048  # that the passes read by default
_MACHINE = 8  # GPUs of a machine
_ROOM = 0.8  # of a GPU's memory for weights and states, the rest is for activations
_PASSES: dict[str, dict[str, Any]] = {
    "prune by scores": {"kind": "prune_structured", "ratio": 0.25, "importance": "taylor"},
    "prune by reconstruction": {
        "kind": "prune_structured",
        "method": "reconstruction",
        "ratio": 0.25,
    },
    "finetune": {"kind": "finetune"},
    "distill": {"kind": "distill"},
    "quantize_aware_train": {"kind": "quantize_aware_train"},
    "export": {},
    "quantize_dynamic": {"kind": "quantize_dynamic"},
}
_FILES = ("export", "quantize_dynamic")
_TEACHER = 0.18  # of a step of training, as `compressor/passes/effort.py` has it
# Passes that take the same steps, so that they are fitted together.
_ALIKE = {"distill": "finetune"}
TRAININGS = ("finetune", "distill", "quantize_aware_train")


@dataclass(frozen=True)
class Work:
    """What a pass does: operations by precision, bytes that are moved, and work of a CPU."""

    flops: float = 0.0  # of matmuls in the precision of training
    flops_64: float = 0.0  # of matrices in float64, solved or multiplied
    moved_bytes: float = 0.0  # weights, gradients and optimizer state, read and written
    cpu_weights: float = 0.0  # weights that a CPU reads and writes into a file
    once: float = 0.0  # seconds that depend on nothing

    def amounts(self) -> list[float]:
        return [self.flops, self.flops_64, self.moved_bytes, self.cpu_weights, self.once]


@dataclass(frozen=True)
class Rates:
    """How much of each kind of work is done in a second."""

    flops: float
    flops_64: float
    bytes: float

    def seconds(self, work: Work) -> list[float]:
        """Return seconds of each kind of work; a CPU's stay as they were measured."""
        found = work.amounts()
        rates = (self.flops, self.flops_64, self.bytes, 1.0, 1.0)
        return [amount / rate for amount, rate in zip(found, rates, strict=True)]


@dataclass(frozen=True)
class Gpu:
    """The machine that is simulated: every number is an assumption."""

    rates: Rates
    memory_bytes: float
    inside: float  # bytes a second between GPUs of a machine, each way
    between: float  # between machines


def parameters_of(size: Size) -> int:
    """Return the weights of the matrices in the layers of an encoder.

    >>> parameters_of(Size(12, 768))
    84934656
    """
    return 12 * size.layers * size.hidden_size**2


def forward_flops(size: Size, rows: int, tokens: float) -> float:
    """Return the operations of one reading, attention's own products among them."""
    weights, attention = parameters_of(size), 2 * size.layers * size.hidden_size * tokens
    return 2 * rows * tokens * (weights + attention)


def work_of(
    name: str, size: Size, rows: int, tokens: float, *, epochs: float = 1, batch_size: int = 32
) -> Work:
    """Return what a pass does on so many rows; the constants are fitted, not these."""
    one, weights = forward_flops(size, rows, tokens), parameters_of(size)
    steps = math.ceil(rows / batch_size) * epochs
    state = 4.0 * weights * 7 * steps  # weights, gradients and two moments, read; all but one kept
    if name == "prune by scores":
        return Work(flops=2 * one, moved_bytes=4.0 * weights, once=1)  # gradients of gates alone
    if name == "prune by reconstruction":
        wide, hidden = 4 * size.hidden_size, size.hidden_size
        gram = 4 * rows * tokens * size.layers * (wide**2 + hidden**2)
        solved = 4 * size.layers * (wide**3 + hidden**3)
        return Work(flops=9 * one, flops_64=gram + solved, once=1)
    if name == "finetune":
        return Work(flops=3 * one * epochs, moved_bytes=state, once=1)
    if name in ("distill", "quantize_aware_train"):  # the teacher computes each row once
        return Work(flops=3 * one * (epochs + _TEACHER), moved_bytes=state, once=1)
    return Work(cpu_weights=weights, once=1)


def fitted(points: list[dict[str, Any]], cpu: Rates) -> dict[str, list[float]]:
    """Return for each pass the factors on its kinds of work, none below 0.

    Errors count relative to what was measured, so small models weigh like larger ones.
    """
    found = {}
    for name in _PASSES:
        kind = _ALIKE.get(name, name)
        own = [point for point in points if _ALIKE.get(point["pass"], point["pass"]) == kind]
        rows = [cpu.seconds(work_at(point)) for point in own]
        weighted = np.array(rows) / np.array([[point["cpu_seconds"]] for point in own])
        found[name] = nnls(weighted, np.ones(len(own)))[0].tolist()
    return found


def work_at(point: Mapping[str, Any]) -> Work:
    """Return what a measured pass did."""
    return work_of(
        point["pass"],
        Size.parse(point["size"]),
        point["rows"],
        point["tokens"],
        batch_size=point["batch_size"],
    )


def reduced_bytes(size: Size, gpus: int, *, divided: bool) -> float:
    """Return the bytes that each process sends in a step.

    A ring sends gradients twice (2 (n - 1) / n); divided models gather weights twice and add
    gradients up once (Rajbhandari et al. 2020, arXiv:1910.02054, section 7).
    """
    return (3 if divided else 2) * 4.0 * parameters_of(size) * (gpus - 1) / gpus


def simulate(
    name: str,
    size: Size,
    gpus: int,
    factors: list[float],
    gpu: Gpu,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Return seconds, GPU hours and memory of a pass; seconds are None with a reason."""
    weights = parameters_of(size)
    rows, epochs, shares = arguments.examples, arguments.epochs, name in TRAININGS
    if name == "prune by scores":
        rows = _SCORE_ROWS
    elif name == "prune by reconstruction":
        rows = _RECONSTRUCTION_ROWS
    held, divided, reason = memory_of(name, size, gpus, gpu)
    work = work_of(
        name, size, rows, arguments.tokens, epochs=epochs, batch_size=arguments.batch_size
    )
    parts = [f * s for f, s in zip(factors, gpu.rates.seconds(work), strict=True)]
    exchanged = 0.0
    if name == "prune by scores":
        parts[0] /= gpus  # sums over rows, of which each process has some
    if shares:
        steps = math.ceil(rows / arguments.batch_size) * epochs
        link = gpu.inside if gpus <= _MACHINE else gpu.between
        exchanged = steps * reduced_bytes(size, gpus, divided=divided) / link
        parts[0] /= gpus
        parts[2] /= gpus if divided else 1  # each process updates all weights, or its part
    seconds = sum(parts) + exchanged
    return {
        "pass": name,
        "parameters": weights,
        "gpus": gpus,
        "shared": shares or name == "prune by scores",
        "seconds": None if reason else round(seconds, 2),
        "gpu_hours": None if reason else round(seconds * gpus / 3600, 5),
        "exchange_share": None if reason or not shares else round(exchanged / seconds, 3),
        "divided": divided,
        "gb_a_gpu": round(held / 1e9, 1),
        "reason": reason,
    }


def memory_of(name: str, size: Size, gpus: int, gpu: Gpu) -> tuple[float, bool, str | None]:
    """Return bytes in each GPU without activations, whether a model is divided, and what forbids.

    Trainings hold weights, gradients and two moments in float32, and a teacher whole.
    """
    weights, room = 4.0 * parameters_of(size), _ROOM * gpu.memory_bytes
    if name in TRAININGS:
        teacher = 0.0 if name == "finetune" else weights
        held = 4 * weights + teacher
        if held <= room:
            return held, False, None
        if name == "quantize_aware_train":
            return held, False, "does not fit whole, and FSDP2 is refused"
        held = 4 * weights / gpus + teacher
        fits = held <= room
        return held, True, None if fits else "does not fit, divided either"
    held = weights
    if name == "prune by reconstruction":  # a teacher, and Gram matrices of all layers in float64
        wide, hidden = 4 * size.hidden_size, size.hidden_size
        held = 2 * weights + 8.0 * size.layers * (wide**2 + 3 * hidden**2)
    if name in _FILES:
        return 0.0, False, None  # in the memory of the CPU
    return held, False, None if held <= room else "does not fit in one GPU, and is not divided"


def rates_of_cpu() -> Rates:
    """Measure matmuls in float32 and float64 and copies, on one thread, best of five."""

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    single, double = torch.randn(1024, 1024), torch.randn(768, 768, dtype=torch.float64)
    block = torch.zeros(16_000_000)
    other = torch.empty_like(block)
    return Rates(
        2 * 1024**3 / best(lambda: single @ single),
        2 * 768**3 / best(lambda: double @ double),
        2 * 4 * block.numel() / best(lambda: other.copy_(block)),
    )


def measured_points(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return CPU seconds of every pass on small encoders, on few and more rows.

    Trainings are measured in short and in long steps instead: what a step does to weights costs the
    same in both, and what it does to rows does not.
    """
    found = []
    known: dict[tuple[object, ...], dict[str, Any]] = {}
    if arguments.points is not None:
        earlier = json.loads(arguments.points.read_text(encoding="utf-8"))["about"]["points"]
        known = {_case_of(point): point for point in earlier}
    splits = {rows: rows_of(arguments, rows) for rows in _MEASURED_ROWS}
    for size in dict.fromkeys((*_MEASURED, *_MEASURED_FILES)):
        model = random_model("bert", size, arguments.tokenizer)
        if size == _MEASURED[0]:  # what is loaded or compiled once would count for the first pass
            seconds_of(
                "prune by scores", _PASSES["prune by scores"], model, splits[_MEASURED_ROWS[0]]
            )
        for name, given in _PASSES.items():
            for rows, batch_size in _cases(name, size):
                case = (name, str(size), rows, batch_size)
                if case in known:
                    kept = known[case].items()
                    found.append({key: value for key, value in kept if key != "fitted_seconds"})
                    continue
                split = splits[rows]
                encoded = model.task.encode(model.preprocessor, split.examples)
                settings = {**given, "batch_size": batch_size} if name in TRAININGS else given
                point = {
                    "pass": name,
                    "size": str(size),
                    "rows": rows,
                    "tokens": float(encoded["attention_mask"].sum() / rows),
                    "batch_size": batch_size,
                    "cpu_seconds": round(seconds_of(name, settings, model, split), 4),
                }
                print(
                    f"{name:26}{size!s:8}{rows:5} rows{batch_size:5} a step"
                    f"{point['cpu_seconds']:9.2f} CPU s",
                    flush=True,
                )
                found.append(point)
    return found


def _case_of(point: Mapping[str, Any]) -> tuple[object, ...]:
    return point["pass"], point["size"], point["rows"], point["batch_size"]


def _cases(name: str, size: Size) -> list[tuple[int, int]]:
    """Return the rows, and how many of them are in a step, that a pass is measured with."""
    few, more = _MEASURED_ROWS
    if name in _FILES:
        return [(few, few)] if size in _MEASURED_FILES else []
    if size not in _MEASURED:
        return []
    if name in TRAININGS:
        return [] if size == _MEASURED[1] else [(more, batch) for batch in _MEASURED_BATCHES]
    return [(few, few), (more, more)]


def seconds_of(name: str, given: Mapping[str, Any], model: TorchModel, split: Dataset) -> float:
    """Return the CPU seconds of one pass on a copy of `model`."""
    with tempfile.TemporaryDirectory() as folder:
        own, graph = model.clone(), Path(folder) / "model.onnx"
        if name == "export":
            start = time.process_time()
            export_onnx(own, graph, threads=1)
            return time.process_time() - start
        if name == "quantize_dynamic":
            return timed(given, export_onnx(own, graph, threads=1), model, split, Path(folder))
        return timed(given, own, model, split, Path(folder))


def timed(
    given: Mapping[str, Any],
    own: TorchModel | OnnxModel,
    model: TorchModel,
    split: Dataset,
    work_dir: Path,
) -> float:
    """Return the CPU seconds of one pass."""
    context = PassContext(
        splits={"calibration": split, "train": split},
        load_baseline=lambda: model,
        device=torch.device("cpu"),
        seed=0,
        work_dir=work_dir,
        progress=SILENT,
        note=lambda _: None,
        load_exported=lambda: model,
    )
    step: Any = settings_of(given)
    start = time.process_time()
    apply_pass(step, own, context)
    return time.process_time() - start


def rows_of(arguments: argparse.Namespace, rows: int) -> Dataset:
    """Return so many rows of the training file, evenly spread."""
    settings = DataSettings(
        text=arguments.text, train=SplitSource(path=arguments.train, max_rows=rows)
    )
    return load_splits(
        settings, label_names=("0", "1"), columns=TextColumns(), needed={"train"}, seed=0
    )["train"]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tokenizer")
    parser.add_argument("--train", required=True, help="rows with labels 0 and 1")
    parser.add_argument("--text", required=True, help="column of the text")
    parser.add_argument("--json", type=Path, help="results file to write")
    parser.add_argument(
        "--points", type=Path, help="an earlier results file, whose points are not measured again"
    )
    parser.add_argument("--examples", type=int, default=100_000, help="rows of the simulation")
    parser.add_argument("--tokens", type=int, default=128, help="of each of those rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512, help="of all processes together")
    parser.add_argument("--gpu-tflops", type=float, default=989, help="peak of matmuls in bfloat16")
    parser.add_argument("--gpu-fp64-tflops", type=float, default=34, help="peak in float64")
    parser.add_argument("--gpu-gb", type=float, default=80, help="memory")
    parser.add_argument("--gpu-gb-per-s", type=float, default=3350, help="of that memory")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the peaks")
    parser.add_argument("--inside-gb-per-s", type=float, default=300, help="between GPUs")
    parser.add_argument("--between-gb-per-s", type=float, default=100, help="between machines")
    return parser.parse_args()


def gpu_of(arguments: argparse.Namespace) -> Gpu:
    """Return the GPU that is assumed."""
    share = arguments.utilisation
    rates = Rates(
        arguments.gpu_tflops * 1e12 * share,
        arguments.gpu_fp64_tflops * 1e12 * share,
        arguments.gpu_gb_per_s * 1e9 * share,
    )
    return Gpu(
        rates,
        arguments.gpu_gb * 1e9,
        arguments.inside_gb_per_s * 1e9,
        arguments.between_gb_per_s * 1e9,
    )


def with_fit(
    points: list[dict[str, Any]], factors: Mapping[str, list[float]], cpu: Rates
) -> list[dict[str, Any]]:
    """Return the points with what the fit gives for them."""
    found = []
    for point in points:
        parts = zip(factors[point["pass"]], cpu.seconds(work_at(point)), strict=True)
        found.append({**point, "fitted_seconds": round(sum(f * s for f, s in parts), 4)})
    return found


def main() -> None:
    quieten()
    torch.set_num_threads(1)
    arguments = read_arguments()
    cpu = rates_of_cpu()
    points = measured_points(arguments)
    factors = fitted(points, cpu)
    gpu = gpu_of(arguments)
    rows = [
        {"model": label, **simulate(name, size, gpus, factors[name], gpu, arguments)}
        for label, size in MODELS.items()
        for name in _PASSES
        for gpus in GPUS
    ]
    for row in rows:
        if row["gpus"] in (1, 8, 64):
            told = row["reason"] or f"{row['seconds']:,.0f} s, {row['gpu_hours']:.2f} GPU hours"
            print(f"{row['model']:12}{row['pass']:26}{row['gpus']:4} GPUs  {told}")
    if arguments.json is not None:
        names = (
            "examples", "tokens", "epochs", "batch_size", "gpu_tflops", "gpu_fp64_tflops", "gpu_gb",
            "gpu_gb_per_s", "utilisation", "inside_gb_per_s", "between_gb_per_s",
        )  # fmt: skip
        about = {
            "is": "a simulation: passes were measured on one CPU thread, the GPU is assumed",
            "assumed": {name: getattr(arguments, name) for name in names},
            "cpu_rates": {
                "matmul_gflops": round(cpu.flops / 1e9, 1),
                "float64_gflops": round(cpu.flops_64 / 1e9, 1),
                "copied_gb_per_s": round(cpu.bytes / 1e9, 1),
            },
            "factors": factors,
            "points": with_fit(points, factors, cpu),
        }
        write_results(arguments.json, rows, about=about)


if __name__ == "__main__":
    main()
