"""Compare how weights are stored: bytes, accuracy, changed predictions, logit error and speed.

Exports the checkpoint for the CPU, stores it with tables in float, int8 and int4, products in int8
(`quantize_dynamic` with `smooth`) and in blocks of 8 and 4 bits (`quantize_weights`), with each
rounding, and prints one table. Every model predicts the same rows in the same batches of 32, sorted
by length. For the speeds the models take turns, in shuffled order, on one thread, and its CPU time
counts, so that other processes disturb little; a speed is the time of the float graph over the
model's, within one round, and the table gives the median over the rounds.

Usage: tools/compare_weights.py CHECKPOINT --data FILE --text COLUMN --label COLUMN
       --calibration FILE --calibration-text COLUMN [--drop-unreachable]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from compare_int8 import (
    BATCH_SIZE,
    CALIBRATION_ROWS,
    SEED,
    Models,
    compare,
    context,
    predict,
    print_table,
    read_rows,
    read_texts,
    time_in_turns,
    timed_inputs,
)
from results import write_results

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.machine.environment import describe_environment
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import apply_pass
from compressor.passes.quantize.settings import IntegerSettings, QuantizeDynamic, QuantizeWeights
from compressor.passes.trim_vocabulary.settings import TrimVocabulary

INT8 = {"kind": "quantize_dynamic", "smooth": True, "rows": CALIBRATION_ROWS}
BITS = {"kind": "quantize_weights", "rows": CALIBRATION_ROWS}
GPTQ = {"rounding": "gptq"}
REFINED = {"embeddings": "int4", "refined_rows": 750}
FORMS: dict[str, dict[str, object]] = {
    "int8, float tables": {**INT8, "embeddings": False},
    "int8": INT8,
    "int8, gptq": {**INT8, **GPTQ},
    "int8, biases corrected": {**INT8, "bias_correction": True},
    "int8, int4 tables": {**INT8, "embeddings": "int4"},
    "int8, int4 once per text": {**INT8, "once_per_text": "int4"},
    "int8, int4 tables, 750 rows": {**INT8, **REFINED},
    "the same, int4 once per text": {**INT8, **REFINED, "once_per_text": "int4"},
    "8 bits": {**BITS, "bits": 8},
    "4 bits, float tables": {**BITS, "embeddings": False},
    "4 bits": BITS,
    "4 bits, gptq": {**BITS, **GPTQ},
    "4 bits, gptq, biases": {**BITS, **GPTQ, "bias_correction": True},
    "4 bits, block 128": {**BITS, "block_size": 128},
    "4 bits, block 128, gptq": {**BITS, **GPTQ, "block_size": 128},
    "4 bits, int4 tables": {**BITS, "embeddings": "int4"},
    "4 bits, int4 tables, gptq": {**BITS, **GPTQ, "embeddings": "int4"},
}
PASSES: dict[str, type[IntegerSettings]] = {
    "quantize_dynamic": QuantizeDynamic,
    "quantize_weights": QuantizeWeights,
}


def main() -> int:
    arguments = read_arguments()
    texts, labels = read_rows(arguments.data, arguments.text, arguments.label, arguments.rows)
    calibration = read_texts(arguments.calibration, arguments.calibration_text)
    model = load_checkpoint(arguments.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.drop_unreachable:
            trimming = TrimVocabulary.model_validate({"drop": "unreachable"})
            model = apply_pass(trimming, model, context(model, Path(folder) / "trimming"))
        models = make_models(model, calibration, Path(folder))
        logits = {name: predict(item, model, texts) for name, item in models.items()}
        singles, batches = timed_inputs(model, texts)
        speeds = [time_in_turns(models, group, arguments.rounds) for group in (singles, batches)]
        found = compare(models, logits, labels, speeds)
    print_table(found)
    facts = describe_environment(seed=SEED, device=torch.device("cpu"), threads=1)
    print(
        f"\n{len(texts)} rows of {arguments.data.name}, calibrated on {CALIBRATION_ROWS} of "
        f"{arguments.calibration.name}; {arguments.rounds} rounds of {len(singles)} single texts "
        f"and of {len(batches)} batches of {BATCH_SIZE}, CPU time of one thread; "
        f"{facts['cpu']['model']}, onnxruntime {onnxruntime.__version__}"
    )
    if arguments.json is not None:
        about = {
            "rows": len(texts),
            "rounds": arguments.rounds,
            "clock": "CPU time of one thread",
            "calibration_rows": CALIBRATION_ROWS,
            "unreachable_pieces_dropped": arguments.drop_unreachable,
        }
        write_results(arguments.json, found, about=about)
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a text classifier")
    parser.add_argument("--data", type=Path, required=True, help=".tsv (unquoted) or .csv file")
    parser.add_argument("--text", required=True, help="column of the texts")
    parser.add_argument("--label", required=True, help="column of the labels, as class numbers")
    parser.add_argument("--calibration", type=Path, required=True, help="file of unlabelled texts")
    parser.add_argument("--calibration-text", required=True, help="its column of the texts")
    parser.add_argument("--rows", type=int, help="read only so many rows of --data")
    parser.add_argument(
        "--drop-unreachable",
        action="store_true",
        help="take the pieces out first that the tokens of no text contain",
    )
    parser.add_argument("--rounds", type=int, default=15, help="of each timing")
    parser.add_argument("--json", type=Path, help="results file to write, too")
    return parser.parse_args()


def make_models(model: TorchModel, calibration: Sequence[str], folder: Path) -> Models:
    """Write every file of the comparison to `folder`, the float one first."""
    rows = Dataset(
        "calibration", tuple(calibration), None, np.arange(len(calibration)), "calibration"
    )
    exported = export_onnx(model, folder / "fp32.onnx", threads=1)
    models = {"fp32": exported}
    for name, form in FORMS.items():
        lent = context(model, folder / name, rows)
        settings = PASSES[str(form["kind"])].model_validate(form)
        models[name] = apply_pass(settings, exported, lent)
    return models


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
