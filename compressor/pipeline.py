"""The one way through a run, top to bottom: the only file that knows the order of the steps.

    load -> score the baseline -> [ PyTorch pass -> evaluate -> gate ]* -> export -> parity
         -> [ ONNX pass -> evaluate -> gate ]* -> artifact -> evaluate it -> gate
         -> certification split -> benchmark -> proof -> report

The pipeline, never a pass, measures and judges; gates compare with the untouched checkpoint, so
losses add up. Once the output directory is claimed, a report is written whatever happens.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from compressor.artifact import load_artifact, seal_artifact, write_artifact
from compressor.benchmark import Contestant, benchmark, default_threads
from compressor.builtin import resolve_builtin
from compressor.certification import certify, compare_answers, gate_slices, require_proof
from compressor.data import Dataset, describe_splits
from compressor.environment import (
    Device,
    describe_environment,
    package_versions,
    seed_everything,
    select_device,
)
from compressor.errors import CompressorError, EnvironmentMismatch, PassError, RecipeError
from compressor.evaluation import benchmark_batches, evaluate, parity_batches
from compressor.export.parity import check_parity
from compressor.export.to_onnx import export_onnx
from compressor.finish import PASSED, finish, verdict_of
from compressor.measurements import ModelRecord, Parity, RunReport, Score, Size
from compressor.models.checkpoint import find_checkpoint
from compressor.models.onnx_model import OnnxModel, check_provider
from compressor.models.torch_model import TorchModel, load_model
from compressor.output import OutputDirectory, claim_output
from compressor.passes import OnnxPass, Pass, PassContext, TorchPass
from compressor.progress import SILENT, Progress
from compressor.recipe import Recipe
from compressor.report.render import render_model_card
from compressor.run_log import RunLog
from compressor.run_splits import read_splits
from compressor.tasks import load_task

logger = logging.getLogger(__name__)

AnyModel = TypeVar("AnyModel", TorchModel, OnnxModel)


def run(
    recipe: Recipe,
    *,
    output: str | Path | None = None,
    device: Device = "auto",
    force: bool = False,
    allow_inconclusive: bool = False,
    progress: Progress = SILENT,
) -> RunReport:
    """Carry out `recipe` and return the report that lies in the output directory.

    With `allow_inconclusive` a certification split that cannot prove the budget does not stop the
    run; the report says so.

    Raises the errors of `compressor.errors`; every one raised after the output directory was
    claimed carries the report as `error.report`, and the report is on disk.
    """
    place = output or recipe.output
    if place is None:
        raise RecipeError("output: no directory was given; set `output` in the recipe or --output")
    target = select_device(device)
    threads = recipe.benchmark.threads or default_threads()
    for provider in dict.fromkeys((recipe.export.provider, *recipe.benchmark.providers)):
        check_provider(provider)
    with claim_output(Path(place), force=force) as directory:
        log = RunLog(
            recipe=recipe.to_dict(),
            recipe_name=recipe.path.name if recipe.path else "a recipe built in Python",
            max_drop=recipe.budget.max_drop,
            environment=describe_environment(seed=recipe.seed, device=target, threads=threads),
            source_checkpoint=recipe.model.checkpoint,
        )
        steps = _Run(recipe, directory, target, threads, allow_inconclusive, log, progress)
        try:
            steps.all()
        except CompressorError as error:
            error.report = finish(directory, log, verdict_of(error), str(error), steps.current)
            raise
        except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
            mismatch = EnvironmentMismatch(
                f"{steps.current}: cannot read or write ({error}); check free space and "
                f"permissions, then run again with --force"
            )
            mismatch.report = finish(directory, log, "failed", str(mismatch), steps.current)
            raise mismatch from error
        except BaseException as error:  # a bug of ours or Ctrl-C: the report comes first
            finish(directory, log, "failed", repr(error), steps.current)
            raise
        shutil.rmtree(directory.work)
        return finish(directory, log, "passed", PASSED, None)


@dataclass
class _Run:
    """One run from top to bottom; `current` is the step under way, for the report."""

    recipe: Recipe
    directory: OutputDirectory
    device: torch.device
    threads: int
    allow_inconclusive: bool
    log: RunLog
    progress: Progress
    current: str = "load"

    def all(self) -> None:
        """Carry out every step in order; each raises when the run must stop."""
        self.load()
        self.score_baseline()
        model = self.torch_passes()
        exported = self.export(model)
        exported = self.onnx_passes(exported)
        artifact = self.write_artifact(exported, model)
        self.certify(artifact)
        self.benchmark(artifact)
        self.require_proof()
        self.seal()

    def load(self) -> None:
        """Find the checkpoint, read the splits, and check that they and the budget fit."""
        self._start("load")
        recipe = self.recipe
        checkpoint = resolve_builtin(recipe.model.checkpoint, progress=self.progress)
        self.files = find_checkpoint(checkpoint, revision=recipe.model.revision)
        self.task = load_task(
            recipe.model.task or self.files.infer_task(), max_length=recipe.data.max_length
        )
        self.metric = recipe.budget.metric or self.task.metrics[0]
        if self.metric not in self.task.metrics:
            allowed = f"allowed for {self.task.name}: {', '.join(self.task.metrics)}"
            unknown = f"unknown metric '{self.metric}' ({allowed})"
            raise RecipeError(recipe.describe("budget.metric", unknown))
        self.log.task, self.log.metric = self.task.name, self.metric
        self.log.labels = self.files.labels
        self.log.source_sha256 = self.files.sha256()
        try:
            self.splits = self._load_splits()
        except RecipeError as error:
            raise recipe.placed(error) from error
        mistake = recipe.budget.resolution_mistake(len(self.splits["search"]))
        if mistake is not None:
            raise RecipeError(recipe.describe("budget.max_drop", mistake))

    def score_baseline(self) -> None:
        """Score the untouched checkpoint, export it the same way, and measure its size."""
        self._start("baseline")
        model = self._load_untouched()
        self.preprocessors: dict[Contestant, Any] = {"baseline": model.preprocessor}
        self.baseline_score = score = self._score(model)
        self.baseline_onnx = self._export(model, self.directory.baseline / "model.onnx")
        exported = self.baseline_onnx
        self._check_parity(model, exported)
        self.log.baseline = ModelRecord(score, exported.size(), exported.components())
        self.progress.result(self.log.baseline.summary)

    def torch_passes(self) -> TorchModel:
        """Apply the PyTorch passes; `checkpoint/` holds the model after each of them."""
        model = self._load_untouched()
        self._save_checkpoint(model)
        for position, step in enumerate(self.recipe.passes):
            if isinstance(step, TorchPass):
                apply = functools.partial(step.apply, model)
                model = self._gated(position, step, apply, self._torch_size)
        return model

    def export(self, model: TorchModel) -> OnnxModel:
        """Export, and require that ONNX Runtime computes PyTorch's logits."""
        self._start("export")
        self.preprocessors["final"] = model.preprocessor
        exported = self._export(model, self.directory.work / "exported" / "model.onnx")
        self.log.parity = self._check_parity(model, exported)
        return exported

    def onnx_passes(self, model: OnnxModel) -> OnnxModel:
        """Apply the passes over the graph, each to the file that the one before wrote."""
        for position, step in enumerate(self.recipe.passes):
            if isinstance(step, OnnxPass):
                apply = functools.partial(step.apply, model)
                model = self._gated(position, step, apply, lambda changed: changed.size())
        return model

    def write_artifact(self, exported: OnnxModel, model: TorchModel) -> OnnxModel:
        """Write the files that ship, and judge that very graph: what is measured is what ships."""
        self._start("artifact")
        artifact = write_artifact(
            self.directory.artifact,
            model=exported,
            preprocessor=model.preprocessor,
            config=model.module.config,
        )
        score = self._score(artifact, reference=self.baseline_score)
        self.log.final = ModelRecord(score, artifact.size(), artifact.components())
        self.progress.result(self.log.final.summary)
        compare_answers(self.log, self.recipe, self.splits["search"], score)
        self.recipe.budget.gate(self.current, self.baseline_score, score)
        return artifact

    def certify(self, artifact: OnnxModel) -> None:
        """Read the certification split, once, now that no choice depends on it any more."""
        if "certification" not in self.splits:
            self.log.missing["certification"] = "the recipe gives no certification split"
            return
        self._start("certification")
        split = self.splits["certification"]
        baseline = self._score(self._load_untouched(), split="certification")
        final = self._score(artifact, split="certification", reference=baseline)
        certify(self.log, self.recipe, split, baseline=baseline, final=final)

    def benchmark(self, artifact: OnnxModel) -> None:
        """Time baseline and artifact, interleaved, on every provider of the recipe."""
        settings = self.recipe.benchmark
        if not settings.providers:
            self.log.missing["latencies"] = "the recipe's benchmark.providers is empty"
            return
        self._start("benchmark")
        batches = benchmark_batches(
            self.task,
            self.preprocessors,
            self.splits["search"],
            batch_sizes=settings.batch_sizes,
            sequence_lengths=settings.sequence_lengths,
        )
        self.log.latencies = tuple(
            latency
            for provider in settings.providers
            for latency in benchmark(
                {"baseline": self.baseline_onnx.path, "final": artifact.path},
                provider=provider,
                batches=batches,
                warmup_runs=settings.warmup_runs,
                num_runs=settings.num_runs,
                threads=self.threads,
                progress=self.progress,
            )
        )

    def require_proof(self) -> None:
        """Stop before the artifact is complete when the certification split proves too little."""
        self.current = "slices"
        gate_slices(self.log, self.recipe.budget)
        self.current = "certification"
        require_proof(self.log, allow_inconclusive=self.allow_inconclusive)

    def seal(self) -> None:
        """Complete the artifact; until its manifest is there, nothing loads it."""
        self._start("seal")
        folder = self.directory.artifact
        data = self.log.report("passed", PASSED, None).to_dict()
        (folder / "README.md").write_text(render_model_card(data), encoding="utf-8")
        made = {"versions": package_versions(), "provider": self.recipe.export.provider}
        facts = {**self.log.provenance(), **made}
        seal_artifact(folder, task=self.task, labels=self.log.labels, facts=facts)
        load_artifact(folder, provider=self.recipe.export.provider, threads=self.threads)

    def _start(self, step: str) -> None:
        self.current = step
        logger.info("%s: start", step)
        self.progress.stage(step)

    def _load_untouched(self) -> TorchModel:
        model = load_model(self.files, self.task)
        model.module.to(self.device)
        return model

    def _export(self, model: TorchModel, path: Path) -> OnnxModel:
        settings = self.recipe.export
        with self.progress.bar(f"export {path.parent.name}", None):
            return export_onnx(
                model,
                path,
                provider=settings.provider,
                fuse=settings.fuse,
                opset=settings.opset,
                threads=self.threads,
            )

    def _check_parity(self, model: TorchModel, exported: OnnxModel) -> Parity:
        batches = parity_batches(self.task, model.preprocessor, self.splits["search"])
        return check_parity(model, exported, batches, self.recipe.export.max_parity_diff)

    def _score(
        self,
        predictor: TorchModel | OnnxModel,
        split: str = "search",
        reference: Score | None = None,
    ) -> Score:
        # A graph reads what the model reads that it was exported from; passes may change that.
        own = (
            self.preprocessors["final"]
            if isinstance(predictor, OnnxModel)
            else predictor.preprocessor
        )
        common = (self.task, own, self.splits[split], self.metric)
        try:
            return evaluate(predictor, *common, reference=reference, progress=self.progress)
        except FloatingPointError as error:
            raise PassError(str(error), kind=self.current) from error

    def _save_checkpoint(self, model: TorchModel) -> Path:
        """Save the model in place of the one of the step before, and return where."""
        fresh = self.directory.work / "checkpoint"
        model.save(fresh)
        return self.directory.replace_checkpoint(fresh)

    def _torch_size(self, model: TorchModel) -> Size:
        return model.size(self._save_checkpoint(model))

    def _gated(
        self,
        position: int,
        step: Pass,
        apply: Callable[[PassContext], AnyModel],
        measure: Callable[[AnyModel], Size],
    ) -> AnyModel:
        """Apply one pass, measure what it left, and gate it; the record is kept in every case."""
        name = f"passes[{position}] ({step.kind})"
        self._start(name)
        notes: list[str] = []
        context = self._lend(position, step, notes)
        record = self.log.begin_pass(step.kind, step.model_dump(mode="json", exclude={"kind"}))
        started = time.monotonic()
        try:
            model = self._apply(position, step, lambda: apply(context))
            record = dataclasses.replace(record, seconds=time.monotonic() - started)
            score = self._score(model, reference=self.baseline_score)
            record = dataclasses.replace(
                record,
                score_after=score.value,
                drop=self.recipe.budget.drop(self.baseline_score, score),
                size=(size := measure(model)),
                verdict="budget_exceeded",
            )
            self.progress.result(ModelRecord(score, size).summary)
            compare_answers(self.log, self.recipe, self.splits["search"], score)
            self.recipe.budget.gate(name, self.baseline_score, score)
            record = dataclasses.replace(record, verdict="passed")
        finally:
            self.log.end_pass(record, notes, context.facts)
        return model

    def _lend(self, position: int, step: Pass, notes: list[str]) -> PassContext:
        work_dir = self.directory.work / f"pass-{position}"
        work_dir.mkdir()
        return PassContext(
            splits={name: self.splits[name] for name in step.required_splits()},
            load_baseline=self._load_untouched,
            device=self.device,
            seed=self.recipe.seed,
            work_dir=work_dir,
            progress=self.progress,
            note=notes.append,
        )

    def _apply(self, position: int, step: Pass, apply: Callable[[], AnyModel]) -> AnyModel:
        seed_everything(self.recipe.seed)
        try:
            return apply()
        except CompressorError:
            raise
        except Exception as error:
            # Passes explain themselves in ValueErrors; anything else is told by its type.
            told = str(error) if isinstance(error, ValueError) else repr(error)
            raise PassError(told, kind=step.kind, position=position) from error

    def _load_splits(self) -> dict[str, Dataset]:
        splits = read_splits(
            self.recipe,
            label_names=self.files.labels,
            input_column=self.task.input_column,
            metric=self.metric,
        )
        self.log.splits = describe_splits(splits)
        rows = {name: split.rows.tolist() for name, split in splits.items()}
        self.directory.write_text("splits.json", json.dumps(rows) + "\n")
        return splits
