"""Print one table: what pruning followed by distillation keeps, for each share of FLOPs and seed.

    tools/compare_recovery.py CHECKPOINT --train FILE --search FILE --text COLUMN --results FILE

No label is read but to measure accuracy on the search file. `--held-out` full rows of the train
file are set aside, with every row that is a part of one of them; a seed chooses the rows to
calibrate and to train on among the others. The KL divergence is that from the checkpoint's softened
answers (temperature 2), times 1000. CPU minutes are process time on one thread, the teacher's
share included. FLOPs are counted from the shapes that are there, at the search rows' mean length.

A run that is in `--results` (one JSON object a line) is not made again, so a stopped comparison
goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classifier_rows import new_parser, quieten, read_splits, set_aside
from compare_pruning import count_flops, mean_tokens
from divergence import kl_divergence
from numpy.typing import NDArray

from compressor.data import Dataset
from compressor.files import sha256
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import Pass, PassContext, apply_pass
from compressor.passes.distill.settings import Distill
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.progress import SILENT
from compressor.verify.evaluation import predict_outputs

_RECIPE = (
    "epochs",
    "learning_rate",
    "batch_size",
    "hidden_weight",
    "sublayer_weight",
    "label_weight",
    "temperature",
    "join_probability",
    "mask_probability",
    "drop_probability",
    "replace_probability",
    "schedule",
    "dropout",
    "precision",
    "freeze_embeddings",
)
_COLUMNS = ("accuracy", "KL", "held-out KL", "held-out same", "FLOPs left", "CPU min")


def load_rows(arguments: argparse.Namespace, model: TorchModel) -> dict[str, Dataset]:
    """Return `search`, `held-out` and `train`; a train row has nothing to do with the others."""
    splits = read_splits(arguments, model, ("train", "search"))
    train = splits["train"]
    texts = [str(example) for example in train.examples]
    held, others = set_aside(texts, arguments.held_out)
    rest = [row for row in others if len(texts[row].split()) >= arguments.minimum_words]
    return {
        "search": splits["search"],
        "held-out": take(train, held, "search"),
        "train": take(train, rest, "train"),
    }


def take(dataset: Dataset, rows: list[int], name: str) -> Dataset:
    labels = None if dataset.labels is None else dataset.labels[np.array(rows)]
    examples = tuple(dataset.examples[row] for row in rows)
    return replace(dataset, name=name, examples=examples, labels=labels, rows=dataset.rows[rows])


@dataclass(frozen=True)
class Teacher:
    """The checkpoint and its answers on the rows that judge."""

    model: TorchModel
    search: NDArray[np.float32]
    held_out: NDArray[np.float32]


def answers(model: TorchModel, dataset: Dataset) -> NDArray[np.float32]:
    return predict_outputs(model, model.task, model.preprocessor, dataset).numbers


def accuracy(logits: NDArray[np.float32], dataset: Dataset) -> float:
    assert dataset.labels is not None
    return 100 * float((logits.argmax(axis=1) == dataset.labels).mean())


def compress(
    arguments: argparse.Namespace,
    rows: dict[str, Dataset],
    teacher: Teacher,
    ratio: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Prune, measure, distil and measure again; each result has a `state`."""
    train = rows["train"]
    chosen = np.random.default_rng(seed).permutation(len(train))[: arguments.rows].tolist()
    model = load_checkpoint(arguments.checkpoint)
    length = mean_tokens(model, rows["search"])
    before = count_flops(model.module, length)
    found: list[dict[str, Any]] = []
    seconds = 0.0
    for state, step in passes(arguments, ratio).items():
        with tempfile.TemporaryDirectory() as folder:
            context = PassContext(
                splits={"train": take(train, chosen, "train"), "calibration": train},
                load_baseline=lambda: load_checkpoint(arguments.checkpoint),
                device=torch.device("cpu"),
                seed=seed,
                work_dir=Path(folder),
                progress=SILENT,
                note=lambda _: None,
            )
            start = time.process_time()
            model = apply_pass(step, model, context)
            seconds += time.process_time() - start
        search, held_out = (answers(model, rows[name]) for name in ("search", "held-out"))
        values = (
            accuracy(search, rows["search"]),
            1000 * kl_divergence(teacher.search, search),
            1000 * kl_divergence(teacher.held_out, held_out),
            share_of_same(held_out, teacher.held_out),
            100 * count_flops(model.module, length) / before,
            seconds / 60,
        )
        found.append({"state": state, **dict(zip(_COLUMNS, values, strict=True))})
    return found


def share_of_same(student: NDArray[np.float32], teacher: NDArray[np.float32]) -> float:
    """Return the share of answers that are the teacher's, in percent."""
    return 100 * float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean())


