"""Looks at checkpoint, data and machine, and writes a starter recipe that is valid and runs."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import torch

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.machine.environment import describe_environment
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.onnx_model import check_provider
from compressor.models.text_files import check_family
from compressor.own_code import ALLOW, OwnFunction, is_reference, load_function
from compressor.paths import exists, is_folder, no_folder, unwritable
from compressor.pipeline.inputs import require_fitting_passes
from compressor.pipeline.preflight import check_inputs
from compressor.progress import SILENT, Progress
from compressor.recipe.recipe import Recipe, parse_recipe
from compressor.starter.plan import Plan, Pruning, Rows, make_plan
from compressor.starter.render import MAX_TRAIN_ROWS, StarterFacts, estimate, render
from compressor.starter.sources import NO_WISHES, Given, Sources, Wishes, read_columns, read_sources
from compressor.starter.subject import DRAFT_RATIO, ROWS_TO_CUT, Subject, load_subject
from compressor.starter.trial import look_at
from compressor.tasks import Task, load_task, task_class, task_names
from compressor.tasks.pooling import Pooling, short_words

logger = logging.getLogger(__name__)

_ROWS_TO_SHARE = 10_000  # of train, below which calibration reads all of them
_FLAGS = {
    "data.search": "--data",
    "data.train": "--train",
    "data.calibration": "--train",
    "data.certification": "--certification",
}


def write_starter(
    checkpoint: str,
    data: Path,
    output: Path,
    *,
    base: str | None = None,
    train: Path | None = None,
    certification: Path | None = None,
    wishes: Wishes = NO_WISHES,
    force: bool = False,
    allow_code: bool = False,
    progress: Progress = SILENT,
) -> Recipe:
    """Write a recipe to `output` and return it.

    `data` becomes the search split, `base` is the model that an adapter was trained on. A file that
    exists is kept unless `force`. A metric of the user's own runs where `allow_code` says so.
    Raises `RecipeError` for what cannot be guessed, `EnvironmentMismatch` when checkpoint or data
    cannot be read, and as `load_function` does.
    """
    _require_writable(output, force=force)
    files = find_checkpoint(checkpoint, base=base)
    task = _task(files, wishes.task)
    own = _own_metric(wishes.metric, allow_code=allow_code)
    if own is None:
        _require_metric(wishes.metric, task)
    given = Given(data, train, certification).in_parts(task)
    if wishes.label_names and not read_columns(task).names_labels:
        raise RecipeError(f"--label-names: {task.name} has no labels of classes; leave it out")
    if task.reads_tokens:
        check_family(files)
    labels = files.labels_for(task)
    progress.stage("read the data")
    sources = read_sources(given, task, labels, wishes)
    progress.stage(f"load {files.name}")
    subject = load_subject(files, task, sources, own)
    facts = _facts(checkpoint, subject, sources, labels)
    progress.stage("a first look at the checkpoint's predictions")
    plan = _plan(facts, subject, output, wishes.metric if own is None else own.reference, progress)
    if own is not None:
        file = os.path.relpath(own.file, output.absolute().parent)
        plan = replace(plan, metric=f"{Path(file).as_posix()}:{own.name}")
    text = render(facts, plan, output)
    # Before it is written: a starter that does not load, or that `compress validate` refuses.
    recipe = parse_recipe(text, path=output)
    check_inputs(recipe if own is None else recipe.allowing_code())
    require_fitting_passes(recipe, subject.task, files.of_task(subject.task))
    _write(text, output)
    for note in plan.notes:
        progress.result(f"{note}.")
    progress.result(f"A run takes {estimate(plan)}.")
    return recipe


def _require_writable(output: Path, *, force: bool) -> None:
    """Raise where no recipe can be written to `output`, or one is there that should stay."""
    if is_folder(output):
        raise RecipeError(f"{output}: is a directory; give --output a file in it")
    if (reason := unwritable(output)) is not None:
        raise RecipeError(f"{output}: {reason}; give --output a file to write the recipe to")
    if exists(output) and not force:
        raise RecipeError(f"{output}: exists already; give another --output, or --force")
    if (reason := no_folder(output.parent)) is not None:
        raise EnvironmentMismatch(f"{output.parent}: {reason}; give --output a file in a directory")


def _write(text: str, output: Path) -> None:
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentMismatch(
            f"{output}: cannot be written ({error.strerror or error}); give another --output"
        ) from error


def _task(files: CheckpointFiles, wanted: str | None) -> Task:
    """Return the task that is wanted, else the one that the checkpoint is for.

    Raises `RecipeError` for a word that is no task, `EnvironmentMismatch` for a checkpoint that is
    for none, or not for the one that is wanted.
    """
    name = files.infer_task() if wanted is None else wanted
    if name not in task_names():
        raise RecipeError(f"--task: {name!r} is no task (allowed: {', '.join(task_names())})")
    files.require_head(name)
    return load_task(name)


def _require_metric(metric: str | None, task: Task) -> None:
    """Raise `RecipeError` for a metric that the task does not have."""
    if metric is not None and metric not in task.metric_names():
        raise RecipeError(
            f"--metric: {task.name} has no metric '{metric}' (allowed: "
            f"{', '.join(task.metric_names())})"
        )


def _own_metric(metric: str | None, *, allow_code: bool) -> OwnFunction | None:
    """Return the user's own function that `--metric` names; None where it names none."""
    if metric is None or not is_reference(metric):
        return None
    if not allow_code:
        raise RecipeError(
            f"--metric: {metric} is code of your own, which runs with your rights and only where "
            f"you allow it; read the file, and add {ALLOW}"
        )
    file, _, function = metric.rpartition(":")
    reference = f"{Path(file).absolute()}:{function}"
    return load_function("--metric", reference, takes="a compressor.MetricInputs")


