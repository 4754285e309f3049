"""Print one table: what each way of structured pruning without retraining keeps, and its price.

    tools/compare_pruning.py CHECKPOINT --train FILE --search FILE --text COLUMN [--search-text ...]

Train rows are read without labels by all methods but `taylor`; accuracy is measured on the search
file. FLOPs are counted from the shapes of the pruned module, not taken from the pruning code, at
the calibration rows' mean length. Methods that know no FLOPs target lose `ratio` of the heads and
of the neurons. Several `--seeds` give the mean and, in brackets, lowest and highest accuracy.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from compressor.data import Dataset, DataSettings, SplitSource, load_splits
from compressor.evaluation import evaluate
from compressor.models.structure import encoder_layers
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext
from compressor.passes._reconstruction import store_inputs
from compressor.passes.prune_structured import PruneStructured
from compressor.progress import SILENT
from compressor.pruning.budget_search import Freedom, encoder_cost, units_to_remove
from compressor.pruning.fisher import fisher_scores
from compressor.pruning.reconstruction import CalibrationInputs, reconstruct
from compressor.pruning.structure import prune_heads, prune_neurons

_CHOICE = 4  # rows at hand for each that is read: reconstruction prefers long ones

Prune = Callable[[TorchModel, float, PassContext], TorchModel]


def by_scores(importance: str, scope: str) -> Prune:
    def prune(model: TorchModel, ratio: float, context: PassContext) -> TorchModel:
        settings = {"ratio": ratio, "importance": importance, "scope": scope, "round_to": 16}
        rows = {"calibration_rows": rows_to_read(context)}
        return PruneStructured.model_validate({**settings, **rows}).apply(model, context)

    return prune


def by_masks(model: TorchModel, ratio: float, context: PassContext) -> TorchModel:
    prune_by_fisher(model, ratio, stored(model, context), context.seed)
    return model


def by_masks_and_least_squares(model: TorchModel, ratio: float, context: PassContext) -> TorchModel:
    calibration, teacher = stored(model, context), model.clone()
    prune_by_fisher(model, ratio, calibration, context.seed)
    reconstruct(model.module, teacher.module, calibration, ridge=1e-3, advance=lambda: None)
    return model


def by_reconstruction(model: TorchModel, ratio: float, context: PassContext) -> TorchModel:
    rows = rows_to_read(context)
    settings = {"method": "reconstruction", "ratio": ratio, "calibration_rows": rows}
    return PruneStructured.model_validate(settings).apply(model, context)


METHODS: dict[str, Prune] = {
    "random": by_scores("random", "layer"),
    "magnitude": by_scores("magnitude", "layer"),
    "taylor": by_scores("taylor", "global"),
    "fisher masks": by_masks,
    "fisher + least squares": by_masks_and_least_squares,
    "reconstruction": by_reconstruction,
}


def rows_to_read(context: PassContext) -> int:
    return max(1, len(context.calibration) // _CHOICE)


def stored(model: TorchModel, context: PassContext) -> CalibrationInputs:
    rows = rows_to_read(context)
    directory = context.work_dir / "inputs"
    return store_inputs(model, context.calibration, rows, context.seed, directory)


def prune_by_fisher(
    model: TorchModel, ratio: float, calibration: CalibrationInputs, seed: int
) -> None:
    batches = (calibration[batch] for batch in range(len(calibration)))
    scores = fisher_scores(model.module, batches, seed=seed)
    cost = encoder_cost(model.module, "flops", calibration.mean_length)
    heads, neurons = units_to_remove(scores, cost, (1 - ratio) * cost.total, Freedom(16))
    prune_heads(model.module, heads)
    prune_neurons(model.module, neurons)


def count_flops(module: Any, mean_length: float) -> float:
    """Count FLOPs of a token in the encoder's matrix products from the shapes that are there."""
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
    settings = DataSettings(
        text=arguments.text,
        label=arguments.label,
        calibration=SplitSource(path=arguments.train, max_rows=_CHOICE * arguments.rows),
        search=SplitSource(path=arguments.search, text=arguments.search_text),
    )
    splits = load_splits(
        settings,
        label_names=model.labels,
        input_column="text",
        needed=("calibration", "search"),
        seed=seed,
    )
    return Data(splits["calibration"], splits["search"])


def measure(
    arguments: argparse.Namespace, name: str, ratio: float, seed: int
) -> tuple[float, float, float]:
    """Return accuracy and share of FLOPs left, both in percent, and seconds of CPU time."""
    model = load_checkpoint(arguments.checkpoint)
    data = load_data(arguments, model, seed)
    length = mean_tokens(model, data.calibration)
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
        start = time.process_time()
        model = METHODS[name](model, ratio, context)
        seconds = time.process_time() - start
    score = evaluate(model, model.task, model.preprocessor, data.search, "accuracy")
    return 100 * score.value, 100 * count_flops(model.module, length) / before, seconds


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--train", required=True, help="rows to calibrate on")
    parser.add_argument("--search", required=True, help="labelled rows to measure accuracy on")
    parser.add_argument("--text", required=True, help="column of the text")
    parser.add_argument("--search-text", help="column of the text in --search, where it differs")
    parser.add_argument("--label", default="label", help="column of the label")
    parser.add_argument("--rows", type=int, default=1024, help="calibration rows")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.6, 0.7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = load_checkpoint(arguments.checkpoint)
    data = load_data(arguments, model, arguments.seeds[0])
    baseline = evaluate(model, model.task, model.preprocessor, data.search, "accuracy")
    print(
        f"{arguments.checkpoint}: accuracy {100 * baseline.value:.2f} on {len(data.search)} rows; "
        f"{arguments.rows} calibration rows, seeds {arguments.seeds}, 1 thread, "
        f"torch {torch.__version__}"
    )
    head = f"{'method':24}{'removed':>8}{'accuracy':>10}{'(min-max)':>16}"
    print(f"{head}{'FLOPs left':>12}{'CPU s':>8}")
    for ratio in arguments.ratios:
        for name in arguments.methods:
            found = np.array([measure(arguments, name, ratio, seed) for seed in arguments.seeds])
            accuracy, flops, seconds = found.mean(axis=0)
            spread = f"({found[:, 0].min():.2f}-{found[:, 0].max():.2f})"
            print(
                f"{name:24}{ratio:8.0%}{accuracy:10.2f}{spread:>16}{flops:11.1f}%{seconds:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
