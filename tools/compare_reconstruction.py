"""Measure what pruning by reconstruction loses, on rows that neither model has seen.

    tools/compare_reconstruction.py CHECKPOINT --train FILE --search FILE --text COLUMN
        --apart FILE ... --json docs/results/NAME.json [--ratios 0.5 0.6 0.7] [--seeds 0 1 2]
        [--set refit_inputs=true ...]

No label is read but to count what is lost, and nothing is trained. CHECKPOINT was trained on the
rows of --train alone, which are calibrated on; a seed chooses which of them. The files --apart hold
rows with the same columns that have nothing to do with those (`tools/train_sst2.py` makes both).
`--set` gives settings of the pass. Points are those of accuracy; what the rows of one run can tell
is given as 1.96 standard errors of the difference. CPU minutes are process time on one thread.

Runs that are in the results file, with the same settings, are not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from classifier_rows import new_parser, points_lost, quieten, read_splits
from numpy.typing import NDArray
from results import write_results

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.progress import SILENT
from compressor.verify.evaluation import predict_outputs


def main() -> None:
    arguments = _arguments()
    quieten()
    given = dict(item.split("=", 1) for item in arguments.set)
    settings = {name: yaml.safe_load(value) for name, value in given.items()}
    model = load_checkpoint(arguments.checkpoint)
    splits = read_splits(arguments, model, ("calibration", "search"))
    judges = {"search": splits["search"], "apart": _apart(arguments, model)}
    right = {name: is_right(model, rows) for name, rows in judges.items()}
    about = {
        "settings": settings,
        "rows": {name: len(rows) for name, rows in judges.items()},
        "accuracy": {name: 100 * float(found.mean()) for name, found in right.items()},
        "clock": "CPU time of one thread",
    }
    known = json.loads(arguments.json.read_text())["rows"] if arguments.json.exists() else []
    rows: list[dict[str, Any]] = [row for row in known if row["settings"] == settings]
    for seed in arguments.seeds:
        for ratio in arguments.ratios:
            if any((row["seed"], row["ratio"]) == (seed, ratio) for row in rows):
                continue
            found = {"settings": settings, "ratio": ratio, "seed": seed}
            found |= measure(arguments, settings | {"ratio": ratio}, seed, splits, judges, right)
            rows.append(found)
            write_results(arguments.json, rows, about=about)  # a run that is done stays
            print(json.dumps(found), flush=True)


def measure(
    arguments: argparse.Namespace,
    settings: Mapping[str, Any],
    seed: int,
    splits: dict[str, Dataset],
    judges: Mapping[str, Dataset],
    right: Mapping[str, NDArray[np.bool_]],
) -> dict[str, Any]:
    """Prune once, and return what it costs and what it loses on each of `judges`, by name."""
    model = load_checkpoint(arguments.checkpoint)
    step = PruneStructured.of({"method": "reconstruction", **settings})
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        context = PassContext(
            splits=splits,
            load_baseline=lambda: load_checkpoint(arguments.checkpoint),
            device=torch.device("cpu"),
            seed=seed,
            work_dir=Path(folder),
            progress=SILENT,
            note=notes.append,
        )
        start = time.process_time()
        pruned = apply_pass(step, model, context)
        minutes = (time.process_time() - start) / 60
    found: dict[str, Any] = {"cpu_minutes": round(minutes, 2), "notes": notes}
    for name, rows in judges.items():
        found[name] = points_lost(right[name], is_right(pruned, rows))
    return found


def is_right(model: TorchModel, rows: Dataset) -> NDArray[np.bool_]:
    """Return for each row whether the class that is predicted is its label."""
    found = predict_outputs(model, model.task, model.preprocessor, rows).numbers
    assert rows.labels is not None
    right: NDArray[np.bool_] = found.argmax(axis=1) == rows.labels
    return right


def _apart(arguments: argparse.Namespace, model: TorchModel) -> Dataset:
    """Return the rows of all files `--apart` as one split."""
    parts = []
    for path in arguments.apart:
        own = argparse.Namespace(**{**vars(arguments), "search": path, "search_text": None})
        parts.append(read_splits(own, model, ("search",))["search"])
    return replace(
        parts[0],
        name="apart",
        examples=tuple(example for part in parts for example in part.examples),
        labels=np.concatenate([part.labels for part in parts if part.labels is not None]),
        rows=np.arange(sum(map(len, parts))),
    )


def _arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, train="rows to calibrate on")
    parser.add_argument("--apart", nargs="+", required=True, help="labelled rows nothing has read")
    parser.add_argument("--json", required=True, type=Path, help="results file to write")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
