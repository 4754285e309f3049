"""Measure how much memory calibration takes for few and for many rows.

Exports a checkpoint, then observes the activations of all its products with each number of rows, in
a process of its own. Prints the resident memory before calibration, when the checkpoint, the graph
and all texts are loaded, and the peak from there on, as Linux counts it (VmHWM, set back before).

Usage: tools/calibration_memory.py CHECKPOINT --data FILE --text COLUMN [--rows N N ...]
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from compare_int8 import context, read_texts

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint
from compressor.passes.quantize.calibration import observe
from compressor.passes.quantize.quantization import find_weights
from compressor.passes.quantize.settings import QuantizeStatic


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a text classifier")
    parser.add_argument("--data", type=Path, required=True, help=".tsv (unquoted) or .csv file")
    parser.add_argument("--text", required=True, help="column of the texts")
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)  # of a measuring process
    arguments = parser.parse_args()
    if arguments.graph is not None:
        print(json.dumps(measure(arguments)))
        return 0
    texts = len(read_texts(arguments.data, arguments.text))
    if texts < max(arguments.rows):
        parser.error(f"{arguments.data} has {texts} rows; ask for at most as many with --rows")
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        export_onnx(load_checkpoint(arguments.checkpoint), graph, threads=1)
        found = [_in_own_process(graph, rows) for rows in arguments.rows]
    print("  rows   tokens  seconds  before, MB  peak, MB")
    for rows, item in zip(arguments.rows, found, strict=True):
        print(
            f"{rows:6} {item['tokens']:8} {item['seconds']:8.1f} {item['before_mb']:11.1f} "
            f"{item['peak_mb']:9.1f}"
        )
    peaks = [item["peak_mb"] for item in found]
    print(f"\nthe largest peak is {max(peaks) / min(peaks):.3f} times the smallest")
    return 0


def _in_own_process(graph: Path, rows: int) -> dict[str, float]:
    given = [*sys.argv, "--graph", str(graph), "--rows", str(rows)]
    done = subprocess.run([sys.executable, *given], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Calibrate once, and return what it took."""
    [num_rows] = arguments.rows
    texts = read_texts(arguments.data, arguments.text)
    model = load_checkpoint(arguments.checkpoint)
    split = Dataset("calibration", tuple(texts), None, np.arange(len(texts)), arguments.data.name)
    with tempfile.TemporaryDirectory() as folder:
        lent = context(model, Path(folder), split)
        settings = QuantizeStatic.model_validate({"min_elements": 0, "rows": num_rows})
        quantization = find_weights(settings, OnnxModel(arguments.graph, threads=1), lent)
        reset_peak()
        before = peak_mb()
        started = time.monotonic()
        found = observe(quantization)
        seconds = time.monotonic() - started
    tokens = max(item.num_tokens for item in found.statistics.values())
    return {
        "tokens": tokens,
        "seconds": seconds,
        "before_mb": before,
        "peak_mb": peak_mb(),
    }


def reset_peak() -> None:
    """Let the peak of this process start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """Return the largest resident memory of this process since the peak was set back."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
