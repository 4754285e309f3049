"""The kinds of cases, and what is made once for all of them."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from campaign_checkpoints import checkpoint_case, processor_case
from campaign_commands import Workshop, cli
from campaign_files import (
    artifact_case,
    data_case,
    environment_case,
    onnx_case,
    report_case,
    steps_case,
    trained,
)
from campaign_recipes import RECIPE, arguments_case, plain_recipe, recipe_case
from campaign_subjects import Subjects, make, probes, text_reference
from campaign_trials import LONG_S, Case, attempt
from numpy.typing import NDArray

KINDS: dict[str, Callable[[Workshop, int], Case]] = {
    "recipe": recipe_case,
    "arguments": arguments_case,
    "checkpoint": checkpoint_case,
    "processor": processor_case,
    "data": data_case,
    "artifact": artifact_case,
    "onnx": onnx_case,
    "report": report_case,
    "steps": steps_case,
    "environment": environment_case,
}
# How many of a hundred cases are of each kind, when all are asked for.
SHARES: dict[str, float] = {
    "recipe": 30, "arguments": 12, "checkpoint": 20, "processor": 4, "data": 14, "artifact": 8,
    "onnx": 5, "report": 4, "steps": 2, "environment": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Maker:
    """Makes each case anew from seed, kind and number alone."""

    subjects: Subjects
    seed: int
    runs: float  # share of cases that are run to the end
    base_outputs: NDArray[np.float32]

    def case(self, kind: str, number: int, folder: Path) -> Case:
        """Write the files of a case into `folder`, which is empty, and return it."""
        name = f"{self.seed}:{kind}:{number}"
        to_the_end = Random(f"{name}:run").random() < self.runs  # noqa: S311 - no secret
        draw = Random(name)  # noqa: S311 - no secret
        shop = Workshop(self.subjects, folder, draw, to_the_end, self.base_outputs)
        return KINDS[kind](shop, number)


def prepare(folder: Path, seed: int, runs: float, *, kinds: frozenset[str]) -> Maker:
    """Make the subjects of the campaign in `folder`, with a finished run where `kinds` need one."""
    place = folder / "subjects"
    place.mkdir()
    subjects = make(place)
    if kinds & {"artifact", "onnx", "report", "steps", "environment"}:
        _finish(subjects, [])
    if "environment" in kinds:
        _finish(
            subjects, [{"kind": "finetune", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}]
        )
    base = text_reference(subjects.checkpoint, probes(subjects)).outputs
    # The forked processes share what is there; collecting it would copy it.
    gc.collect()
    gc.freeze()
    return Maker(subjects, seed, runs, base)


def _finish(subjects: Subjects, passes: list[dict[str, object]]) -> None:
    """Run a recipe to the end: without passes to `run`, else to `trained`, which keeps its key."""
    data = {"search": {"path": "rows.csv"}}
    if passes:
        data["train"] = {"path": "rows.csv"}
    tree = plain_recipe("bert", data, passes=passes, output="trained" if passes else "run")
    (subjects.folder / RECIPE).write_text(json.dumps(tree))
    if passes:
        shutil.copytree(subjects.run, subjects.folder / "trained", symlinks=True)
    ending = attempt(cli("run", RECIPE), subjects.folder, 3 * LONG_S, {})
    if ending.code != 0:
        raise SystemExit(f"the unchanged recipe ended with {ending.code}:\n{ending.said}")
    if passes:
        told = json.dumps(trained(subjects.folder / "trained"))
        (subjects.folder / "trained.json").write_text(told)
