"""Compare int8 files of one checkpoint: size, accuracy, changed predictions, logit error and speed.

Exports the checkpoint plain, with transformers' own fusions for the CPU, and as this package
rewrites it for the CPU; quantizes the last with the pass `quantize_dynamic` (per tensor and per
token), with `quantize_static` (each method of calibration) and `quantize_auto` where calibration
rows are given, the one before with transformers' own dynamic quantizer (with its defaults, per
channel, and with 7-bit weights), and prints one table. `--others` adds files that other tools made
of the same checkpoint, such as optimum, Olive or NNCF. Every model predicts the same rows in the
same batches of 32, sorted by length. For the speeds the models take turns,
in shuffled order, on one thread; a speed is the CPU time of the plain float graph over the model's,
within one round, and the table gives the median over the rounds and in brackets the 10th and 90th
percentile.

Usage: tools/compare_int8.py CHECKPOINT --data FILE --text COLUMN --label COLUMN [--rows N]
           [--calibration FILE [--calibration-text COLUMN]] [--others NAME=FILE ...]
           [--json docs/results/int8.json]
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import onnx_ir
import onnxruntime
import torch
from numpy.typing import NDArray
from results import write_results
from transformers.exporters.configs import ExportFormat
from transformers.exporters.quantizers.quantizer_onnxruntime import (
    OnnxRuntimeDynamicConfig,
    OnnxRuntimeQuantizer,
)

from compressor.data import Dataset
from compressor.export.attention_operator import ATTENTION_OPSET
from compressor.export.to_onnx import export_onnx
from compressor.machine.environment import describe_environment
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import OnnxPass, PassContext, apply_pass
from compressor.passes.quantize.settings import QuantizeAuto, QuantizeDynamic, QuantizeStatic
from compressor.progress import SILENT
from compressor.tasks import Batch

BATCH_SIZE = 32
CALIBRATION_ROWS = 512
TIMED_TEXTS = 24  # run one by one, spread over the lengths
TIMED_BATCHES = 4  # of 32 rows, spread over the lengths
SEED = 0
OPSET = ATTENTION_OPSET  # what recipes that go for speed ask for

Models = dict[str, OnnxModel]
Item = TypeVar("Item")


def main() -> int:
    arguments = read_arguments()
    texts, labels = read_rows(arguments.data, arguments.text, arguments.label, arguments.rows)
    model = load_checkpoint(arguments.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(model, Path(folder), read_calibration(arguments))
        models |= {name: OnnxModel(path, threads=1) for name, path in arguments.others}
        logits = {name: predict(item, model, texts) for name, item in models.items()}
        singles, batches = timed_inputs(model, texts)
        speeds = [time_in_turns(models, group, arguments.rounds) for group in (singles, batches)]
        found = compare(models, logits, labels, speeds)
    print_table(found)
    facts = describe_environment(seed=SEED, device=torch.device("cpu"), threads=1)
    print(
        f"\n{len(texts)} rows of {arguments.data.name}, {arguments.rounds} rounds of "
        f"{len(singles)} single texts and of {len(batches)} batches; {facts['cpu']['model']}, one "
        f"thread, CPU time, onnxruntime {onnxruntime.__version__}"
    )
    if arguments.json is not None:
        about = {"rows": len(texts), "rounds": arguments.rounds, "clock": "CPU time of one thread"}
        write_results(arguments.json, found, about=about)
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a text classifier")
    parser.add_argument("--data", type=Path, required=True, help=".tsv (unquoted) or .csv file")
    parser.add_argument("--text", required=True, help="column of the texts")
    parser.add_argument("--label", required=True, help="column of the labels, as class numbers")
    parser.add_argument("--rows", type=int, help="read only so many rows")
    parser.add_argument("--calibration", type=Path, help="file of unlabelled rows")
    parser.add_argument("--calibration-text", help="its column, if not the same as --text")
    parser.add_argument("--rounds", type=int, default=15, help="of each timing")
    parser.add_argument("--json", type=Path, help="results file to write, too")
    parser.add_argument(
        "--others",
        type=named_file,
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="ONNX files of other tools, with the same inputs and an output `logits`",
    )
    return parser.parse_args()


def named_file(text: str) -> tuple[str, Path]:
    """Return name and path of `NAME=FILE`."""
    name, equals, path = text.partition("=")
    if not (name and equals and Path(path).is_file()):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FILE, and FILE has to be there")
    return name, Path(path)


def read_rows(
    path: Path, text: str, label: str, limit: int | None
) -> tuple[list[str], NDArray[np.int64]]:
    rows = read_table(path)[:limit]
    return [row[text] for row in rows], np.array([int(row[label]) for row in rows])


def read_texts(path: Path, column: str) -> list[str]:
    return [row[column] for row in read_table(path)]


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        if path.suffix == ".tsv":
            return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(stream))


def read_calibration(arguments: argparse.Namespace) -> Dataset | None:
    """Return rows spread over the calibration file, None without one."""
    if arguments.calibration is None:
        return None
    texts = read_texts(arguments.calibration, arguments.calibration_text or arguments.text)
    rows = np.random.default_rng(SEED).permutation(len(texts))[:CALIBRATION_ROWS]
    chosen = tuple(texts[row] for row in rows)
    return Dataset("calibration", chosen, None, rows, arguments.calibration.name)


def make_models(model: TorchModel, folder: Path, calibration: Dataset | None) -> Models:
    """Write every file of the comparison to `folder`, the plain float one first."""
    rewritten = export_onnx(model, folder / "rewritten.onnx", opset=OPSET, threads=1)
    fused = export_fused(model, folder / "fused.onnx", opset=20)
    models = {
        "fp32": export_onnx(model, folder / "fp32.onnx", fuse=False, threads=1),
        "fp32, exporter's fusions": fused,
        "fp32, rewritten": rewritten,
    }
    for number, (name, step) in enumerate(int8_passes(calibrated=calibration is not None).items()):
        lent = context(model, folder / f"int8_{number}", calibration)
        models[name] = apply_pass(step, rewritten, lent)
    peers = {
        "transformers": OnnxRuntimeDynamicConfig(),
        "transformers, per channel": OnnxRuntimeDynamicConfig(per_channel=True),
        "transformers, 7-bit": OnnxRuntimeDynamicConfig(reduce_range=True),
    }
    for name, config in peers.items():
        quantizer = OnnxRuntimeQuantizer(config)
        program = quantizer.quantize(onnx_ir.load(fused.path), {}, ExportFormat.ONNX)
        path = folder / f"{name}.onnx"
        onnx_ir.save(program, path)
        models[name] = OnnxModel(path, threads=1)
    return models


def int8_passes(*, calibrated: bool) -> dict[str, OnnxPass]:
    """Return the passes of the comparison; without calibration rows, those that need none."""
    passes: dict[str, OnnxPass] = {
        "per_tensor": QuantizeDynamic.model_validate({"activations": "per_tensor"}),
        "per_token": QuantizeDynamic.model_validate({}),
        "per_token, smooth": QuantizeDynamic.model_validate({"smooth": True}),
    }
    if not calibrated:
        return passes
    for method in ("minmax", "percentile", "mse", "entropy"):
        passes[f"static, {method}"] = QuantizeStatic.model_validate({"method": method})
    passes["static, smooth"] = QuantizeStatic.model_validate({"smooth_alpha": 0.5})
    passes["mixed"] = QuantizeAuto.model_validate({"forms": ("mixed",)})
    passes["mixed, smooth"] = QuantizeAuto.model_validate(
        {"forms": ("mixed",), "smooth_alpha": 0.5}
    )
    passes["auto"] = QuantizeAuto.model_validate({"smooth_alpha": 0.5})
    return passes


def export_fused(model: TorchModel, path: Path, opset: int | None) -> OnnxModel:
    """Return the export without this package's rewrites; with an `opset`, fused for the CPU."""
    module = "compressor.export.to_onnx"
    fusions = {} if opset is None else {"cpu": "cpu"}
    with (
        patch(f"{module}.optimize_for_cpu", lambda *_, **__: None),
        patch.dict(f"{module}._FUSIONS", fusions),
    ):
        return export_onnx(model, path, opset=opset, threads=1)


