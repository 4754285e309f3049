"""Print one table: what each way of structured pruning without retraining keeps, and its price.

    tools/compare_pruning.py CHECKPOINT --train FILE --search FILE --text COLUMN [--search-text ...]

Train rows are read without labels by all methods but `taylor`; accuracy is measured on the search
file. FLOPs are counted from the shapes of the pruned module, not taken from the pruning code, at
the search rows' mean length. Methods that know no FLOPs target lose `ratio` of the heads and
of the neurons. Several `--seeds` give the mean and, in brackets, lowest and highest accuracy.

Each pruning has a process of its own: CPU seconds and peak memory (above what it held before) are
those of the pruning alone. `KL` is 1000 times the divergence from the dense model's answers, at
temperature 2. `speed` is that of the first seed's model in ONNX Runtime, float32 against the dense
float32 export, one thread, batch 1, real texts of the search file without padding: both take turns
text by text, in shuffled order; the median over rounds and, in brackets, the slowest and fastest
round. `--speed-texts 0` leaves it out. Linux only (peak memory).

How firm the ridge has to be on few rows, `left out` as the pass chooses it: --train-rows 20
--methods "fisher masks" "fisher + least squares" "fisher + ridge 1" "fisher + ridge left out".
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classifier_rows import new_parser, quieten, read_splits
from divergence import kl_divergence
from numpy.typing import NDArray
from results import write_results
from torch import nn

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.models.families.layers import Encoder, encoder_layers, find_encoder
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.budget import Freedom, encoder_cost, units_to_remove
from compressor.passes.prune_structured.few_rows import store_inputs
from compressor.passes.prune_structured.fisher import fisher_scores
from compressor.passes.prune_structured.reconstruct import CalibrationInputs, reconstruct
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons
from compressor.progress import SILENT
from compressor.tasks import Task
from compressor.verify.evaluation import evaluate

# The last argument is how many calibration rows to read.
Prune = Callable[[TorchModel, float, PassContext, int], TorchModel]


def by_scores(importance: str, scope: str) -> Prune:
    def prune(model: TorchModel, ratio: float, context: PassContext, rows: int) -> TorchModel:
        settings = {"ratio": ratio, "importance": importance, "scope": scope, "round_to": 16}
        return apply_pass(
            PruneStructured.of({**settings, "calibration_rows": rows}), model, context
        )

    return prune


def by_masks(model: TorchModel, ratio: float, context: PassContext, rows: int) -> TorchModel:
    encoder = find_encoder(model.module)
    prune_by_fisher(encoder, model.task, ratio, stored(model, encoder, context, rows), context.seed)
    return model


def by_masks_and_least_squares(ridge: float, *, leaves_out: bool = False) -> Prune:
    def prune(model: TorchModel, ratio: float, context: PassContext, rows: int) -> TorchModel:
        encoder, teacher = find_encoder(model.module), find_encoder(model.clone().module)
        calibration = stored(model, encoder, context, rows)
        prune_by_fisher(encoder, model.task, ratio, calibration, context.seed)
        reconstruct(
            encoder,
            teacher,
            calibration,
            ridge=ridge,
            advance=lambda: None,
            leaves_out=leaves_out,
        )
        return model

    return prune


def by_reconstruction(
    model: TorchModel, ratio: float, context: PassContext, rows: int
) -> TorchModel:
    settings = {"method": "reconstruction", "ratio": ratio, "calibration_rows": rows}
    return apply_pass(PruneStructured.of(settings), model, context)


METHODS: dict[str, Prune] = {
    "random": by_scores("random", "layer"),
    "magnitude L1": by_scores("magnitude_l1", "layer"),
    "magnitude L2": by_scores("magnitude", "layer"),
    "activation": by_scores("activation", "layer"),
    "taylor": by_scores("taylor", "global"),
    "fisher masks": by_masks,
    "fisher + least squares": by_masks_and_least_squares(1e-3),
    "fisher + ridge 0.1": by_masks_and_least_squares(0.1),
    "fisher + ridge 1": by_masks_and_least_squares(1.0),
    "fisher + ridge left out": by_masks_and_least_squares(1e-3, leaves_out=True),
    "reconstruction": by_reconstruction,
}


# The others are for few rows, such as `--rows 20`: how firm the ridge of least squares is.
USUAL = [name for name in METHODS if "ridge" not in name]


def stored(
    model: TorchModel, encoder: Encoder, context: PassContext, rows: int
) -> CalibrationInputs:
    directory = context.work_dir / "inputs"
    return store_inputs(model, encoder, context.calibration, rows, context.seed, directory)


def prune_by_fisher(
    encoder: Encoder, task: Task, ratio: float, calibration: CalibrationInputs, seed: int
) -> None:
    batches = (calibration[batch] for batch in range(len(calibration)))
    scores = fisher_scores(encoder, batches, task, seed=seed)
    cost = encoder_cost(encoder.layers, "flops", calibration.mean_length)
    heads, neurons = units_to_remove(scores, cost, (1 - ratio) * cost.total, Freedom(16))
    prune_heads(encoder, heads)
    prune_neurons(encoder, neurons)


def count_flops(module: Any, mean_length: float) -> float:
    """Count FLOPs of a token in the encoder's matmuls from the shapes that are there."""
    total = 0.0
    for layer in encoder_layers(module):
        linears = [part for part in layer.module.modules() if isinstance(part, nn.Linear)]
        total += sum(2 * linear.weight.numel() for linear in linears)
        if layer.attention is not None:  # scores and weighted sum: one product each per key
            total += 2 * 2 * mean_length * layer.attention.value.out_features
    return total


