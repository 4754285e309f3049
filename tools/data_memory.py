"""Measure how much memory a run takes for few and for many rows.

Writes made-up rows of about ten tokens, csv, JSON lines or parquet, or with `--words` lists of
words and of tags, and reads them as the train split of a tiny random model, in a process of its
own for each number of rows. There the split is read and described as a run does it, tokenized,
evaluated in ONNX Runtime (to its last row; of words the first 9,000), trained on for some steps of
a shuffled epoch, and calibrated on. Prints the peak of each part above what was resident before
the first, as Linux counts it (VmHWM, pages of files in maps included), and seconds. Fails when the
largest peaks of the fewest and of the most rows differ by more than 150 MB. The cache begins
empty.

Usage: tools/data_memory.py [--rows N N ...] [--format csv|jsonl|parquet] [--words]
           [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from calibration_memory import peak_mb, reset_peak
from compare_int8 import context
from random_models import SPECIAL, random_checkpoint
from results import write_results

from compressor.data import DataSettings, SplitSource, describe_splits, load_splits
from compressor.data.tokens import encoded
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint
from compressor.passes.finetune.apply import apply as finetune
from compressor.passes.finetune.settings import Finetune
from compressor.passes.quantize.calibration import observe
from compressor.passes.quantize.quantization import find_weights
from compressor.passes.quantize.settings import QuantizeStatic
from compressor.verify.evaluation import evaluate

MOST_MB = 150
SHAPE: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
}
STEPS = 200
CALIBRATION_ROWS = 512
TAGS = ("O", "B-PER", "I-PER")
JUDGED_DOCUMENTS = 9_000  # what a model says of each of their tokens is kept until it is scored
_AT_ONCE = 50_000  # rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 2_000_000])
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"), default="csv")
    parser.add_argument("--words", action="store_true", help="rows are words with a tag each")
    parser.add_argument("--output", type=Path, help="results file to write")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a measuring process
    arguments = parser.parse_args()
    if arguments.words and arguments.format == "csv":
        parser.error("--words: lists of words lie in jsonl or parquet; give --format")
    if arguments.folder is not None:
        print(json.dumps(measure(arguments.folder, arguments.rows[0], arguments.format)))
        return 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made: dict[str, Any] = {}
        if arguments.words:
            made = {"head": "TokenClassification", "labels": TAGS}
        random_checkpoint(folder / "checkpoint", SHAPE, **made)
        export_onnx(load_checkpoint(folder / "checkpoint"), folder / "model.onnx", threads=1)
        found = {rows: _in_own_process(folder, rows, arguments) for rows in arguments.rows}
    for rows, parts in found.items():
        print(f"{rows:,} rows")
        for name, item in parts.items():
            print(f"  {name:12} {item['seconds']:8.1f} s {item['peak_mb']:8.1f} MB")
    peaks = {rows: max(item["peak_mb"] for item in parts.values()) for rows, parts in found.items()}
    difference = peaks[max(peaks)] - peaks[min(peaks)]
    print(f"the peaks of {min(peaks):,} and {max(peaks):,} rows differ by {difference:.0f} MB")
    if arguments.output is not None:
        rows_of = [
            {"rows": rows, "part": name, "peak_mb": round(item["peak_mb"], 1)}
            for rows, parts in found.items()
            for name, item in parts.items()
        ]
        about = {
            "format": arguments.format,
            "difference_mb": round(difference),
            "steps": STEPS,
            "calibration_rows": CALIBRATION_ROWS,
        }
        write_results(arguments.output, rows_of, about=about)
    return int(difference > MOST_MB)


def _in_own_process(
    folder: Path, rows: int, arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    path = folder / f"rows.{arguments.format}"
    if arguments.words:
        write_words(path, rows)
    else:
        write_rows(path, rows)
    given = ["--folder", str(folder), "--rows", str(rows), "--format", arguments.format]
    cache = {"COMPRESSOR_CACHE": str(folder / f"cache-{rows}")}
    done = subprocess.run(
        [sys.executable, __file__, *given],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **cache},
    )
    result: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_rows(path: Path, count: int) -> None:
    """Write made-up rows of 4 to 12 words that the tokenizer knows, with labels."""
    random = np.random.default_rng(0)
    words = [f"w{index}" for index in range(SHAPE["vocab_size"] - len(SPECIAL))]
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())])
    writer = pq.ParquetWriter(path, schema) if path.suffix == ".parquet" else None
    with path.open("a" if writer else "w", encoding="utf-8") as stream:
        if path.suffix == ".csv":
            stream.write("text,label\n")
        for start in range(0, count, _AT_ONCE):
            size = min(_AT_ONCE, count - start)
            chosen = random.choice(words, size=(size, 12)).tolist()
            lengths = random.integers(4, 13, size=size).tolist()
            labels = random.integers(0, 2, size=size).tolist()
            texts = [" ".join(row[:end]) for row, end in zip(chosen, lengths, strict=True)]
            rows = zip(texts, labels, strict=True)
            if writer is not None:
                writer.write_table(pa.table({"text": texts, "label": labels}, schema=schema))
            elif path.suffix == ".csv":
                stream.writelines(f"{text},{label}\n" for text, label in rows)
            else:
                stream.writelines(
                    json.dumps({"text": text, "label": label}) + "\n" for text, label in rows
                )
    if writer is not None:
        writer.close()


def write_words(path: Path, count: int) -> None:
    """Write made-up documents of 4 to 12 words that the tokenizer knows, with tags."""
    random = np.random.default_rng(0)
    words = np.array([f"w{index}" for index in range(SHAPE["vocab_size"] - len(SPECIAL))])
    schema = pa.schema([(name, pa.list_(pa.string())) for name in ("text", "label")])
    writer = pq.ParquetWriter(path, schema) if path.suffix == ".parquet" else None
    with path.open("a" if writer else "w", encoding="utf-8") as stream:
        for start in range(0, count, _AT_ONCE):
            ends = random.integers(4, 13, size=min(_AT_ONCE, count - start)).tolist()
            documents = [
                {
                    "text": random.choice(words, size=end).tolist(),
                    "label": random.choice(np.array(TAGS[:2]), size=end).tolist(),
                }
                for end in ends
            ]
            if writer is not None:
                writer.write_table(pa.Table.from_pylist(documents, schema=schema))
            else:
                stream.writelines(json.dumps(document) + "\n" for document in documents)
    if writer is not None:
        writer.close()


def measure(folder: Path, num_rows: int, file_format: str) -> dict[str, dict[str, float]]:
    """Do once what a run does with its rows, and return peak and seconds of each part."""
    model = load_checkpoint(folder / "checkpoint")
    graph = OnnxModel(folder / "model.onnx", threads=1)
    task, preprocessor = model.task, model.preprocessor
    metric = task.metrics[0].name
    settings = DataSettings(train=SplitSource(path=folder / f"rows.{file_format}"))
    found: dict[str, dict[str, float]] = {}
    graph.predict(task.encode(preprocessor, ["w1 w2"]))  # opens it
    reset_peak()
    before = peak_mb()

    def part(name: str, work: Callable[[], Any]) -> Any:
        reset_peak()
        started = time.monotonic()
        result = work()
        seconds = time.monotonic() - started
        found[name] = {"seconds": seconds, "peak_mb": peak_mb() - before}
        return result

    def read() -> Any:
        splits = load_splits(
            settings,
            label_names=model.labels,
            columns=task.columns(metric),
            needed=("train", "calibration"),
            seed=0,
        )
        describe_splits(splits)
        return splits

    splits = part("read", read)
    train = splits["train"]
    assert len(train) + CALIBRATION_ROWS == num_rows
    part("tokenize", lambda: encoded(task, preprocessor, train))
    judged = (
        train
        if task.per_token is False
        else replace(
            train,
            examples=train.examples[:JUDGED_DOCUMENTS],
            labels=None if train.labels is None else train.labels[:JUDGED_DOCUMENTS],
            rows=train.rows[:JUDGED_DOCUMENTS],
        )
    )
    part("evaluate", lambda: evaluate(graph, task, preprocessor, judged, metric))
    with tempfile.TemporaryDirectory() as place:
        lent = context(model, Path(place), splits["calibration"])
        static = QuantizeStatic.model_validate({"min_elements": 0, "rows": CALIBRATION_ROWS})
        part("calibrate", lambda: observe(find_weights(static, graph, lent)))
        lent.splits["train"] = train
        tuning = Finetune.model_validate({"epochs": 1000, "max_steps": STEPS, "batch_size": 32})
        part("train", lambda: finetune(tuning, model, lent))
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
