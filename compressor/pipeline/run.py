"""The one way through a run, top to bottom: the only file that knows the order of the steps.

    load -> score the baseline -> [ PyTorch pass -> evaluate -> gate ]* -> export -> parity
         -> [ ONNX pass -> evaluate -> gate ]* -> artifact -> evaluate it -> gate
         -> certification split -> benchmark -> proof -> report

The pipeline, never a pass, measures and judges; gates compare with the untouched checkpoint, so
losses add up. Once the output directory is claimed, a report is written whatever happens. How a
step is done, and when an earlier run has done it already, is the business of `cached_work.py`. A
trial of a sweep (`run_trial`) ends once its artifact was judged and timed, and holds no
certification rows.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from compressor.artifact import (
    MANIFEST,
    MODEL,
    Artifact,
    lay_out,
    load_artifact,
    needs_transformers,
    seal_artifact,
)
from compressor.console import default_progress
from compressor.data import Dataset, describe_splits, fingerprint, rows_as_json
from compressor.data.further_rows import read_further_rows
from compressor.errors import CompressorError, EnvironmentMismatch, RecipeError, Terminated
from compressor.machine.environment import (
    Device,
    describe_environment,
    package_versions,
    select_device,
)
from compressor.machine.launchers import (
    asked_precision,
    require_cpu_as_told,
    require_one_process,
)
from compressor.machine.memory import memory_as_mismatch
from compressor.machine.quiet import loud_libraries, quiet_libraries
from compressor.machine.team import explained_by_others, join
from compressor.measurements import Environment, ModelRecord, OwnCodeRecord, PredictionRecord
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.runtime_versions import MIN_RUNTIME, oldest_runtime
from compressor.models.text_files import check_attention, check_family
from compressor.models.text_tower import text_vectors
from compressor.passes import OnnxPass, Pass, TorchPass
from compressor.paths import exists
from compressor.pipeline.announce import (
    RUNTIMES,
    TITLES,
    certified_line,
    cut_line,
    gate_line,
    last_steps,
    next_step,
    plan_lines,
    record_line,
    timed_line,
)
from compressor.pipeline.builtin_models import resolve_builtin
from compressor.pipeline.cached_steps import AnyStored, StoredCheckpoint, StoredGraph
from compressor.pipeline.cached_work import Stages
from compressor.pipeline.certification import (
    certify,
    compare_predictions,
    estimate_rows,
    gate_gaps,
    gate_slices,
    require_proof,
)
from compressor.pipeline.certification_history import READINGS, check_readings, record_reading
from compressor.pipeline.checkpoint_trial import look_ahead, token_limits
from compressor.pipeline.estimate import Estimate, Pace, WatchedProgress, plan_of
from compressor.pipeline.failures import disk_mismatch, internal_error
from compressor.pipeline.gates import pass_gate
from compressor.pipeline.inputs import (
    fit_lengths,
    limited_by,
    local_inputs,
    other_checkpoints,
    require_fitting_passes,
)
from compressor.pipeline.judge import check_held
from compressor.pipeline.output import OutputDirectory, claim_output
from compressor.pipeline.predictions import sample_predictions
from compressor.pipeline.preflight import check_inputs, check_runtime
from compressor.pipeline.resume import stored_steps
from compressor.pipeline.run_end import PASSED, finish, stopped_reason, verdict_of
from compressor.pipeline.run_record import RunLog
from compressor.pipeline.scorable import judge_baseline, judge_order, tuned_baseline
from compressor.pipeline.shared_store import SharedStepStore
from compressor.pipeline.step_store import StepStore, link_tree
from compressor.pipeline.target_search import search_fraction
from compressor.pipeline.wanted_splits import read_splits
from compressor.progress import SILENT, Progress
from compressor.recipe.recipe import BenchmarkSettings, Recipe, load_recipe
from compressor.report.render import render_model_card
from compressor.report.run_report import RunReport
from compressor.report.verdict import COMPARED, headline
from compressor.runtime.openvino_session import (
    OPENVINO,
    PRECISION,
    openvino_properties,
    openvino_version,
)
from compressor.tasks import NO_LIMIT, find_metric, load_task, with_own_metric
from compressor.training.precision import require_precision
from compressor.training.settings import TrainingSettings
from compressor.training.together import follow
from compressor.verify.benchmark import default_threads

logger = logging.getLogger(__name__)

_READ_TWICE = 64  # examples, with the tokenizer of the run and with what an artifact reads by


def run(
    recipe: Recipe | str | PathLike[str] | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    store: str | Path | None = None,
    device: Device = "auto",
    force: bool = False,
    allow_inconclusive: bool = False,
    allow_code: bool = False,
    progress: Progress | bool | None = True,
    quiet: bool = True,
) -> RunReport:
    """Carry out a recipe and return the report that lies in the output directory.

    `recipe` is the path of a YAML file, the same as a dict, whose relative paths are relative to
    the working directory, or a `Recipe`. What is wrong with it is told as by `load_recipe`, which
    also says what `overrides` are; a `Recipe` takes none.

        report = compressor.run("recipe.yaml", output="runs/first")
        report = compressor.run("recipe.yaml", overrides=["passes.0.ratio=0.4"])
        report = compressor.run(
            {
                "model": {"checkpoint": "org/name"},
                "data": {"text": "text", "label": "label", "search": {"path": "dev.csv"}},
                "budget": {"max_drop": 0.01},
                "passes": [{"kind": "quantize_dynamic"}],
                "output": "runs/first",
            }
        )

    A run into the directory of an earlier one takes from there every step whose inputs are the
    same; with `force` everything is done anew. `store` is a directory in which several runs keep
    their steps together, at the same time too, so that what they have in common is done once.

    With `allow_inconclusive` a certification split that cannot prove the budget does not stop the
    run; the report says so. With `allow_code` the functions of your own that the recipe names, as
    `file.py:function`, are imported and called; without it such a recipe is refused.

    In a terminal or a notebook a bar shows how far the run is; `progress=False` or None shows
    nothing anywhere, and an object of your own with the methods of `compressor.progress.Progress`
    is told instead. What other libraries print or log on the way is left out, and with
    `quiet=False` it is not; their settings are as before afterwards. No signal handler is
    installed. Ctrl-C, or a notebook's stop button, ends the run with a `KeyboardInterrupt`, and the
    same call resumes it.

    Under torchrun or accelerate launch the first process does the run. The others take part in its
    trainings: in them this call does not return, and they end when the first process does.

    Raises the errors of `compressor.errors`; every one raised after the output directory was
    claimed carries the report as `error.report`, and the report is on disk. Any other exception is
    a bug of ours; the report says so then, and the traceback lies beside it.
    """
    if isinstance(progress, bool):
        progress = default_progress() if progress else None
    shown = SILENT if progress is None else progress
    if not join().leads:
        follow(quiet=quiet)
    recipe = load_recipe(recipe, overrides)
    recipe = recipe.allowing_code() if allow_code else recipe
    recipe.require_own_code()
    if force and store is not None:
        raise RecipeError(
            "--force with --store: one does every step anew, the other takes over what other runs "
            "did; leave one of them out"
        )
    with quiet_libraries() if quiet else loud_libraries():
        return _carry_out(
            recipe,
            _Options(
                output,
                device,
                shown,
                store=None if store is None else Path(store).expanduser(),
                force=force,
                allow_inconclusive=allow_inconclusive,
            ),
        )


@dataclass(frozen=True)
class Trial:
    """What a run is told that is to be compared with others: it holds no certification rows.

    It ends when the artifact was judged on the search split and `timing` was measured, where that
    is not None; the artifact is not completed, so that nothing loads it.
    """

    timing: BenchmarkSettings | None


def run_trial(
    recipe: Recipe,
    trial: Trial,
    *,
    output: Path,
    store: Path,
    device: Device = "auto",
    progress: Progress = SILENT,
    quiet: bool = True,
) -> RunReport:
    """Carry out a recipe as `run` does, up to where its artifact can be compared with others.

    Raises as `run`.
    """
    require_one_process()
    with quiet_libraries() if quiet else loud_libraries():
        return _carry_out(recipe, _Options(output, device, progress, store=store, trial=trial))


@dataclass(frozen=True)
class _Options:
    """What a run is told besides its recipe: what the arguments of `run` say, or a trial."""

    output: str | Path | None
    device: Device
    progress: Progress
    store: Path | None  # that other runs use too
    force: bool = False
    allow_inconclusive: bool = False
    trial: Trial | None = None


def _carry_out(recipe: Recipe, options: _Options) -> RunReport:
    place = options.output or recipe.output
    if place is None:
        raise RecipeError("output: no directory was given; set `output` in the recipe or --output")
    target = select_device(options.device)
    require_cpu_as_told(target.type)
    threads = recipe.benchmark.threads or default_threads()
    check_runtime(recipe)
    place = Path(place).expanduser()
    if exists(place / "report.json"):
        check_inputs(recipe)  # a mistake in the recipe costs nothing of what an earlier run gave
    inputs = local_inputs(recipe)
    if options.store is not None:
        inputs["--store"] = options.store
    with claim_output(place, force=options.force, inputs=inputs) as directory:
        log = _begun(recipe, target, threads)
        steps = _Run(recipe, options, directory, target, threads, log, options.progress)
        with _reported(steps):
            steps.all()
        reason = PASSED if options.trial is None else COMPARED
        return finish(directory, log, "passed", reason, None)


def _begun(recipe: Recipe, device: torch.device, threads: int) -> RunLog:
    """Return the log of a run that begins now."""
    return RunLog(
        recipe=recipe.to_dict(),
        recipe_name=recipe.path.name if recipe.path else "a recipe built in Python",
        max_drop=recipe.budget.max_drop,
        environment=_environment(recipe, device, threads),
        source_checkpoint=recipe.model.checkpoint,
        own_code=tuple(
            OwnCodeRecord(item.key, item.reference, item.sha256)
            for item in recipe.require_own_code()
        ),
    )


@contextmanager
def _reported(steps: _Run) -> Iterator[None]:
    """Write the report of a run that ends in this block by an error, whatever it is."""
    directory, log = steps.directory, steps.log
    try:
        with (
            memory_as_mismatch(),
            explained_by_others(),
            steps.progress.whole(steps.estimate.remaining),
        ):
            yield
    except CompressorError as error:
        error.report = finish(directory, log, verdict_of(error), str(error), steps.current)
        raise
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        mismatch = disk_mismatch(error, steps.current, steps.recipe, directory)
        mismatch.report = finish(directory, log, "failed", str(mismatch), steps.current)
        raise mismatch from error
    except (KeyboardInterrupt, Terminated) as stop:
        told = stopped_reason(stop, forced=steps.options.force)
        report = finish(directory, log, "stopped", told, steps.current)
        stop.add_note(headline(report))
        raise
    except BaseException as error:  # a bug of ours: the report comes first
        told = internal_error(error, steps.current, directory)
        finish(directory, log, "internal_error", told, steps.current)
        error.add_note(told)
        raise
    finally:
        steps.close()


def _environment(recipe: Recipe, device: torch.device, threads: int) -> Environment:
    """Return what makes the run's numbers repeatable, OpenVINO's version where it computes any."""
    found = describe_environment(seed=recipe.seed, device=device, threads=threads)
    if recipe.uses_openvino:
        found["packages"] = {**found["packages"], OPENVINO: openvino_version()}
    return found


@dataclass
class _Run:
    """One run from top to bottom; `current` is the step under way, for the report."""

    recipe: Recipe
    options: _Options
    directory: OutputDirectory
    device: torch.device
    threads: int
    log: RunLog
    progress: Progress
    store: StepStore | None = None  # once the run has loaded what it reads
    estimate: Estimate = field(default_factory=Estimate)
    current: str = "load"
    checkpoint_limit: int | None = None  # tokens; None where nothing says how many it reads
    limited_by: str | None = None  # the recipe's key that says how many the artifact reads

    def all(self) -> None:
        """Carry out every step in order; each raises when the run must stop."""
        self.load()
        self.score_baseline()
        checkpoint = self.torch_passes()
        graph = self.export(checkpoint)
        graph = self.onnx_passes(graph)
        artifact = self.write_artifact(graph)
        if self.options.trial is not None:
            self.time_trial(artifact, self.options.trial.timing)
            return
        self.certify(artifact)
        self.benchmark(artifact)
        self.require_proof()
        self.seal(artifact)

    def close(self) -> None:
        """Let go of the steps that other runs share."""
        if self.store is not None:
            self.store.close()

    def load(self) -> None:
        """Find the checkpoint, read the splits, and check that they, budget and passes fit."""
        self.current = "load"
        check_inputs(self.recipe)  # before a built-in model is trained
        files = self._find_checkpoint()
        self._fit_to(files)
        metric = self._choose_metric(files)
        self._read_rows(metric)
        self._require_trainings()
        with self.progress.bar("load the checkpoint", None):
            pace = look_ahead(self.recipe, files, self.task, self.splits)
        self._open_stages(files, metric)
        self._tell_plan(metric, pace if self.device.type == "cpu" else None)

    def _find_checkpoint(self) -> CheckpointFiles:
        """Return the untouched checkpoint's files, and take the task that it is for."""
        recipe = self.recipe
        name = resolve_builtin(recipe.model.checkpoint, progress=self.progress)
        with self.progress.bar(f"find {name}", None):
            files = find_checkpoint(name, revision=recipe.model.revision, base=recipe.model.base)
        with recipe.placing():
            self.task = load_task(
                recipe.model.task or files.infer_task(),
                max_length=recipe.data.max_length or recipe.export.max_length,
                **recipe.model.task_options,
            ).fitted_to(files.directory)
            self.task.require_prompts(files.directory, recipe.data.prompt_names)
            self.log.pooling = self.task.how_pooled(files.directory)
        files.require_head(self.task.name)
        if texts := self.task.texts_beside():
            with recipe.placing():
                self.task = self.task.with_text_vectors(text_vectors(files.directory, texts))
        files = files.of_task(self.task)
        self.task = self.task.as_saved(files.directory)
        return files

    def _fit_to(self, files: CheckpointFiles) -> None:
        """Require passes that fit the checkpoint, and fit lengths to what all checkpoints read."""
        readers = {"model.checkpoint": files, **other_checkpoints(self.recipe, self.task.name)}
        require_fitting_passes(self.recipe, self.task, files)
        if not self.task.reads_tokens:
            return
        limits = token_limits(readers, self.task)
        self.limited_by = limited_by(self.recipe, limits)
        self.recipe = recipe = fit_lengths(self.recipe, limits)
        self.log.recipe = recipe.to_dict()
        assert recipe.export.max_length is not None, "it was just set"
        for key, found in readers.items():
            if not key.endswith(".teacher"):
                check_family(found)
            check_attention(found, recipe.export.max_length)
        own = limits["model.checkpoint"]
        self.checkpoint_limit = None if own >= NO_LIMIT else own

    def _choose_metric(self, files: CheckpointFiles) -> str:
        """Return the budget's metric, which may be the recipe's own, and take the labels."""
        recipe = self.recipe
        if (function := recipe.own_metric) is not None:
            self.task = with_own_metric(self.task, function, files.labels_for(self.task))
        metric = recipe.budget.metric_name or self.task.metrics[0].name
        if metric not in self.task.metric_names():
            allowed = f"allowed for {self.task.name}: {', '.join(self.task.metric_names())}"
            unknown = f"unknown metric '{metric}' ({allowed})"
            raise RecipeError(recipe.describe("budget.metric", unknown))
        self.log.task, self.log.metric = self.task.name, metric
        self.log.labels = files.labels_for(self.task)
        with recipe.placing():
            self.task = self.task.for_labels(self.log.labels)
        self.log.source_sha256, self.log.source_bytes = files.sha256(), files.bytes_on_disk()
        return metric

    def _read_rows(self, metric: str) -> None:
        """Read the splits, of which search has to be fine enough for the budget."""
        with self.recipe.placing():
            self.splits = self._load_splits(metric)
        mistake = self.recipe.budget.resolution_mistake(len(self.splits["search"]))
        if mistake is not None and not find_metric(metric).is_fine:
            raise RecipeError(self.recipe.describe("budget.max_drop", mistake))
        if "certification" in self.splits:
            check_readings(self.directory.path / READINGS)

    def _require_trainings(self) -> None:
        """Raise `EnvironmentMismatch` where a pass would train as this process cannot."""
        for step in self.recipe.passes:
            for _, training in step.trainings():
                require_precision(training, self.device)
                _require_asked(training)

    def _open_stages(self, files: CheckpointFiles, metric: str) -> None:
        """Open the store of steps, and get ready to do them."""
        if self.options.store is None:
            self.store = StepStore(self.directory.steps, self.directory.work)
        else:
            told = self.progress.result
            self.store = SharedStepStore(self.options.store, self.directory.work, told)
        self.stages = Stages(
            self.recipe,
            self.store,
            untouched=StoredCheckpoint(files, files.fingerprint()),
            task=self.task,
            metric=metric,
            labels=self.log.labels,
            splits=self.splits,
            device=self.device,
            threads=self.threads,
            progress=WatchedProgress(self.progress, self.estimate),
            estimate=self.estimate,
        )
        self.progress = self.stages.progress
        self.log.steps, self.log.damaged_steps = self.stages.done, self.store.damaged

    def score_baseline(self) -> None:
        """Score the untouched checkpoint, export it the same way, and measure its size."""
        self._start("baseline")
        untouched = self.stages.untouched
        lengths = self.stages.check_reading(self.checkpoint_limit)
        self.log.lengths = lengths and replace(lengths, limited_by=self.limited_by)
        own = self.task
        self.stages, self.baseline_score = tuned_baseline(self.stages, self.log)
        stages, self.task = self.stages, self.stages.task
        self.log.thresholds = self.task.label_thresholds(self.log.labels)
        judge_baseline(
            self.log,
            self.recipe,
            self.task,
            self.splits["search"],
            self.baseline_score,
            order_is_judged=self.task is not own,
        )
        for doubt in self.log.doubts:
            self.progress.result(f"{doubt}.")
        exported = stages.export("baseline: export", untouched)
        self.baseline_graph = exported.graph
        stages.parity("baseline: parity", untouched, exported.graph)
        link_tree(exported.graph.path.parent, self.directory.baseline)
        self.log.baseline = ModelRecord(
            self.baseline_score,
            exported.size,
            exported.components,
            stages.flops("baseline: flops", exported.graph),
        )
        self.progress.result(record_line(self.log.baseline))
        if self.log.lengths is not None and self.log.lengths.num_cut:
            self.progress.result(cut_line(self.log.lengths))
        self.progress.upcoming(next_step(self.recipe, None))

    def torch_passes(self) -> StoredCheckpoint:
        """Apply the PyTorch passes; `checkpoint/` holds the model after each of them."""
        model = self.stages.untouched
        for position, step in enumerate(self.recipe.passes):
            if isinstance(step, TorchPass):
                if position == self.recipe.searched_pass:
                    model = self._search(position, step, model)
                else:
                    model = self._gated(position, step, model)
                self._show_checkpoint(model)
        if model is self.stages.untouched:
            self._show_checkpoint(self.stages.save_untouched())
        return model

    def export(self, checkpoint: StoredCheckpoint) -> StoredGraph:
        """Export, and require that ONNX Runtime computes PyTorch's logits."""
        self._start("export")
        graph = self.stages.export("export", checkpoint).graph
        self.log.parity = self.stages.parity("parity", checkpoint, graph)
        return graph

    def onnx_passes(self, graph: StoredGraph) -> StoredGraph:
        """Apply the passes over the graph, each to the file that the one before wrote."""
        for position, step in enumerate(self.recipe.passes):
            if isinstance(step, OnnxPass):
                graph = self._gated(position, step, graph)
        return graph

    def write_artifact(self, graph: StoredGraph) -> StoredGraph:
        """Write the files that ship, and judge that very graph: what is measured is what ships."""
        self._start("artifact")
        artifact = self.stages.write_artifact(graph, self.directory.artifact)
        score = self.stages.score("artifact", artifact.graph, reference=self.baseline_score)
        flops = self.stages.flops("artifact: flops", artifact.graph)
        self.log.final = ModelRecord(score, artifact.size, artifact.components, flops)
        judge = self.stages.judge
        self.progress.result(gate_line(judge, self.baseline_score, score, artifact.size))
        compare_predictions(self.log, self.recipe, self.task, self.splits["search"], score)
        earlier = self.log.costliest_pass()
        judge.require(self.current, self.baseline_score, score, earlier=earlier)
        self._announce_after("artifact")
        return artifact.graph

    def certify(self, artifact: StoredGraph) -> None:
        """Read the certification split, once, now that no choice depends on it any more."""
        if "certification" not in self.splits:
            self.log.missing["certification"] = "the recipe gives no certification split"
            estimate_rows(self.log, self.recipe, self.task, self.splits["search"])
            return
        self._start("certification")
        name = "certification"
        baseline = self.stages.score(name, self.stages.untouched, split=name, of="the baseline")
        final = self.stages.score(name, artifact, split=name, of="the artifact", reference=baseline)
        split = self.splits[name]
        self.log.certificate_readings = record_reading(
            self.directory.path / READINGS, baseline, final, fingerprint(split), artifact.digest
        )
        judge_order(
            self.log, self.recipe, self.task, split, baseline
        )  # may end the run, having read them
        try:
            certify(self.log, self.recipe, self.task, split, baseline=baseline, final=final)
        finally:
            if self.log.certification is not None:
                shown = certified_line(self.log.certification, self.log.certificate)
                self.progress.result(shown)
        self._announce_after("certification")

    def benchmark(self, artifact: StoredGraph) -> None:
        """Time baseline and artifact, interleaved, on every provider of the recipe."""
        providers = self.recipe.benchmark.providers
        if not providers:
            self.log.missing["latencies"] = "the recipe's benchmark.providers is empty"
        if not self.recipe.benchmark.measures:
            return
        self._start("benchmark")
        for provider in providers:
            settings = self.recipe.benchmark.model_copy(update={"providers": (provider,)})
            name = f"benchmark on {provider}"
            self.log.latencies += self.stages.time(name, settings, self.baseline_graph, artifact)
        if providers:
            self.progress.result(timed_line(self.log.latencies))
        if self.recipe.benchmark.runtimes:
            self.log.runtimes = self.stages.time_runtimes(RUNTIMES, artifact)
        noisy = [item.noisy for item in self.log.latencies]
        if any([*noisy, *(item.noisy for item in self.log.runtimes)]):
            self.progress.result("noisy: the machine was busy, so read speeds with care")

    def time_trial(self, artifact: StoredGraph, timing: BenchmarkSettings | None) -> None:
        """Time baseline and artifact for a choice between runs, where one goes by time."""
        if timing is None:
            self.log.missing["latencies"] = "no choice between the trials goes by time"
        else:
            self._start("benchmark")
            name = f"benchmark on {timing.providers[0]}"
            ends = (self.baseline_graph, artifact)
            self.log.latencies = self.stages.time(name, timing, *ends, to_choose=True)
        assert self.store is not None
        self.store.remove_unused()

    def require_proof(self) -> None:
        """Stop before the artifact is complete when the certification split proves too little."""
        self.current = "slices"
        gate_slices(self.log, self.recipe.budget)
        self.current = "gaps"
        gate_gaps(self.log)
        self.current = "certification"
        require_proof(self.log, allow_inconclusive=self.options.allow_inconclusive)

    def seal(self, artifact: StoredGraph) -> None:
        """Complete the artifact; until its manifest is there, nothing loads it."""
        self._start("seal")
        folder = self.directory.artifact
        report = self.log.report("passed", PASSED, None)
        oldest = oldest_runtime(folder / MODEL)
        card = render_model_card(report, min_onnxruntime=oldest)
        (folder / "README.md").write_text(card, encoding="utf-8")
        shipped = replace(self.task, max_length=self.recipe.export.max_length)
        made = {"versions": package_versions(), "provider": self.recipe.export.provider}
        facts = {**self.log.provenance(), **made, **self._openvino(), MIN_RUNTIME: oldest}
        lay_out(folder)
        some = self.splits["search"].examples[:_READ_TWICE]
        preprocessor = self.stages.preprocessor(artifact)
        facts |= needs_transformers(folder, shipped, preprocessor, some)
        seal_artifact(folder, task=shipped, labels=self.log.labels, facts=facts)
        try:
            loaded = load_artifact(
                folder, provider=self.recipe.export.judged_on, threads=self.threads
            )
            self.log.predictions = self._predictions(loaded)
        except BaseException:
            (folder / MANIFEST).unlink(missing_ok=True)  # what did not load here loads nowhere
            raise
        assert self.store is not None
        self.store.remove_unused()
        self.estimate.finished("seal", 0.0, measured=False)

    def _openvino(self) -> dict[str, object]:
        """Return the manifest's entry for OpenVINO; empty for an artifact of another provider."""
        if self.recipe.export.provider != OPENVINO:
            return {}
        precision = self.stages.precision
        properties = openvino_properties(threads=None, precision=precision)
        told = {"version": openvino_version(), PRECISION: precision, "properties": properties}
        return {OPENVINO: told}

    def _predictions(self, artifact: Artifact) -> tuple[PredictionRecord, ...]:
        if self.recipe.export.judged_on == "tensorrt":  # which would build an engine for minutes
            self.log.missing["predictions"] = "the artifact runs on TensorRT, which first builds it"
            return ()
        assert self.log.final is not None
        return sample_predictions(
            artifact,
            self.splits["search"],
            self.baseline_score,
            self.log.final.score,
            with_examples=self.recipe.report.examples,
        )

    def _start(self, step: str) -> None:
        self.current = step
        logger.info("%s: start", step)
        self.progress.stage(TITLES[step])
        if step == "seal":  # the only step without stored parts
            self.estimate.started(step)

    def _announce_after(self, step: str) -> None:
        steps = last_steps(self.recipe)
        self.progress.upcoming(steps[steps.index(step) + 1])

    def _tell_plan(self, metric: str, pace: Pace | None) -> None:
        """Say what is about to be done, how long it may take, and what is there already."""
        num_rows = {name: len(split) for name, split in self.splits.items()}
        planned = plan_of(self.recipe, num_rows, pace, threads=self.threads)
        self.estimate.take(planned)
        names = self.estimate.costs.keys() - {"seal"}  # which is never stored
        found = stored_steps(self.stages, self.log, self.checkpoint_limit)
        for name, seconds in found.items():
            self.estimate.finished(name, seconds)
        if "artifact" in found:
            self.estimate.searching(0)
        head, *rest = plan_lines(
            self.recipe,
            metric,
            {name: split.num_judged or len(split) for name, split in self.splits.items()},
            self.directory.path,
            seconds=self.estimate.remaining(),
            stored=len(names & found.keys()),
            steps=len(names),
        )
        self.progress.stage(head)
        for line in rest:
            self.progress.result(line)

    def _show_checkpoint(self, stored: StoredCheckpoint) -> None:
        fresh = self.directory.work / "checkpoint"
        if fresh.exists():
            shutil.rmtree(fresh)
        link_tree(stored.files.directory, fresh)
        self.directory.replace_folder(fresh, self.directory.checkpoint)

    def _gated(self, position: int, step: Pass, before: AnyStored) -> AnyStored:
        self.current = f"passes[{position}] ({step.kind})"
        logger.info("%s: start", self.current)
        return pass_gate(self.stages, self.log, position, step, before, self.baseline_score)

    def _search(self, position: int, step: Pass, before: StoredCheckpoint) -> StoredCheckpoint:
        """Find the fraction of a pass that the budget's target asks for; later steps are stored."""
        self.current = f"passes[{position}] ({step.kind})"
        logger.info("%s: start of the search", self.current)
        ends = (self.baseline_score, self.baseline_graph)
        return search_fraction(self.stages, self.log, position, before, *ends)

    def _load_splits(self, metric: str) -> dict[str, Dataset]:
        labels = self.log.labels
        splits = read_splits(self.recipe, task=self.task, label_names=labels, metric=metric)
        if self.options.trial is not None and splits.pop("certification", None) is not None:
            self.log.missing["certification"] = "a trial of a sweep holds no certification rows"
        further = {
            f"passes[{position}]": read_further_rows(step.further_rows, self.task)
            for position, step in enumerate(self.recipe.passes)
            if step.further_rows is not None
        }
        if "certification" in splits and not self.options.allow_inconclusive:
            check_held(self.recipe.budget, self.task, splits["certification"], labels)
        self.log.splits = describe_splits({**splits, **further})
        rows = {name: split.rows for name, split in splits.items()}
        self.directory.write_text("splits.json", rows_as_json(rows) + "\n")
        return splits


def _require_asked(training: TrainingSettings) -> None:
    """Raise `EnvironmentMismatch` where accelerate was told another precision than the recipe."""
    asked = asked_precision()
    if asked not in (None, training.precision):
        raise EnvironmentMismatch(
            f"accelerate was told to train in {asked} (ACCELERATE_MIXED_PRECISION), and the recipe "
            f"says precision: {training.precision}; set precision to {asked} in the recipe, or "
            f"leave --mixed_precision out"
        )
