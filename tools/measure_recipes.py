"""Run a recipe for several seeds and measure its artifacts on rows that nothing in the run read.

    tools/measure_recipes.py CHECKPOINT --recipe FILE --train FILE --search FILE --text COLUMN
        --json docs/results/NAME.json [--search-text COLUMN] [--seeds 0 1 2] [--held-out 4000]

Full rows of the train file are set aside, with every row that is a part of one of them; the run
trains and calibrates on the others. Reported are, for each seed: how the run ended, size, accuracy
on the search file (which the gates read), the share of the rows set aside on which the artifact
predicts another class than the checkpoint, and speed. A checkpoint that was fine-tuned on the whole
train file has seen the rows set aside; the compression has not.

Speed is the CPU time of the run's own export of the untouched checkpoint over that of the artifact,
in ONNX Runtime on one thread, at the real lengths of rows set aside, the two taking turns; median
over the rounds, 10th and 90th percentile. The command exits with 1 when a run ended without an
artifact.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from classifier_rows import new_parser, quieten, set_aside
from compare_int8 import predict, read_table, timed_inputs
from results import write_results

from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.tasks import Batch

ROUNDS = 15
_CONFIDENCE = 1.96  # standard errors on each side, 95%


def main() -> int:
    arguments = read_arguments()
    quieten()
    texts = [row[arguments.text] for row in read_table(arguments.train)]
    held, rest = set_aside(texts, arguments.held_out)
    model = load_checkpoint(arguments.checkpoint)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "train.tsv", arguments.train, rest)
        rows = [measure(arguments, seed, folder, model, [texts[row] for row in held])
                for seed in arguments.seeds]  # fmt: skip
    about = {
        "recipe": arguments.recipe.name,
        "search_rows": len(read_table(arguments.search)),
        "rows_set_aside": len(held),
        "clock": "CPU time of one thread",
        "rounds": ROUNDS,
    }
    write_results(arguments.json, rows, about=about)
    print(json.dumps(rows, indent=1))
    return int(any(row["exit_code"] != 0 for row in rows))


def read_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, train="rows to train and calibrate on, .tsv without quotes")
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--json", required=True, type=Path, help="results file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", type=int, default=4000, help="train rows that only judge")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as the CLI's")
    arguments = parser.parse_args()
    arguments.train, arguments.search = Path(arguments.train), Path(arguments.search)
    return arguments


def write_rows(path: Path, source: Path, rows: Iterable[int]) -> None:
    """Write the header of an unquoted file and some of its rows."""
    lines = source.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([lines[0], *(lines[row + 1] for row in rows), ""]), encoding="utf-8")


def measure(
    arguments: argparse.Namespace, seed: int, folder: Path, model: TorchModel, held: list[str]
) -> dict[str, Any]:
    """Carry out the recipe with `seed`, and return what its artifact is like."""
    run = folder / f"run-{seed}"
    settings = {
        "seed": seed,
        "model.checkpoint": Path(arguments.checkpoint).resolve(),
        "data.train.path": folder / "train.tsv",
        "data.search.path": arguments.search.resolve(),
        "data.text": arguments.text,
        "data.search.text": arguments.search_text or arguments.text,
        "data.label": arguments.label,
    }
    given = [f"{key}={value}" for key, value in settings.items()] + arguments.set
    command = [
        sys.executable,
        "-m",
        "compressor",
        "run",
        str(arguments.recipe),
        "--output",
        str(run),
    ]
    started, before_s = time.monotonic(), children_cpu_s()
    code = subprocess.run([*command, *(word for item in given for word in ("--set", item))],
                          stdout=subprocess.DEVNULL, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode  # fmt: skip
    facts = {
        "seed": seed,
        "exit_code": code,
        "cpu_minutes": round((children_cpu_s() - before_s) / 60, 1),
        "wall_minutes": round((time.monotonic() - started) / 60, 1),
    }
    if code != 0:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        return {**facts, "reason": report["reason"]}
    return {**facts, **of_artifact(run, model, arguments, held)}


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_artifact(
    run: Path, model: TorchModel, arguments: argparse.Namespace, held: list[str]
) -> dict[str, Any]:
    """Return size, accuracy, changed predictions and speed of a finished run's artifact."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    # The artifact brings its own tokenizer, which trimming may have changed.
    shipped = TorchModel(model.module, model.task.load_preprocessor(run / "artifact"), model.task)
    before = OnnxModel(run / "baseline" / "model.onnx", threads=1)
    after = OnnxModel(run / "artifact" / "model.onnx", threads=1)
    column = arguments.search_text or arguments.text
    search = read_table(arguments.search)
    labels = np.array([int(row[arguments.label]) for row in search])
    texts = [row[column] for row in search]
    right_before = predict(before, model, texts).argmax(axis=1) == labels
    right_after = predict(after, shipped, texts).argmax(axis=1) == labels
    answers_before = predict(before, model, held).argmax(axis=1)
    answers_after = predict(after, shipped, held).argmax(axis=1)
    lost = 100 * (right_before.astype(float) - right_after)
    return {
        "reported_accuracy": 100 * report["final"]["score"]["value"],
        "baseline_accuracy": 100 * float(right_before.mean()),
        "accuracy": 100 * float(right_after.mean()),
        "points_lost": float(lost.mean()),
        "points_lost_within": _CONFIDENCE * float(lost.std(ddof=1) / np.sqrt(len(lost))),
        "changed_percent": 100 * float(np.mean(answers_before != answers_after)),
        "baseline_megabytes": before.size().bytes_on_disk / 1e6,
        "megabytes": after.size().bytes_on_disk / 1e6,
        "shape": shape_of(run / "checkpoint"),
        "tries": [len(step["tries"]) for step in report["passes"]],
        **speeds(before, after, model, shipped, held),
    }


def shape_of(checkpoint: Path) -> list[list[int]]:
    """Return heads and neurons of each layer, empty where nothing was pruned."""
    path = checkpoint / "structure.json"
    if not path.is_file():
        return []
    layers = json.loads(path.read_text(encoding="utf-8"))["layers"]
    return [[layer["num_heads"], layer["ffn_neurons"]] for layer in layers]


def speeds(
    before: OnnxModel, after: OnnxModel, model: TorchModel, shipped: TorchModel, held: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the ratios of CPU time at batch 1 and 32: median, 10th and 90th percentile."""
    found = {}
    own = zip(timed_inputs(model, held), timed_inputs(shipped, held), strict=True)
    for size, (originals, batches) in zip((1, 32), own, strict=True):
        ratios = [ratio(before, after, originals, batches) for _ in range(ROUNDS + 1)][1:]
        middle, low, high = np.percentile(ratios, (50, 10, 90))  # the first round warmed up
        spread = {"median": float(middle), "low": float(low), "high": float(high)}
        found[f"speed_batch_{size}"] = spread
    return found


def ratio(
    before: OnnxModel, after: OnnxModel, originals: Sequence[Batch], batches: Sequence[Batch]
) -> float:
    """Return how many times the CPU time of `after` `before` takes, batch by batch in turns."""
    spent_ns = [0, 0]
    for pair in zip(originals, batches, strict=True):
        for place, (model, batch) in enumerate(zip((before, after), pair, strict=True)):
            start = time.process_time_ns()
            model.predict(batch)
            spent_ns[place] += time.process_time_ns() - start
    return spent_ns[0] / spent_ns[1]


if __name__ == "__main__":
    sys.exit(main())