def _facts(
    checkpoint: str, subject: Subject, sources: Sources, labels: tuple[str, ...]
) -> StarterFacts:
    files, task = subject.files, subject.task
    pooling = task.how_pooled(files.directory)
    return StarterFacts(
        checkpoint=checkpoint,
        is_local=is_folder(Path(checkpoint)),
        base=files.base,
        model_type=subject.model.module.config.model_type,
        task=task.name,
        labels=labels,
        vectors="" if pooling is None else _vectors(pooling),
        input_column=task.input_column,
        search=sources.search,
        train=sources.train,
        certification=sources.certification,
        calibrates_on_train=(
            sources.train is not None
            and not subject.cannot_prune
            and sources.train.num_rows < _ROWS_TO_SHARE
        ),
        lengths=subject.lengths,
        provider=_provider(),
        machine=_machine(),
        keeps_heads=subject.keeps_heads,
        convolves=subject.convolves,
        about_label=read_columns(task).about_label,
        length=task.max_length,
    )


def _plan(
    facts: StarterFacts, subject: Subject, output: Path, metric: str | None, progress: Progress
) -> Plan:
    """Look at what the checkpoint predicts, and decide by it; mistakes name the flags of `init`."""
    draft = _draft(
        facts,
        prunes=not subject.cannot_prune,
        repairs=(facts.train or facts.search).num_rows >= ROWS_TO_CUT,
    )
    try:
        trial = look_at(
            parse_recipe(render(facts, draft, output), path=output),
            subject.model,
            subject.files,
            None if subject.lengths is None else subject.lengths.read,
            progress,
        )
        return make_plan(
            trial,
            _rows(facts, subject.task),
            provider=facts.provider,
            cannot_prune=subject.cannot_prune,
            keeps_heads=subject.keeps_heads,
            metric=metric,
        )
    except RecipeError as error:
        raise RecipeError([_with_flags(item) for item in error.mistakes]) from error


def _draft(facts: StarterFacts, *, prunes: bool, repairs: bool) -> Plan:
    """Return a plan by which rows are read and cut as they may be in the end.

    Its metric needs no labels, so that rows which do not suit another are not refused for that.
    """
    guessed = facts.search.guess
    return Plan(
        metric=task_class(facts.task).metric_of_any_rows(
            labelled=guessed.label is not None, searches=guessed.searches
        ),
        metric_why="",
        max_drop=0.9,
        budget_why=(),
        pruning=Pruning(DRAFT_RATIO, None, None, 0.0) if prunes else None,
        no_pruning="",
        certifies=facts.certification is not None,
        certification_why=(),
        repairs=repairs,
        max_minutes=1,
        minutes=1.0,
        notes=(),
    )


def _rows(facts: StarterFacts, task: Task) -> Rows:
    train, certification = facts.train, facts.certification
    return Rows(
        search=facts.search.num_rows,
        train=0 if train is None else min(train.num_rows, MAX_TRAIN_ROWS),
        certification=0 if certification is None else certification.num_rows,
        texts=1
        if facts.search.guess.searches
        else read_columns(task).examples_in(len(facts.search.guess.inputs)),
    )


def _with_flags(mistake: str) -> str:
    """Return a mistake with the flag of `init` in place of the key of a recipe."""
    for key, flag in _FLAGS.items():
        if mistake.startswith(key):
            return flag + mistake.removeprefix(key)
    return mistake


def _vectors(pooling: Pooling) -> str:
    """Say in a few words how a sentence encoder makes its vectors."""
    return f"vectors: {short_words(pooling.mode, normalize=pooling.normalize)}"


def _provider() -> str:
    """Return cuda where a matmul really runs on it, otherwise cpu."""
    try:
        check_provider("cuda")
    except EnvironmentMismatch as error:
        logger.info("init: for the CPU (%s)", error)
        return "cpu"
    return "cuda"


def _machine() -> str:
    facts = describe_environment(seed=0, device=torch.device("cpu"), threads=1)
    cpu = facts["cpu"]
    features = ", ".join(cpu["features"] or ()) or "no vector features that are known"
    parts = [f"{cpu['model'] or 'unknown CPU'} ({features})", facts["gpu"] or "no GPU"]
    return ", ".join(" ".join(str(part).split()) for part in parts)