def mean_tokens(model: TorchModel, dataset: Dataset) -> float:
    encoded = model.task.encode(model.preprocessor, dataset.examples)
    return float(encoded["attention_mask"].sum() / len(dataset))


@dataclass(frozen=True)
class Data:
    calibration: Dataset
    search: Dataset


def load_data(arguments: argparse.Namespace, model: TorchModel, seed: int) -> Data:
    needed, limit = ("calibration", "search"), arguments.train_rows
    splits = read_splits(arguments, model, needed, max_rows=limit, seed=seed)
    return Data(splits["calibration"], splits["search"])


@dataclass(frozen=True)
class Pruned:
    """One pruning, measured: accuracy and FLOPs left in percent, CPU seconds, MB of memory.

    `kl` is 1000 times the KL divergence from the dense model's answers at temperature 2.
    """

    accuracy: float
    kl: float
    flops: float
    seconds: float
    peak_mb: float


def measure(
    arguments: argparse.Namespace, name: str, ratio: float, seed: int, export_to: Path | None
) -> Pruned:
    quieten()
    model = load_checkpoint(arguments.checkpoint)
    data = load_data(arguments, model, seed)
    length = mean_tokens(model, data.search)
    before = count_flops(model.module, length)
    with tempfile.TemporaryDirectory() as folder:
        context = PassContext(
            splits={"calibration": data.calibration},
            load_baseline=lambda: load_checkpoint(arguments.checkpoint),
            device=torch.device("cpu"),
            seed=seed,
            work_dir=Path(folder),
            progress=SILENT,
            note=lambda _: None,
        )
        held_mb = reset_peak_mb()
        start = time.process_time()
        model = METHODS[name](model, ratio, context, arguments.rows)
        seconds = time.process_time() - start
        peak_mb = status_mb("VmHWM") - held_mb
    score = evaluate(model, model.task, model.preprocessor, data.search, "accuracy")
    dense = load_checkpoint(arguments.checkpoint)
    kl = 1000 * kl_divergence(answers(dense, data.search), answers(model, data.search))
    if export_to is not None:
        export_onnx(model, export_to, threads=1)
    left = 100 * count_flops(model.module, length) / before
    return Pruned(100 * score.value, kl, left, seconds, peak_mb)


def answers(model: TorchModel, dataset: Dataset) -> NDArray[np.float32]:
    """Return the logits of every row, shape `(rows, classes)`."""
    texts = dataset.examples
    parts = [
        model.predict(model.task.encode(model.preprocessor, texts[start : start + 64]))
        for start in range(0, len(texts), 64)
    ]
    return np.concatenate(parts)


