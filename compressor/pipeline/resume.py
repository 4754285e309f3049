"""Which steps of a run an earlier one has stored, found without doing any.

What a step depends on is known once the steps before it are there, so this follows the run from
top to bottom, reads what is stored, and ends at the first step that is missing.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError
from compressor.measurements import ModelRecord
from compressor.passes import OnnxPass, TorchPass
from compressor.pipeline.announce import RUNTIMES
from compressor.pipeline.cached_work import Stages
from compressor.pipeline.estimate import Estimate
from compressor.pipeline.gates import pass_gate
from compressor.pipeline.run_record import RunLog
from compressor.pipeline.scorable import tuned_baseline
from compressor.pipeline.step_store import Step, StepStore
from compressor.pipeline.target_search import search_fraction
from compressor.progress import SILENT


class _Missing(Exception):
    """A step is not stored."""


class _ReadOnly(StepStore):
    """The steps of a store as they are; none is made."""

    def __init__(self, store: StepStore) -> None:
        self._store = store
        self.path, self.scratch, self.made = store.path, store.scratch, store.made

    def find(self, name: str, key: str) -> Step | None:
        """Return the stored step of this key as the store gives it."""
        return self._store.find(name, key)

    def make(
        self,
        name: str,
        key: str,  # noqa: ARG002
        depends_on: Mapping[str, Any],  # noqa: ARG002
        work: Callable[[Path, Path], dict[str, Any]],  # noqa: ARG002
    ) -> Step:
        raise _Missing(name)

    @property
    def private(self) -> Path:
        """Return scratch space that no other run shares."""
        return self._store.private


def stored_steps(stages: Stages, known: RunLog, limit: int | None) -> dict[str, float]:
    """Return the names of the steps that need not be done, with the seconds that they took.

    `known` has the labels; the checkpoint reads up to `limit` tokens. Steps behind one that is
    missing are not counted.
    """
    if not any(stages.store.path.iterdir()):
        return {}
    own = stages.store
    reader = copy.copy(stages)
    reader.store = _ReadOnly(own)
    reader.progress, reader.estimate, reader.done = SILENT, Estimate(), []
    # A run that a gate stopped is stored up to there.
    with contextlib.suppress(_Missing, CompressorError):
        _follow(reader, known, limit)
    return {step.name: step.seconds for step in reader.done}


def _follow(stages: Stages, known: RunLog, limit: int | None) -> None:
    """Ask for the steps of a run in its order."""
    recipe, untouched = stages.recipe, stages.untouched
    stages.check_reading(limit)
    log = RunLog(
        {}, "", recipe.budget.max_drop, {}, "", task=known.task, metric=known.metric,
        labels=known.labels, pooling=known.pooling,
    )  # fmt: skip
    stages, baseline = tuned_baseline(stages, log)
    exported = stages.export("baseline: export", untouched)
    stages.parity("baseline: parity", untouched, exported.graph)
    stages.flops("baseline: flops", exported.graph)
    log.baseline = ModelRecord(baseline, exported.size)
    model = untouched
    for position, step in enumerate(recipe.passes):
        if isinstance(step, TorchPass):
            before = (stages, log, position)
            if position == recipe.searched_pass:
                model = search_fraction(*before, model, baseline, exported.graph)
            else:
                model = pass_gate(*before, step, model, baseline)
    if model is untouched:
        stages.save_untouched()
    graph = stages.export("export", model).graph
    stages.parity("parity", model, graph)
    for position, step in enumerate(recipe.passes):
        if isinstance(step, OnnxPass):
            graph = pass_gate(stages, log, position, step, graph, baseline)
    with tempfile.TemporaryDirectory(dir=stages.store.private) as folder:
        artifact = stages.write_artifact(graph, Path(folder)).graph
        stages.score("artifact", artifact, reference=baseline)
        stages.flops("artifact: flops", artifact)
        if "certification" in stages.splits:
            name = "certification"
            kept_apart = stages.score(name, untouched, split=name, of="the baseline")
            stages.score(name, artifact, split=name, of="the artifact", reference=kept_apart)
        for provider in recipe.benchmark.providers:
            settings = recipe.benchmark.model_copy(update={"providers": (provider,)})
            stages.time(f"benchmark on {provider}", settings, exported.graph, artifact)
        if recipe.benchmark.runtimes:
            stages.time_runtimes(RUNTIMES, artifact)
