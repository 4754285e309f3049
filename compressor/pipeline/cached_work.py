"""How each step of a run is done, and everything that its result depends on.

`run.py` knows the order of the steps. Here each one becomes a question to the step store: is
there a result for exactly these inputs? If not, it is made and stored. A model that a step gives is
always read from the store by the next one, whether it was made a second ago or in a run that was
killed last week: both ways lead to the same bytes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.artifact import MODEL, write_artifact
from compressor.attribution.occlusion import Reader, ask, hiding_for, occlude
from compressor.data import Dataset, fingerprint
from compressor.data.tokens import encoded
from compressor.errors import PassError, StepFailed
from compressor.export.output_parts import add_output_parts
from compressor.export.to_onnx import export_onnx
from compressor.export.token_states import add_token_states
from compressor.export.traces import Traces
from compressor.files import sha256
from compressor.machine.environment import result_conditions, seed_everything, timing_conditions
from compressor.measurements import (
    Flops,
    Latency,
    LengthRecord,
    Parity,
    RuntimeLatency,
    Score,
    Size,
    StepRecord,
)
from compressor.models.checkpoint import find_checkpoint
from compressor.models.onnx_model import OnnxModel
from compressor.models.probes import Readings
from compressor.models.provider_options import AS_WRITTEN, PLAIN, ProviderSettings
from compressor.models.torch_model import TorchModel, load_model, load_preprocessor
from compressor.onnx_graph.onnx_file import data_path
from compressor.passes import Model, OnnxPass, Pass, PassContext, TorchPass, apply_pass
from compressor.paths import cache_directory
from compressor.pipeline.announce import reused_line
from compressor.pipeline.attributions import Attributions, rows_to_explain, with_agreement
from compressor.pipeline.cached_steps import (
    CHECKPOINT,
    AnyStored,
    Exported,
    Latencies,
    PassResult,
    RuntimeLatencies,
    StoredCheckpoint,
    StoredGraph,
    StoredModel,
    Told,
    checkpoint_of,
    exported,
    graph_of,
)
from compressor.pipeline.estimate import Estimate
from compressor.pipeline.judge import Judge
from compressor.pipeline.same_prediction import (
    JUDGED,
    compare_export,
    read_exported,
    require_one_prediction,
)
from compressor.pipeline.step_store import Step, StepStore, key_of, link_or_copy, link_tree
from compressor.progress import Progress
from compressor.recipe.recipe import BenchmarkSettings, Recipe
from compressor.runtime.openvino_session import OPENVINO, Precision, openvino_version
from compressor.tasks import Example, Task, length_of
from compressor.tasks.hiding import Hiding
from compressor.training.training_run import Scorer
from compressor.verify.benchmark import Contestant, benchmark
from compressor.verify.evaluation import (
    benchmark_batches,
    digest_of,
    engine_settings,
    evaluate,
    flops_of,
)
from compressor.verify.runtimes import time_runtimes
from compressor.verify.timing import TimingPlan

_LOOKED_AT = 64  # examples, for a short and a long one


@dataclass
class Stages:
    """The steps of one run over one step store; `done` lists them in the order they were asked."""

    recipe: Recipe
    store: StepStore
    untouched: StoredCheckpoint
    task: Task
    metric: str
    labels: tuple[str, ...]
    splits: Mapping[str, Dataset]
    device: torch.device
    threads: int
    progress: Progress
    estimate: Estimate = field(default_factory=Estimate)
    done: list[StepRecord] = field(default_factory=list)
    baseline_score: Score | None = None  # of the untouched checkpoint on the search split
    scored: dict[str | None, Score] = field(default_factory=dict)  # graphs, by `_scored_as`
    explained: dict[str, Attributions] = field(default_factory=dict)  # likewise
    readings: dict[str, Readings] = field(default_factory=dict)  # by digest, until compared with

    def __post_init__(self) -> None:
        self._prints = {name: fingerprint(split) for name, split in self.splits.items()}
        task = {"name": self.task.name, **self.task.facts()}
        conditions = result_conditions()
        self._always = {**conditions, "task": task}
        self._traces = Traces(cache_directory() / "traces", key_of(conditions))
        self._torch = {"device": str(self.device), "torch_threads": torch.get_num_threads()}
        export = self.recipe.export
        # All that `open_graph` opens a graph by.
        self._onnx = {
            "provider": export.judged_on,
            "made_for": export.provider,
            "threads": self.threads,
            "longest": self.max_length if export.judged_on == "tensorrt" else None,
            **self._openvino(export.judged_on),
        }

    @property
    def judge(self) -> Judge:
        """Return what every score on the search split is held against."""
        return Judge(self.recipe.budget, self.task, self.splits["search"], self.labels)

    @property
    def max_length(self) -> int | None:
        """Return how many tokens of a text the artifact reads; None for images."""
        return self.recipe.export.max_length if self.task.reads_tokens else None

    def open_checkpoint(self, stored: StoredCheckpoint) -> TorchModel:
        """Load a PyTorch model onto the device of the run."""
        model = load_model(stored.files, self.task)
        model.move_to(self.device)
        return model

    def _openvino(self, provider: str) -> dict[str, Any]:
        """Return what a result of OpenVINO depends on; empty for another provider."""
        if provider != OPENVINO:
            return {}
        return {OPENVINO: {"version": openvino_version(), "precision": self.precision}}

    @property
    def precision(self) -> Precision:
        """Return what OpenVINO computes in."""
        return self.recipe.export.precision

    def open_graph(self, stored: StoredGraph) -> OnnxModel:
        """Return an ONNX model on the provider that the recipe has graphs judged on."""
        provider, settings = self.recipe.export.judged_on, PLAIN
        if provider != self.recipe.export.provider:
            settings = AS_WRITTEN
        elif provider == "tensorrt":
            folder = self.store.private / "tensorrt" / stored.digest
            settings = engine_settings(self.max_length, folder)
        elif provider == OPENVINO:
            settings = ProviderSettings(precision=self.precision)
        return OnnxModel(stored.path, provider, self.threads, settings, spins=False)

    def score(
        self,
        stage: str,
        model: StoredModel,
        *,
        split: str = "search",
        of: str | None = None,
        reference: Score | None = None,
    ) -> Score:
        """Score a model on a split with the recipe's metric; `stage` and `of` name the step.

        `reference` is the untouched checkpoint's score, which metrics without labels compare with.

        Raises `PassError` when an output is not finite.
        """

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            if isinstance(model, StoredGraph):
                predictor: Any = self.open_graph(model)
                preprocessor = self.preprocessor(model)
            else:
                predictor = self.open_checkpoint(model)
                preprocessor = predictor.preprocessor
            own = (self.task, preprocessor, self.splits[split], self.metric)
            same = self._scored_as(model, preprocessor, split, reference)
            if same in self.scored:
                return {"score": self.scored[same]}
            try:
                found = evaluate(predictor, *own, reference=reference, progress=self.progress)
            except FloatingPointError as error:
                raise PassError(str(error), kind=stage) from error
            if same is not None:
                self.scored[same] = found
            return {"score": found}

        runs_on = self._onnx if isinstance(model, StoredGraph) else self._torch
        read = {"split": self._prints[split], "metric": self.metric, **self._inputs(model)}
        read |= {} if reference is None else digest_of(reference)
        read |= self._own_metric()
        name = f"{stage}: score" + ("" if of is None else f" of {of}")
        found = self._do("score", name, {**read, **runs_on}, work).fact("score", Score)
        if self.recipe.budget.min_attribution_agreement is not None:
            found = self._explained(found, stage, model, split, of)
        if model is self.untouched and split == "search":
            self.baseline_score = found
        return found

    def _explained(
        self, score: Score, stage: str, model: StoredModel, split: str, of: str | None
    ) -> Score:
        """Return a score that also holds how far attributions agree with the untouched ones'."""
        own = load_preprocessor(self.untouched.files, self.task)
        other = self._reads(model)
        try:
            hiding = hiding_for(self.task, own, other)
            rows = rows_to_explain(self.splits[split], score, seed=self.recipe.seed)
            place = "baseline" if split == "search" else split
            named = f"{place}: attributions" + (" of the baseline" if split != "search" else "")
            before = self._attributions(named, self.untouched, split, rows, hiding)
            if model is self.untouched:
                return with_agreement(score, before, before)
            name = f"{stage}: attributions" + ("" if of is None else f" of {of}")
            after = self._attributions(name, model, split, rows, hiding)
            return with_agreement(score, before, after)
        except StepFailed as error:
            raise PassError(str(error), kind=stage) from error

    def _attributions(
        self, name: str, model: StoredModel, split: str, rows: NDArray[np.int64], hiding: Hiding
    ) -> Attributions:
        """Explain the untouched checkpoint's predictions for rows of a split with a model."""

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            same = self._scored_as(model, self._reads(model), split, None)
            if same is not None and same in self.explained:
                return {"attributions": self.explained[same]}
            examples = [self.splits[split].examples[row] for row in rows.tolist()]
            original = self.open_checkpoint(self.untouched)
            asked = ask(Reader(original, original.preprocessor), self.task, examples)
            predictor: Any = original
            if isinstance(model, StoredGraph):
                predictor = self.open_graph(model)
            elif model is not self.untouched:
                predictor = self.open_checkpoint(model)
            reader = Reader(predictor, self._reads(model))
            values = occlude(reader, self.task, asked, hiding, progress=self.progress)
            found = Attributions.of(asked, values)
            if same is not None:
                self.explained[same] = found
            return {"attributions": found}

        runs_on = self._onnx if isinstance(model, StoredGraph) else {}
        read = {
            "split": self._prints[split],
            "rows": rows.tolist(),
            "hiding": hiding,
            "untouched": self.untouched.digest,
            **self._inputs(model),
            **self._torch,
            **runs_on,
        }
        return self._do("attributions", name, read, work).fact("attributions", Attributions)

    def _reads(self, model: StoredModel) -> Any:
        """Return what the examples of a model are read with."""
        if isinstance(model, StoredGraph):
            return self.preprocessor(model)
        return load_preprocessor(model.files, self.task)

    def _scored_as(
        self, model: StoredModel, preprocessor: Any, split: str, reference: Score | None
    ) -> str | None:
        """Return what two graphs share that score the same; None where that cannot be told.

        What ships is the graph that the last pass gave, under another name and with a tokenizer
        that was saved and loaded: where the bytes of the graph and all inputs are the same, so is
        the score.
        """
        if not isinstance(model, StoredGraph):
            return None
        inputs = encoded(self.task, preprocessor, self.splits[split]).key
        if inputs is None:
            return None
        files = [path for path in (model.path, data_path(model.path)) if path.is_file()]
        read = {} if reference is None else digest_of(reference)
        read |= {"inputs": inputs, **{path.name: sha256(path) for path in files}}
        return key_of({**read, **self._always, "metric": self.metric})

    def check_reading(self, limit: int | None) -> LengthRecord | None:
        """Do what `require_one_prediction` promises; the checkpoint reads up to `limit` tokens."""
        lengths = (limit, self.max_length)

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            model = self.open_checkpoint(self.untouched)
            own = (model, self.untouched.files, self.splits)
            found, self.readings[self.untouched.digest] = require_one_prediction(*own, *lengths)
            return {"lengths": found}

        prints = {name: self._prints[name] for name in JUDGED if name in self.splits}
        read = {"splits": prints, "lengths": lengths, **self._inputs(self.untouched), **self._torch}
        done = self._do("reading", "baseline: reading", read, work)
        return None if done.facts["lengths"] is None else done.fact("lengths", LengthRecord)

    def run_pass(
        self, name: str, position: int, step: Pass, before: AnyStored, told: Told
    ) -> PassResult[AnyStored]:
        """Apply a pass to a stored model; `told` has what it said, even when it fails.

        Raises `PassError` where the pass refuses on purpose (`StepFailed`); anything else that it
        raises is a bug, and comes through as it is.
        """
        apply = self._apply_torch if isinstance(step, TorchPass) else self._apply_onnx

        def work(scratch: Path, result: Path) -> dict[str, Any]:
            context = self._lend(step, before, scratch, told)
            try:
                size = apply(position, step, before, context, result)
            finally:
                told.facts.update(context.facts)
            return {"size": size, "notes": told.notes, "facts": told.facts}

        threads = self.threads if isinstance(step, OnnxPass) else 1  # its settings say others
        read = {
            "kind": step.kind,
            "settings": step.settings,
            "untouched": self.untouched.digest,
            "splits": {split: self._prints[split] for split in sorted(step.required_splits())},
            "checkpoints": [
                find_checkpoint(name).fingerprint() for name in step.required_checkpoints().values()
            ],
            "files": step.file_digests(),
            "seed": self.recipe.seed,
            **self._inputs(before),
            **self._torch,
            **(self._onnx if isinstance(step, OnnxPass) else {}),
            **(timing_conditions(threads) if step.measures_time else {}),
            **self._spare(step),
            **({"scorer": self._scorer().key} if step.scores_itself else {}),
        }
        done = self._do("pass", name, read, work)
        told.notes[:], told.facts = done.facts["notes"], dict(done.facts["facts"])
        size = done.fact("size", Size)
        if isinstance(before, StoredGraph):
            given = graph_of(done, before.checkpoint, before.merged)
            size = given.as_in_pytorch(size)
        else:
            given = checkpoint_of(done)
        return PassResult(given, size, done.seconds, done.reused)

    def save_untouched(self) -> StoredCheckpoint:
        """Store the untouched checkpoint in the form in which passes give theirs."""

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            self.open_checkpoint(self.untouched).save(result / CHECKPOINT)
            return {}

        done = self._do("checkpoint", "checkpoint", {"model": self.untouched.digest}, work)
        return checkpoint_of(done)

    def export(self, name: str, model: StoredCheckpoint) -> Exported:
        """Export a model; the same model and settings give the same stored graph."""
        settings = self.recipe.export

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            loaded = self.open_checkpoint(model)
            with self.progress.bar(name, None):
                graph = export_onnx(
                    loaded,
                    result / MODEL,
                    provider=settings.provider,
                    fuse=settings.fuse,
                    opset=settings.opset,
                    threads=self.threads,
                    traces=self._traces,
                )
            size, counts = graph.size(), loaded.parameter_counts()
            merged = counts[0] - size.parameters, counts[1] - size.nonzero_parameters
            return {"size": size, "merged": merged, "components": graph.components()}

        # What changes nothing in the graph.
        others = {"max_parity_diff", "evaluate_on", "max_length", "precision", "token_states"}
        how = {"export": settings.model_dump(mode="json", exclude=others)}
        done = self._do("export", name, {**how, **self._inputs(model), **self._torch}, work)
        return exported(done, graph_of(done, model, tuple(done.facts["merged"])))

    def parity(self, name: str, model: StoredCheckpoint, graph: StoredGraph) -> Parity:
        """Compare an exported graph with its model on rows of the search split.

        Raises `ParityError` as `read_exported` and `compare_export` do.
        """
        limit = self.recipe.export.max_parity_diff

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            opened = self.open_graph(graph)
            # Shown is that the graph is right; what a precision costs, the gates measure.
            exact = dataclasses.replace(opened.settings, precision="fp32")
            known = self.readings.pop(model.digest, None)  # which needs no second load
            if known is None:
                own = self.open_checkpoint(model)
                known = read_exported(own, self.splits["search"], self.max_length)
            plain = dataclasses.replace(opened, settings=exact)
            return {"parity": compare_export(known, plain, self.task, limit)}

        read = {"graph": graph.digest, "split": self._prints["search"], "limit": limit}
        read |= {"max_length": self.max_length, **self._inputs(model), **self._torch, **self._onnx}
        return self._do("parity", name, read, work).fact("parity", Parity)

    def write_artifact(self, graph: StoredGraph, folder: Path) -> Exported:
        """Write the files that ship into the empty `folder`, and return the graph among them."""
        parts = self.task.output_parts

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            model = self.open_checkpoint(graph.checkpoint)
            shipped = write_artifact(
                result,
                model=self.open_graph(graph),
                preprocessor=model.preprocessor,
                config=model.module.config,
                max_length=self.max_length,
            )
            self.task.write_beside(model.module, model.preprocessor, result)
            if self.recipe.export.token_states:
                batch = self.task.encode(model.preprocessor, self._of_two_lengths())
                pooled = functools.partial(self.task.pooled_states, model.module, batch=batch)
                add_token_states(shipped, batch, pooled)
            if parts:
                add_output_parts(shipped, parts)
            return {"size": shipped.size(), "components": shipped.components()}

        read = {"max_length": self.max_length, **self._inputs(graph)}
        if self.recipe.export.token_states:
            read |= {"token_states": True, "split": self._prints["search"]}
        if parts:
            read |= {"output_parts": list(parts)}
        done = self._do("artifact", "artifact", read, work)
        link_tree(done.folder, folder)
        shipped = dataclasses.replace(graph, path=folder / MODEL, digest=done.digest)
        return exported(done, dataclasses.replace(shipped, is_artifact=True))

    def _of_two_lengths(self) -> list[Example]:
        """Return a short and a long example of the search split."""
        own = sorted(self.splits["search"].examples[:_LOOKED_AT], key=length_of)
        return [own[0], own[-1]]

    def flops(self, name: str, graph: StoredGraph) -> Flops:
        """Count what a graph computes for an example of the search split's mean length."""

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            own = (self.task, self.preprocessor(graph), self.splits["search"])
            return {"flops": flops_of(graph.path, *own)}

        read = {"split": self._prints["search"], **self._inputs(graph)}
        return self._do("flops", name, read, work).fact("flops", Flops)

    def time(
        self, name: str, settings: BenchmarkSettings, *ends: StoredGraph, to_choose: bool = False
    ) -> tuple[Latency, ...]:
        """Time both `ends` of the run on the first provider of `settings`, taking turns.

        Raises `EnvironmentMismatch` when they vary too much `to_choose` by them.
        """
        provider = settings.providers[0]

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            names: tuple[Contestant, Contestant] = ("baseline", "final")
            own = {name: self.preprocessor(end) for name, end in zip(names, ends, strict=True)}
            shapes = {
                "batch_sizes": settings.batch_sizes,
                "sequence_lengths": settings.sequence_lengths,
            }
            batches = benchmark_batches(self.task, own, self.splits["search"], **shapes)
            measured = benchmark(
                {name: end.path for name, end in zip(names, ends, strict=True)},
                provider=provider,
                batches=batches,
                plan=self._timing_plan(settings),
                settings=ProviderSettings(
                    cuda_graph=settings.cuda_graph,
                    cache_dir=scratch,
                    precision=self.precision if provider == OPENVINO else "fp32",
                ),
                must_be_steady=to_choose,
                progress=self.progress,
            )
            return {"latencies": Latencies(measured)}

        read = {
            "ends": [self._inputs(end) for end in ends],
            "split": self._prints["search"],
            "settings": settings.model_dump(mode="json", exclude={"providers", "runtimes"}),
            "timed_on": provider,
            "to_choose": to_choose,
            **self._openvino(provider),
            **timing_conditions(self.threads),
        }
        done = self._do("benchmark", name, read, work)
        return done.fact("latencies", Latencies).latencies

    def time_runtimes(self, name: str, artifact: StoredGraph) -> tuple[RuntimeLatency, ...]:
        """Time the artifact in each of `benchmark.runtimes`, taking turns."""
        settings = self.recipe.benchmark

        def work(scratch: Path, result: Path) -> dict[str, Any]:  # noqa: ARG001
            batches = benchmark_batches(
                self.task,
                {"final": self.preprocessor(artifact)},
                self.splits["search"],
                batch_sizes=settings.batch_sizes,
                sequence_lengths=settings.sequence_lengths,
            )
            measured = time_runtimes(
                artifact.path,
                runtimes=settings.runtimes,
                batches=[(size, length, own["final"]) for size, length, own in batches],
                plan=self._timing_plan(settings),
                precision=self.precision,
                progress=self.progress,
            )
            return {"runtimes": RuntimeLatencies(measured)}

        read = {
            "artifact": self._inputs(artifact),
            "split": self._prints["search"],
            "settings": settings.model_dump(mode="json", exclude={"providers"}),
            **self._openvino(OPENVINO),
            **timing_conditions(self.threads),
        }
        done = self._do("runtimes", name, read, work)
        return done.fact("runtimes", RuntimeLatencies).latencies

    def _timing_plan(self, settings: BenchmarkSettings) -> TimingPlan:
        return TimingPlan(settings.warmup_runs, settings.num_runs, self.threads)

    def _do(
        self,
        kind: str,
        name: str,
        read: Mapping[str, Any],
        work: Callable[[Path, Path], dict[str, Any]],
    ) -> Step:
        """Return the step of this `kind` that read exactly this, done now or long ago."""
        depends_on = {"step": kind, **self._always, **read}
        key = key_of(depends_on)
        self.estimate.started(name)
        found = self.store.find(name, key)
        if found is not None and not found.reused:
            self.estimate.finished(name, 0.0, measured=False)
            return found  # the same work under another name, such as the export without a pass
        step = found or self.store.make(name, key, depends_on, work)
        if step.reused:
            self.progress.result(reused_line(name, step.seconds))
        self.estimate.finished(name, step.seconds)
        self.done.append(StepRecord(name, step.seconds, step.reused))
        return step

    def _inputs(self, model: StoredModel) -> dict[str, Any]:
        if isinstance(model, StoredGraph):
            return {"graph": model.digest, "checkpoint": model.checkpoint.digest}
        return {"checkpoint": model.digest}

    def preprocessor(self, graph: StoredGraph) -> Any:
        """Return what the examples of a graph are read with: the tokenizer or image processor."""
        if graph.is_artifact:
            return self.task.load_preprocessor(graph.path.parent)
        return load_preprocessor(graph.checkpoint.files, self.task)

    def _lent_splits(self, step: Pass) -> dict[str, Dataset]:
        splits = {name: self.splits[name] for name in step.required_splits()}
        own = splits.get("calibration", ())
        if "calibration" in splits and step.spare_rows_wanted() <= len(own):
            splits["calibration"] = dataclasses.replace(splits["calibration"], spare=None)
        return splits

    def _spare(self, step: Pass) -> dict[str, Any]:
        """Return what tells apart the spare rows that a pass may read."""
        lent = self._lent_splits(step).get("calibration")
        return {} if lent is None or lent.spare is None else {"spare": fingerprint(lent.spare)}

    def _scorer(self) -> Scorer:
        """Return what scores a model on the search split, once the untouched one was scored."""
        reference = self.baseline_score
        assert reference is not None, "a run scores it first"

        def score(model: TorchModel) -> float:
            own = (self.task, model.preprocessor, self.splits["search"], self.metric)
            return evaluate(model, *own, reference=reference).value

        read = {"split": self._prints["search"], "metric": self.metric, **digest_of(reference)}
        return Scorer(score, key_of({**read, **self._own_metric()}))

    def _own_metric(self) -> dict[str, str]:
        """Return what tells apart the files of a metric of the user's own; empty without one."""
        own = self.recipe.own_metric
        return {} if own is None else {"own_metric": own.sha256}

    def _lend(self, step: Pass, before: StoredModel, scratch: Path, told: Told) -> PassContext:
        (work_dir := scratch / "pass").mkdir(exist_ok=True)
        exported = before.checkpoint if isinstance(before, StoredGraph) else before
        return PassContext(
            splits=self._lent_splits(step),
            load_baseline=functools.partial(self.open_checkpoint, self.untouched),
            device=self.device,
            seed=self.recipe.seed,
            work_dir=work_dir,
            progress=self.progress,
            note=told.notes.append,
            load_exported=functools.partial(self.open_checkpoint, exported),
            scorer=self._scorer() if step.scores_itself else None,
        )

    def _apply_torch(
        self, position: int, step: Any, before: Any, context: PassContext, result: Path
    ) -> Size:
        model = self.open_checkpoint(before)
        changed: TorchModel = self._apply(position, step, model, context)
        folder = result / CHECKPOINT
        changed.save(folder)
        return changed.size(folder)

    def _apply_onnx(
        self, position: int, step: Any, before: Any, context: PassContext, result: Path
    ) -> Size:
        model = self.open_graph(before)
        changed: OnnxModel = self._apply(position, step, model, context)
        size = changed.size()
        result.mkdir()
        for path in (changed.path, data_path(changed.path)):
            if path.is_file():
                link_or_copy(path, result / path.name)
        return size

    def _apply(self, position: int, step: Pass, model: Model, context: PassContext) -> Model:
        seed_everything(self.recipe.seed)
        try:
            return apply_pass(step, model, context)
        except StepFailed as error:
            raise PassError(str(error), kind=step.kind, position=position) from error
