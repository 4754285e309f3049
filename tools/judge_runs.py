#!/usr/bin/env python3
"""Judge finished runs of a text classifier against the exporter's plain float32 file.

    tools/judge_runs.py RUN [RUN ...] --apart FILE [FILE ...] --text COLUMN --label COLUMN
        --timed FILE [--timed-text COLUMN] --json docs/results/NAME.json [--rounds 9]

A RUN is the output folder of a recipe; all are of one checkpoint and kept its vocabulary. For each
it is told how much smaller and faster the artifact is than the checkpoint's plain export, and for
each --apart, a .tsv (unquoted) or .csv file with class numbers, what it lost there: points of
accuracy with what so many rows can tell (95%, paired), the share of predictions that changed, and
the KL divergence from the original's predictions at temperature 2, in thousandths of a nat. Rows
are read by nothing else here, so whether they are unseen is what the recipes made of them. What the
run itself proved on its certification rows stands beside it.

A speed is the CPU time of the plain export over the artifact's, on one thread of ONNX Runtime, with
texts of --timed one by one and in batches of 32, spread over its lengths. Models take turns, each
with all texts one after the other, as a service that has one model does: where they alternate text
by text, the larger one takes the caches from the smaller. Told are the median over the rounds, and
the 10th and 90th percentile.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from compare_int8 import (
    BATCH_SIZE,
    Models,
    predict,
    read_rows,
    read_texts,
    timed_inputs,
)
from divergence import kl_divergence
from numpy.typing import NDArray
from results import write_results

from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.tasks import Batch

_PLAIN = "plain"
_Z = 1.96  # of 95%
_Floats = NDArray[np.float32]


def main() -> int:
    arguments = _arguments()
    reports = [json.loads((run / "report.json").read_text("utf-8")) for run in arguments.runs]
    checkpoints = {report["source_checkpoint"] for report in reports}
    if len(checkpoints) != 1:
        raise SystemExit(f"runs are of {len(checkpoints)} checkpoints, and are judged beside one")
    model = load_checkpoint(checkpoints.pop())
    for run in arguments.runs:
        _require_same_tokens(run, model)
    files = {
        path: read_rows(path, arguments.text, arguments.label, None) for path in arguments.apart
    }
    with tempfile.TemporaryDirectory() as folder:
        plain = export_onnx(model, Path(folder) / "model.onnx", opset=20, fuse=False, threads=1)
        models: Models = {_PLAIN: plain}
        for run in arguments.runs:
            models[run.name] = OnnxModel(run / "artifact" / "model.onnx", threads=1)
        texts = read_texts(arguments.timed, arguments.timed_text or arguments.text)
        timed = [times(models, group, arguments.rounds) for group in timed_inputs(model, texts)]
        losses = {path.name: dict(_losses(models, model, *rows)) for path, rows in files.items()}
        rows = [
            {
                "run": run.name,
                **dict(_of_run(report)),
                "times_smaller": plain.size().bytes_on_disk / models[run.name].size().bytes_on_disk,
                "speeds": dict(_speeds(run.name, timed)),
                "apart": {name: found[run.name] for name, found in losses.items()},
            }
            for run, report in zip(arguments.runs, reports, strict=True)
        ]
    about = {
        "clock": "CPU time of one thread",
        "rounds": arguments.rounds,
        "timed": arguments.timed.name,
    }
    write_results(arguments.json, rows, about=about)
    print(json.dumps(rows, indent=1))
    return 0


def _require_same_tokens(run: Path, model: TorchModel) -> None:
    """Exit where an artifact has another tokenizer than the checkpoint: one is read with here."""
    with tempfile.TemporaryDirectory() as folder:
        model.preprocessor.save_pretrained(folder)
        own = json.loads((Path(folder) / "tokenizer.json").read_text("utf-8"))
    theirs = json.loads((run / "artifact" / "tokenizer.json").read_text("utf-8"))
    if own["model"] != theirs["model"]:
        raise SystemExit(f"{run}: its vocabulary is another than the checkpoint's")


def _of_run(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a report says of its run: seed, time, bytes, scores and what was proven."""
    before, after, proof = report["baseline"], report["final"], report["certificate"]
    yield "seed", report["environment"]["seed"]
    yield "tries", [len(step["tries"]) for step in report["passes"]]
    yield "minutes", report["seconds"] / 60
    yield "megabytes", after["size"]["bytes_on_disk"] / 1e6
    yield "search_points_lost", 100 * (before["score"]["value"] - after["score"]["value"])
    if proof is not None:
        yield "verdict", proof["verdict"]
        yield "proven_points", 100 * proof["upper_bound"]


def _losses(
    models: Models, model: TorchModel, texts: Sequence[str], labels: NDArray[np.int64]
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield for each artifact what it lost on these rows."""
    logits = {name: predict(item, model, texts) for name, item in models.items()}
    original = logits.pop(_PLAIN)
    for name, found in logits.items():
        yield name, loss_of(original, found, labels)


def loss_of(original: _Floats, found: _Floats, labels: NDArray[np.int64]) -> Mapping[str, float]:
    """Return what predictions lost, by logits of shape `(rows, classes)` before and after."""
    before, after = original.argmax(axis=1), found.argmax(axis=1)
    lost = (before == labels).astype(float) - (after == labels)
    return {
        "rows": len(labels),
        "baseline": 100 * float(np.mean(before == labels)),
        "points_lost": 100 * float(lost.mean()),
        "points_either_way": 100 * _Z * float(lost.std(ddof=1)) / len(lost) ** 0.5,
        "changed_percent": 100 * float(np.mean(before != after)),
        "kl_thousandths": 1000 * kl_divergence(original, found),
    }


def times(
    models: Models, batches: Sequence[Batch], rounds: int
) -> Mapping[str, NDArray[np.float64]]:
    """Return each model's milliseconds of CPU time for all `batches`, one number a round."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    elapsed_ms = {name: np.zeros(rounds) for name in models}
    sessions = {
        name: onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
        for name, model in models.items()
    }
    for number in range(rounds):
        for name, session in sessions.items():
            read = [item.name for item in session.get_inputs()]
            for turn in range(3):  # the first finds the caches full of another model
                start = time.process_time_ns()
                for batch in batches:
                    session.run(None, {key: batch[key] for key in read})
                if turn:
                    elapsed_ms[name][number] += (time.process_time_ns() - start) / 1e6
    return elapsed_ms


def _speeds(
    name: str, timed: Sequence[Mapping[str, NDArray[np.float64]]]
) -> Iterator[tuple[str, Mapping[str, float]]]:
    for size, elapsed in zip((1, BATCH_SIZE), timed, strict=True):
        low, middle, high = np.percentile(elapsed[_PLAIN] / elapsed[name], (10, 50, 90))
        found = {"median": float(middle), "low": float(low), "high": float(high)}
        yield f"batch {size}", found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--apart", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--text", required=True, help="column of the texts")
    parser.add_argument("--label", required=True, help="column of the labels, as class numbers")
    parser.add_argument("--timed", type=Path, required=True, help="file of texts to time with")
    parser.add_argument("--timed-text", help="its column, if not the same as --text")
    parser.add_argument("--rounds", type=int, default=9, help="of each timing")
    parser.add_argument("--json", type=Path, required=True, help="results file to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