def context(model: TorchModel, work_dir: Path, calibration: Dataset | None = None) -> PassContext:
    return PassContext(
        splits={} if calibration is None else {"calibration": calibration},
        load_baseline=lambda: model,
        device=torch.device("cpu"),
        seed=SEED,
        work_dir=work_dir,
        progress=SILENT,
        note=lambda _: None,
    )


def encode(model: TorchModel, texts: Sequence[str]) -> Batch:
    return model.task.encode(model.preprocessor, texts)


def predict(onnx_model: OnnxModel, model: TorchModel, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return logits in the order of `texts`, computed in batches of similar length."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = [
        onnx_model.predict(encode(model, [texts[row] for row in order[start : start + BATCH_SIZE]]))
        for start in starts(order)
    ]
    logits = np.concatenate(found)
    restored = np.empty_like(logits)
    restored[order] = logits
    return restored


def starts(rows: Sequence[object]) -> range:
    return range(0, len(rows), BATCH_SIZE)


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """Return `number` of `items`, or all if there are fewer, at equal distances."""
    positions = np.linspace(0, len(items) - 1, min(number, len(items)))
    return [items[round(position)] for position in positions]


def timed_inputs(model: TorchModel, texts: Sequence[str]) -> tuple[list[Batch], list[Batch]]:
    """Return single texts and whole batches to time, both spread over the lengths."""
    by_length = sorted(texts, key=len)
    singles = [[text] for text in spread(by_length, TIMED_TEXTS)]
    chunks = [by_length[start : start + BATCH_SIZE] for start in starts(by_length)]
    batches = spread([chunk for chunk in chunks if len(chunk) == BATCH_SIZE], TIMED_BATCHES)
    return [encode(model, item) for item in singles], [encode(model, item) for item in batches]


