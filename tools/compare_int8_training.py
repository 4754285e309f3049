"""Print what int8 loses without training, and what `quantize_aware_train` wins back.

    tools/compare_int8_training.py CHECKPOINT --train FILE --search FILE --text COLUMN [--set ...]

The checkpoint (with `--ratio`, pruned by reconstruction first) is exported and quantized by
`quantize_dynamic` twice: as it is, and after `quantize_aware_train`. Changed answers and the error
of the logits refer to the float model, on the search file, in ONNX Runtime. `--set` changes a
setting of the training, such as `--set epochs=1`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from classifier_rows import new_parser, quieten, read_splits
from numpy.typing import NDArray

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext
from compressor.passes.prune_structured import PruneStructured
from compressor.passes.quantize_aware_train import QuantizeAwareTrain
from compressor.passes.quantize_dynamic import QuantizeDynamic
from compressor.progress import SILENT

ROWS_PER_BATCH = 32


def main() -> None:
    arguments = read_arguments()
    quieten()
    model = load_checkpoint(arguments.checkpoint)
    needed = ("train", "calibration", "search")
    splits = read_splits(arguments, model, needed, max_rows=arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        contexts = Contexts(arguments.checkpoint, splits, Path(folder))
        if arguments.ratio:
            pruning = PruneStructured.model_validate(
                {"method": "reconstruction", "ratio": arguments.ratio}
            )
            model = pruning.apply(model, contexts.make("pruning"))
        wanted = answer(model, model, splits["search"])
        report("float", wanted, wanted, splits["search"])
        rounded = quantize(model, contexts.make("rounded"))
        report("int8", answer(rounded, model, splits["search"]), wanted, splits["search"])
        training = QuantizeAwareTrain.model_validate(dict(map(setting, arguments.set)))
        context = contexts.make("training")
        started = time.process_time()
        trained = training.apply(model, context)
        minutes = (time.process_time() - started) / 60
        stored = quantize(trained, contexts.make("trained"))
        found = answer(stored, model, splits["search"])
        report("int8, trained", found, wanted, splits["search"])
        print(f"training: {minutes:.1f} CPU minutes; {json.dumps(context.facts)}")


class Contexts:
    """Makes what the pipeline would lend each pass."""

    def __init__(self, checkpoint: str, splits: dict[str, Dataset], folder: Path) -> None:
        self.checkpoint = checkpoint
        self.splits = splits
        self.folder = folder

    def make(self, name: str) -> PassContext:
        work_dir = self.folder / name
        work_dir.mkdir()
        return PassContext(
            splits=self.splits,
            load_baseline=lambda: load_checkpoint(self.checkpoint),
            device=torch.device("cpu"),
            seed=0,
            work_dir=work_dir,
            progress=SILENT,
            note=lambda _: None,
        )


def quantize(model: TorchModel, context: PassContext) -> OnnxModel:
    exported = export_onnx(model, context.work_dir / "exported.onnx", threads=1)
    return QuantizeDynamic.model_validate({}).apply(exported, context)


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
    name: str, found: NDArray[np.float32], wanted: NDArray[np.float32], dataset: Dataset
) -> None:
    answers = found.argmax(axis=1)
    accuracy = np.mean(answers == dataset.labels)
    changed = np.mean(answers != wanted.argmax(axis=1))
    error = np.sqrt(np.mean(np.square(found - wanted)))
    print(
        f"{name:14} accuracy {accuracy:7.2%}  changed {changed:6.2%}  logit RMS {error:.4f}",
        flush=True,
    )


def setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    return name, json.loads(value)


def read_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, train="rows to train and calibrate on")
    parser.add_argument("--rows", type=int, default=20_000, help="training rows, at most")
    parser.add_argument("--ratio", type=float, help="prune this share of the FLOPs first")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the training")
    return parser.parse_args()


if __name__ == "__main__":
    main()
