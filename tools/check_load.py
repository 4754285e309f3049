#!/usr/bin/env python3
"""Measure the latency table of a recipe at several loads, and the shape that each one chooses.

    tools/check_load.py RECIPE [--loads 0 8] [--repeats 1] [--output FILE] [--set KEY=VALUE ...]

Takes every prune_structured pass with target latency by itself, on the untouched checkpoint: scores
of heads and neurons are measured once, the table anew for each load, while so many processes are
busy beside it. Writes what was found as JSON and fails when two shapes differ. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from compressor.machine.environment import describe_environment, seed_everything
from compressor.models.checkpoint import find_checkpoint
from compressor.models.families.layers import (
    EncoderLayer,
    find_encoder,
)
from compressor.models.torch_model import load_model
from compressor.passes import PassContext
from compressor.passes.prune_structured.apply import Reconstruction
from compressor.passes.prune_structured.budget import units_to_remove
from compressor.passes.prune_structured.compensated_scores import compensated_scores
from compressor.passes.prune_structured.few_rows import each_batch
from compressor.passes.prune_structured.importance import UnitScores
from compressor.passes.prune_structured.settings import PruneByReconstruction
from compressor.pipeline.builtin_models import resolve_builtin
from compressor.pipeline.wanted_splits import read_splits
from compressor.progress import SILENT
from compressor.recipe.recipe import Recipe, load_recipe
from compressor.tasks import load_task


def main() -> int:
    """Return 0 when every load chose the same shape, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 8], help="busy processes")
    parser.add_argument("--repeats", type=int, default=1, help="tables at each load")
    parser.add_argument("--output", type=Path, help="where the JSON goes; default: printed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, overrides=arguments.set)
    steps = [
        (position, step)
        for position, step in enumerate(recipe.passes)
        if isinstance(step, PruneByReconstruction) and step.target == "latency"
    ]
    if not steps:
        parser.error(f"{arguments.recipe}: no prune_structured pass has target latency")
    loads = [load for load in arguments.loads for _ in range(arguments.repeats)]
    found = {f"passes[{position}]": measured_at(loads, recipe, step) for position, step in steps}
    same = all(tries[0]["shape"] == other["shape"] for tries in found.values() for other in tries)
    device = torch.device("cpu")
    content = {
        "command": " ".join(sys.argv),
        "recipe": recipe.to_dict(),
        "environment": describe_environment(seed=recipe.seed, device=device, threads=1),
        "found": found,
        "same_shape": same,
    }
    text = json.dumps(content, indent=1) + "\n"
    if arguments.output is None:
        print(text, end="")
    else:
        arguments.output.write_text(text, encoding="utf-8")
    return int(not same)


def measured_at(
    loads: list[int], recipe: Recipe, step: PruneByReconstruction
) -> list[dict[str, Any]]:
    """Return for each load the table, and how many heads and neurons its layers keep."""
    files = find_checkpoint(resolve_builtin(recipe.model.checkpoint, progress=SILENT))
    task = load_task(
        recipe.model.task or files.infer_task(),
        max_length=recipe.data.max_length,
        pooling=recipe.model.pooling,
        normalize=recipe.model.normalize,
    )
    metric = recipe.budget.metric or task.metrics[0].name
    labels = files.labels_for(task)
    splits = read_splits(recipe, task=task, label_names=labels, metric=metric)
    seed_everything(recipe.seed)
    model = load_model(files, task)
    encoder = find_encoder(model.module)
    scores: UnitScores | None = None
    found = []
    for load in loads:
        with tempfile.TemporaryDirectory(prefix="check-load-") as folder:
            os.environ["COMPRESSOR_CACHE"] = str(Path(folder) / "cache")
            context = PassContext(
                splits=splits,
                load_baseline=lambda: load_model(files, task),
                device=torch.device("cpu"),
                seed=recipe.seed,
                work_dir=Path(folder),
                progress=SILENT,
                note=lambda _: None,
            )
            started = time.monotonic()
            with busy_processes(load):
                goals = Reconstruction.prepare(model, encoder, step, context)
            seconds = time.monotonic() - started
            if scores is None:
                batches = each_batch(goals.rows.inputs, lambda: None)
                scores = compensated_scores(encoder, batches, task, seed=recipe.seed)
            shape = shape_of(encoder.layers, scores, goals, step)
        found.append(
            {
                "load": load,
                "load_average": os.getloadavg()[0],
                "seconds": seconds,
                "shape": shape,
                "table": context.facts["latency_table"],
            }
        )
        print(f"load {load}: {seconds:.0f} s, {shape}", file=sys.stderr, flush=True)
    return found


def shape_of(
    layers: Sequence[EncoderLayer],
    scores: UnitScores,
    goals: Reconstruction,
    step: PruneByReconstruction,
) -> dict[str, list[int]]:
    """Return how many heads and neurons each layer keeps when the whole ratio goes at once."""
    assert step.ratio is not None, "the settings are checked"
    cost = goals.cost_of(layers)
    heads, neurons = units_to_remove(
        scores, cost, (1 - step.ratio) * goals.cost_before, goals.freedom
    )
    kept = [
        (
            layer.num_heads - len(heads.get(index, ())),
            layer.num_neurons - len(neurons.get(index, ())),
        )
        for index, layer in enumerate(layers)
    ]
    return {"heads": [of[0] for of in kept], "neurons": [of[1] for of in kept]}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes busy while the block runs."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
