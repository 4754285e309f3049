"""Measure what the tool itself costs beside the work that nobody can leave out.

Takes a text classifier and files of rows, and compares process CPU time, one thread, in one process
and in turns:

- training: an epoch of the tool's loop against one of a bare loop in PyTorch, which tokenizes the
  rows for their lengths and each batch, on the same batches by tokens;
- evaluation: the same;
- export: of a model whose weights alone changed, against tracing it again.

With --run also the CPU time of a whole run of quantize_dynamic without a benchmark, from the start
of the process to the report, in a process of its own: of one that traces the checkpoint's kind for
the first time, and of the next one, both with the package compiled to bytecode as an installation
leaves it.

Usage: tools/own_speed.py CHECKPOINT --train FILE --dev FILE --columns TEXT LABEL ...
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
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
import torch
import transformers
import yaml
from compare_int8 import context
from results import write_results
from torch.nn import functional

from compressor.data import Dataset, DataSettings, SplitSource, load_splits
from compressor.export.to_onnx import export_onnx
from compressor.export.traces import Traces
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes.finetune.apply import apply as finetune
from compressor.passes.finetune.settings import Finetune
from compressor.training.batches import LengthGroupedBatches
from compressor.verify.evaluation import BATCH_SIZE, evaluate

STEPS = 60
TURNS = 3
LEARNING_RATE = 2e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--columns", nargs=4, required=True, help="text and label of both files")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--run", action="store_true", help="also a whole run of quantize_dynamic")
    parser.add_argument("--output", type=Path, help="results file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    splits = read(arguments)
    rows: list[dict[str, Any]] = []

    def compare(name: str, own: Callable[[], float], bare: Callable[[], float]) -> None:
        pairs = [(own(), bare()) for _ in range(arguments.turns)]
        found = {
            "what": name,
            "own_seconds": round(statistics.median(pair[0] for pair in pairs), 2),
            "bare_seconds": round(statistics.median(pair[1] for pair in pairs), 2),
            "ratio": round(statistics.median(one / other for one, other in pairs), 3),
        }
        print(json.dumps(found), flush=True)
        rows.append(found)

    steps, train, dev = arguments.steps, splits["train"], splits["search"]
    compare(
        "training",
        lambda: own_training(load_checkpoint(arguments.checkpoint), train),
        lambda: bare_training(load_checkpoint(arguments.checkpoint), train, steps),
    )
    model = load_checkpoint(arguments.checkpoint)
    own_evaluation(model, replace(dev, examples=dev.examples[:2], labels=np.array([0, 1])))
    compare("evaluation", lambda: own_evaluation(model, dev), lambda: bare_evaluation(model, dev))
    traces = Traces()
    exported(model, traces)
    compare("export", lambda: exported(model, traces), lambda: exported(model, None))
    if arguments.run:
        for name, seconds in zip(("first run", "next run"), whole_runs(arguments), strict=True):
            rows.append({"what": name, "own_seconds": round(seconds, 1)})
            print(json.dumps(rows[-1]))
    if arguments.output is not None:
        about = {"steps": steps, "turns": arguments.turns, "rows": len(dev)}
        write_results(arguments.output, rows, about=about)
    return 0


def read(arguments: argparse.Namespace) -> dict[str, Dataset]:
    text, label, dev_text, dev_label = arguments.columns
    settings = DataSettings(
        train=SplitSource(
            path=arguments.train, text=text, label=label, max_rows=32 * arguments.steps
        ),
        search=SplitSource(path=arguments.dev, text=dev_text, label=dev_label),
    )
    model = load_checkpoint(arguments.checkpoint)
    return load_splits(
        settings,
        label_names=model.labels,
        columns=model.task.columns("accuracy"),
        needed=("train", "search"),
        seed=0,
    )


def timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def fresh(dataset: Dataset) -> Dataset:
    """Return the same rows, of which nothing is known yet."""
    return replace(dataset)


def own_training(model: TorchModel, train: Dataset) -> float:
    settings = Finetune.model_validate(
        {"epochs": 1, "learning_rate": LEARNING_RATE, "batch_size": 32}
    )
    with tempfile.TemporaryDirectory() as folder:
        lent = context(model, Path(folder))
        lent.splits["train"] = fresh(train)
        return timed(lambda: finetune(settings, model, lent))


def bare_training(model: TorchModel, train: Dataset, steps: int) -> float:
    """Train on the batches of `own_training`, with what its defaults ask for and no more."""

    def work() -> None:
        torch.manual_seed(0)
        module, tokenizer, labels = model.module, model.preprocessor, train.class_ids
        assert labels is not None
        module.train()
        lengths = [len(ids) for ids in tokenizer(list(train.examples))["input_ids"]]
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in module.parameters() if p.ndim > 1], "weight_decay": 0.01},
                {"params": [p for p in module.parameters() if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=LEARNING_RATE,
        )
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
        batches = iter(LengthGroupedBatches(lengths, 32, 0))
        for _ in range(steps):
            chosen = next(batches)
            batch = tokenizer(
                [train.examples[row] for row in chosen],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            loss = functional.cross_entropy(
                module(**batch).logits, torch.from_numpy(labels[chosen])
            )
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss.item()

    return timed(work)


def own_evaluation(model: TorchModel, dev: Dataset) -> float:
    own = (model.task, model.preprocessor, fresh(dev), "accuracy")
    return timed(lambda: evaluate(model, *own))


def bare_evaluation(model: TorchModel, dev: Dataset) -> float:
    def work() -> None:
        tokenizer, labels = model.preprocessor, dev.labels
        assert labels is not None
        texts = list(dev.examples)
        lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
        order = np.argsort(lengths, kind="stable")
        found = np.zeros(len(order), dtype=np.int64)
        model.module.eval()
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            batch = tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                found[rows] = model.module(**batch).logits.argmax(dim=-1).numpy()
        float(np.mean(found == labels))

    return timed(work)


def exported(model: TorchModel, traces: Traces | None) -> float:
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(1e-4 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        return timed(lambda: export_onnx(model, path, threads=1, traces=traces))


def whole_runs(arguments: argparse.Namespace) -> tuple[float, float]:
    """Return the CPU seconds of two runs' processes, from start to end: one traces, one need not.

    Neither finds a step of the other; what both find of the first in the cache are traces.
    """
    _, _, text, label = arguments.columns
    recipe = {
        "model": {"checkpoint": str(arguments.checkpoint.resolve())},
        "data": {"text": text, "label": label, "search": {"path": str(arguments.dev.resolve())}},
        "passes": [{"kind": "quantize_dynamic"}],
        "budget": {"max_drop": 0.05},
        "benchmark": {"providers": []},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        # Told to keep no bytecode, as test machines are, a process would compile all modules anew.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def run(name: str, cache: str) -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "compressor", "run", path, "--output", f"{folder}/{name}"],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**environment, "COMPRESSOR_CACHE": f"{folder}/{cache}"},
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        run("compiles", "another-cache")
        return run("traces", "cache"), run("reads", "cache")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
