"""Print what int8 loses without training, and what `quantize_aware_train` wins back.

    tools/compare_int8_training.py CHECKPOINT --train FILE --search FILE --text COLUMN [--set ...]

The checkpoint (with `--ratio`, pruned by reconstruction first) is exported and stored as int8 as it
is, and after `quantize_aware_train` with each of `--seeds`: by `quantize_dynamic`, or with `--set
activations=static` by `quantize_static`. Changed answers, KL divergence and error of the logits
refer to the float model of the same shape, in ONNX Runtime, on the search file and on rows of the
training file that training never sees. `recovered` is the share of the KL without training that is
gone after it. `--set` changes a setting of the training, such as `--set epochs=1`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from classifier_rows import new_parser, quieten, read_splits
from divergence import kl_divergence
from numpy.typing import NDArray

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.passes.quantize.settings import QuantizeDynamic, QuantizeStatic
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.progress import SILENT

ROWS_PER_BATCH = 32


def main() -> None:
    arguments = read_arguments()
    quieten()
    training = QuantizeAwareTrain.model_validate(dict(arguments.set))
    model = load_checkpoint(arguments.checkpoint)
    splits = load_rows(arguments, model)
    compared = {"search": splits["search"], "held out": splits["held out"]}
    with tempfile.TemporaryDirectory() as folder:
        contexts = Contexts(arguments.checkpoint, splits, Path(folder))
        if arguments.ratio:
            pruning = PruneStructured.of({"method": "reconstruction", "ratio": arguments.ratio})
            model = apply_pass(pruning, model, contexts.make("pruning"))
        wanted = {name: answer(model, model, rows) for name, rows in compared.items()}
        for name, rows in compared.items():
            report(f"float, {name}", wanted[name], wanted[name], rows)
        rounded = store(model, training, contexts.make("rounded"))
        lost = {
            name: report(f"int8, {name}", answer(rounded, model, rows), wanted[name], rows)
            for name, rows in compared.items()
        }
        for seed in arguments.seeds:
            context = contexts.make(f"training {seed}", seed)
            started = time.process_time()
            trained = apply_pass(training, model.clone(), context)
            minutes = (time.process_time() - started) / 60
            stored = store(trained, training, contexts.make(f"trained {seed}"))
            for name, rows in compared.items():
                title = f"trained {seed}, {name}"
                found = answer(stored, model, rows)
                report(title, found, wanted[name], rows, lost=lost[name])
            print(f"training: {minutes:.1f} CPU minutes; {json.dumps(context.facts)}", flush=True)


class Contexts:
    """Makes what the pipeline would lend each pass."""

    def __init__(self, checkpoint: str, splits: dict[str, Dataset], folder: Path) -> None:
        self.checkpoint = checkpoint
        self.splits = splits
        self.folder = folder

    def make(self, name: str, seed: int = 0) -> PassContext:
        work_dir = self.folder / name
        work_dir.mkdir()
        return PassContext(
            splits=self.splits,
            load_baseline=lambda: load_checkpoint(self.checkpoint),
            device=torch.device("cpu"),
            seed=seed,
            work_dir=work_dir,
            progress=SILENT,
            note=lambda _: None,
        )


def load_rows(arguments: argparse.Namespace, model: TorchModel) -> dict[str, Dataset]:
    """Read the splits, and cut rows off the training split that training never sees."""
    needed = ("train", "calibration", "search")
    wanted = arguments.rows + arguments.held_out
    splits = read_splits(arguments, model, needed, max_rows=wanted)
    order = np.random.default_rng(0).permutation(len(splits["train"]))
    held_out, train = np.split(order, [arguments.held_out])
    splits["held out"] = chosen(splits["train"], held_out)
    splits["train"] = chosen(splits["train"], train)
    return splits


def chosen(dataset: Dataset, rows: NDArray[np.int64]) -> Dataset:
    return replace(
        dataset,
        examples=tuple(dataset.examples[row] for row in rows),
        labels=None if dataset.labels is None else dataset.labels[rows],
        rows=dataset.rows[rows],
        columns={},
    )


def store(model: TorchModel, training: QuantizeAwareTrain, context: PassContext) -> OnnxModel:
    """Store `model` as int8 in the form that `training` simulates."""
    shared = ("method", "percentile", "rows", "embeddings", "embedding_block", "min_elements")
    settings = {name: getattr(training, name) for name in shared}
    exported = export_onnx(model, context.work_dir / "exported.onnx", threads=1)
    if training.activations == "static":
        return apply_pass(QuantizeStatic.model_validate(settings), exported, context)
    dynamic = {name: settings[name] for name in QuantizeDynamic.model_fields if name in settings}
    return apply_pass(QuantizeDynamic.model_validate(dynamic), exported, context)


def answer(
    predictor: TorchModel | OnnxModel, model: TorchModel, dataset: Dataset
) -> NDArray[np.float32]:
    order = sorted(range(len(dataset)), key=lambda row: len(str(dataset.examples[row])))
    logits = np.zeros((len(order), len(model.labels)), np.float32)
    for start in range(0, len(order), ROWS_PER_BATCH):
        rows = order[start : start + ROWS_PER_BATCH]
        encoded = model.task.encode(model.preprocessor, [dataset.examples[row] for row in rows])
        logits[rows] = predictor.predict(encoded)
    return logits


def report(
    name: str,
    found: NDArray[np.float32],
    wanted: NDArray[np.float32],
    dataset: Dataset,
    *,
    lost: float | None = None,
) -> float:
    """Print one line and return the KL divergence from `wanted`, in nats."""
    answers = found.argmax(axis=1)
    changed = int(np.sum(answers != wanted.argmax(axis=1)))
    error = np.sqrt(np.mean(np.square(found - wanted)))
    divergence = kl_divergence(wanted, found, temperature=1.0)
    recovered = "" if lost is None else f"  recovered {1 - divergence / lost:7.1%}"
    print(
        f"{name:20} accuracy {np.mean(answers == dataset.labels):7.2%}  changed {changed:4} of "
        f"{len(found)}  KL {divergence:.2e}  logit RMS {error:.4f}{recovered}",
        flush=True,
    )
    return divergence


def setting(text: str) -> tuple[str, object]:
    """Return name and value of `NAME=VALUE`, the value read as in a recipe."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def read_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, train="rows to train and calibrate on")
    parser.add_argument("--rows", type=int, default=20_000, help="training rows, at most")
    parser.add_argument("--held-out", type=int, default=2000, help="more rows, to compare on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    parser.add_argument("--ratio", type=float, help="prune this share of the FLOPs first")
    parser.add_argument(
        "--set", nargs="*", type=setting, default=[], help="NAME=VALUE, settings of the training"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