def passes(arguments: argparse.Namespace, ratio: float) -> dict[str, Pass]:
    """Return the passes by the state they leave: one that does both where there are steps."""
    pruning = {"method": "reconstruction", "ratio": ratio}
    training = {name: getattr(arguments, name) for name in _RECIPE}
    if arguments.steps > 1:
        gradual = {"steps": arguments.steps, "step_schedule": arguments.step_schedule}
        recovery = {"kind": "distill", **training}
        return {"distilled": PruneStructured.of({**pruning, **gradual, "recovery": recovery})}
    found: dict[str, Pass] = {"pruned": PruneStructured.of(pruning)}
    if not arguments.without_recovery:
        found["distilled"] = Distill.model_validate(training)
    return found


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what makes two runs of the same ratio and seed the same run."""
    if arguments.without_recovery:
        names = ("held_out", "minimum_words")
        return {name: getattr(arguments, name) for name in names} | inputs_of(arguments)
    gradual = ("steps", "step_schedule") if arguments.steps > 1 else ()
    names = ("rows", "minimum_words", "held_out", *_RECIPE, *gradual)
    return {name: getattr(arguments, name) for name in names} | inputs_of(arguments)


def inputs_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what tells checkpoint and data from others, wherever they lie."""
    weights = find_checkpoint(arguments.checkpoint).fingerprint()
    files = {name: getattr(arguments, name) for name in ("train", "search")}
    digests = {name: sha256(Path(path))[:16] for name, path in files.items()}
    columns = {name: getattr(arguments, name) for name in ("text", "search_text", "label")}
    return {"checkpoint": weights[:16], **digests, **columns}


def print_table(runs: list[dict[str, Any]], baseline: float) -> None:
    """Print the runs, and below each ratio the mean and the spread of its accuracy."""
    print(f"{'':>18}{'seed':>6}" + "".join(f"{name:>15}" for name in _COLUMNS))
    for ratio, state in sorted({(run["ratio"], run["state"]) for run in runs}):
        found = [run for run in runs if (run["ratio"], run["state"]) == (ratio, state)]
        for run in found:
            cells = "".join(f"{run[name]:15.2f}" for name in _COLUMNS)
            print(f"{ratio:8.0%}{state:>10}{run['seed']:6d}{cells}")
        mean = "".join(f"{np.mean([run[name] for run in found]):15.2f}" for name in _COLUMNS)
        values = [run["accuracy"] for run in found]
        lost = baseline - float(np.mean(values))
        print(f"{ratio:8.0%}{state:>10}{'mean':>6}{mean}")
        print(f"{'':9}accuracy {min(values):.2f} to {max(values):.2f}, {lost:.2f} points lost\n")


def read_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, train="rows to calibrate and to train on")
    parser.add_argument("--results", required=True, type=Path, help="file that grows by each run")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.6, 0.7, 0.8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", type=int, default=2000, help="train rows that only judge")
    parser.add_argument("--rows", type=int, default=20000, help="train rows to distil on, at most")
    parser.add_argument("--without-recovery", action="store_true", help="measure pruning alone")
    parser.add_argument("--steps", type=int, default=1, help="prune in this many, with training")
    parser.add_argument("--step-schedule", default="cubic", choices=("cubic", "linear"))
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--hidden-weight", type=float, default=1.0)
    parser.add_argument("--sublayer-weight", type=float, default=0.0)
    parser.add_argument("--label-weight", type=float, default=0.0)
    parser.add_argument("--temperature", type=float, default=2.0)
    for change in ("join", "mask", "drop", "replace"):
        parser.add_argument(f"--{change}-probability", type=float, default=0.0)
    parser.add_argument(
        "--train-embeddings",
        dest="freeze_embeddings",
        action="store_false",
        help="train the tables too, which cost no FLOPs",
    )
    parser.add_argument("--dropout", action="store_true", help="at the checkpoint's own rates")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--minimum-words", type=int, default=1, help="words a train row must have to be used"
    )
    parser.add_argument("--schedule", default="linear", choices=("linear", "cosine", "constant"))
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    quieten()
    model = load_checkpoint(arguments.checkpoint)
    rows = load_rows(arguments, model)
    teacher = Teacher(model, answers(model, rows["search"]), answers(model, rows["held-out"]))
    baseline = accuracy(teacher.search, rows["search"])
    settings = settings_of(arguments)
    print(
        f"{arguments.checkpoint}: accuracy {baseline:.2f} on {len(rows['search'])} rows; "
        f"{settings}, 1 thread, torch {torch.__version__}",
        flush=True,
    )
    known = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    runs = [run for run in map(json.loads, known) if run["settings"] == settings]
    done = {(run["ratio"], run["seed"]) for run in runs}
    for seed in arguments.seeds:
        for ratio in arguments.ratios:
            if (ratio, seed) in done:
                continue
            found = compress(arguments, rows, teacher, ratio, seed)
            new = [{"ratio": ratio, "seed": seed, "settings": settings, **each} for each in found]
            lines = "".join(json.dumps(run) + "\n" for run in new)
            # All states at once, so that a kill leaves none without the others.
            with arguments.results.open("a", encoding="utf-8") as file:
                file.write(lines)
            print(lines, end="", flush=True)
            runs += new
    print_table(runs, baseline)


if __name__ == "__main__":
    main()