def time_in_turns(
    models: Models, batches: Sequence[Batch], rounds: int
) -> Mapping[str, NDArray[np.float64]]:
    """Return each model's milliseconds of CPU time for all `batches`, one number a round.

    Every session computes on the one thread that calls it, so neighbours on the machine take turns
    with it and are not counted.
    """
    random = np.random.default_rng(SEED)
    elapsed_ms = {name: np.zeros(rounds) for name in models}
    names = list(models)
    for round_number in range(-1, rounds):  # the first warms up and does not count
        for batch in batches:
            for index in random.permutation(len(names)):
                start = time.thread_time_ns()
                models[names[index]].predict(batch)
                if round_number >= 0:
                    spent_ms = (time.thread_time_ns() - start) / 1e6
                    elapsed_ms[names[index]][round_number] += spent_ms
    return elapsed_ms


def compare(
    models: Models,
    logits: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    timings: Iterable[Mapping[str, NDArray[np.float64]]],
) -> list[dict[str, Any]]:
    """Return a row for each model, beside the first one: MB, percent, and ratios of speed."""
    first = next(iter(models))
    timings = list(timings)
    rows = []
    for name, model in models.items():
        predictions, expected = (logits[key].argmax(axis=1) for key in (name, first))
        error = np.sqrt(np.mean(np.square(logits[name] - logits[first])))
        row = {
            "name": name,
            "megabytes": model.size().bytes_on_disk / 1e6,
            "accuracy": 100 * float(np.mean(predictions == labels)),
            "changed_percent": 100 * float(np.mean(predictions != expected)),
            "logit_rms": float(error),
        }
        for size, item in zip((1, BATCH_SIZE), timings, strict=True):
            middle, low, high = np.percentile(item[first] / item[name], (50, 10, 90))
            spread = {"median": float(middle), "low": float(low), "high": float(high)}
            row[f"speed_batch_{size}"] = spread
        rows.append(row)
    return rows


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    print("model                         MB   accuracy  changed  logit RMS   "
          "speed, batch 1         speed, batch 32")  # fmt: skip
    for row in rows:
        speeds = [row[f"speed_batch_{size}"] for size in (1, BATCH_SIZE)]
        print(
            f"{row['name']:26} {row['megabytes']:6.2f}  {row['accuracy']:7.2f}%"
            f"  {row['changed_percent']:6.2f}%  {row['logit_rms']:9.4f}   "
            + "   ".join(
                "{median:5.2f} ({low:4.2f} - {high:4.2f})".format(**item) for item in speeds
            )
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