def reset_peak_mb() -> float:
    """Forget the highest memory use so far, and return the present one."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status_mb("VmRSS")


def status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1e3


def speed_ratios(dense: Path, pruned: Path, batches: list[Any], rounds: int) -> np.ndarray:
    """Return, for each round over all texts, by how much less CPU time the pruned model takes."""
    models = [OnnxModel(path, provider="cpu", threads=1) for path in (dense, pruned)]
    random, ratios = np.random.default_rng(0), []
    for round_number in range(rounds + 1):
        totals = [0, 0]
        for batch in batches:
            for index in random.permutation(2):
                start = time.thread_time_ns()
                models[index].predict(batch)
                totals[index] += time.thread_time_ns() - start
        if round_number > 0:  # the first one warms up
            ratios.append(totals[0] / totals[1])
    return np.array(ratios)


def read_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, train="rows to calibrate on")
    parser.add_argument("--rows", type=int, default=1024, help="calibration rows")
    parser.add_argument(
        "--train-rows", type=int, help="rows of --train that there are, drawn by the seed"
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.6, 0.7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=USUAL)
    parser.add_argument("--speed-texts", type=int, default=100, help="search rows to time")
    parser.add_argument("--speed-rounds", type=int, default=7, help="timed rounds over them")
    parser.add_argument("--json", type=Path, help="results file to write, too")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    quieten()
    model = load_checkpoint(arguments.checkpoint)
    data = load_data(arguments, model, arguments.seeds[0])
    baseline = evaluate(model, model.task, model.preprocessor, data.search, "accuracy")
    print(
        f"{arguments.checkpoint}: accuracy {100 * baseline.value:.2f} on {len(data.search)} rows; "
        f"{arguments.rows} calibration rows, seeds {arguments.seeds}, 1 thread, "
        f"torch {torch.__version__}"
    )
    head = (
        f"{'method':24}{'removed':>8}{'accuracy':>10}{'(min-max)':>16}{'KL':>8}{'FLOPs left':>12}"
    )
    print(f"{head}{'CPU s':>8}{'peak MB':>9}{'speed':>8}{'(min-max)':>14}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dense, pruned = Path(folder) / "dense.onnx", Path(folder) / "pruned.onnx"
        texts = data.search.examples[: arguments.speed_texts]
        batches = [model.task.encode(model.preprocessor, [text]) for text in texts]
        if batches:
            export_onnx(model, dense, threads=1)
        for ratio in arguments.ratios:
            for name in arguments.methods:
                found = prune_with_seeds(arguments, name, ratio, pruned if batches else None)
                row = {"method": name, "removed": ratio, **as_row(found)}
                if batches:
                    ratios = speed_ratios(dense, pruned, batches, arguments.speed_rounds)
                    row["speed"] = [float(np.percentile(ratios, share)) for share in (50, 0, 100)]
                print(in_columns(row), flush=True)
                rows.append(row)
    if arguments.json is not None:
        about = {
            "baseline_accuracy": 100 * baseline.value,
            "search_rows": len(data.search),
            "calibration_rows": arguments.rows,
            "train_rows": arguments.train_rows,
            "seeds": arguments.seeds,
        }
        write_results(arguments.json, rows, about=about)


def prune_with_seeds(
    arguments: argparse.Namespace, name: str, ratio: float, export_to: Path | None
) -> list[Pruned]:
    """Prune once for each seed; the first one's model is exported."""
    return [
        in_own_process(measure, arguments, name, ratio, seed, None if position else export_to)
        for position, seed in enumerate(arguments.seeds)
    ]


def in_own_process(work: Callable[..., Pruned], *arguments: Any) -> Pruned:
    # A pool each: one whose workers are replaced after a task can hang (python/cpython#115634).
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def as_row(found: list[Pruned]) -> dict[str, Any]:
    """Return what several seeds gave: means, and the lowest and highest accuracy."""
    accuracies = [each.accuracy for each in found]
    return {
        "accuracy": mean(accuracies),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "kl_thousandths": mean(each.kl for each in found),
        "flops_left_percent": mean(each.flops for each in found),
        "cpu_seconds": mean(each.seconds for each in found),
        "peak_megabytes": max(each.peak_mb for each in found),
    }


def in_columns(row: Mapping[str, Any]) -> str:
    spread = f"({row['lowest']:.2f}-{row['highest']:.2f})"
    text = f"{row['method']:24}{row['removed']:8.0%}{row['accuracy']:10.2f}{spread:>16}"
    text += f"{row['kl_thousandths']:8.1f}"
    text += (
        f"{row['flops_left_percent']:11.1f}%{row['cpu_seconds']:8.0f}{row['peak_megabytes']:9.0f}"
    )
    if "speed" not in row:
        return text
    middle, low, high = row["speed"]
    return f"{text}{middle:7.2f}x{f'({low:.2f}-{high:.2f})':>14}"


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


if __name__ == "__main__":
    main()
