"""Looks at checkpoint, data and machine, and writes a starter recipe that is valid and runs."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from compressor.data.check import file_source
from compressor.data.judged import read_judged
from compressor.data.media_folder import MEDIA, Media
from compressor.data.readers import read_header, read_table
from compressor.data.settings import Quoting, SplitSource
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.machine.environment import describe_environment
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.families.layers import encoder_layers
from compressor.models.families.prunable import (
    UnsupportedArchitecture,
    why_heads_stay,
)
from compressor.models.onnx_model import check_provider
from compressor.models.text_files import check_attention, check_padding, full_attention
from compressor.models.torch_model import TorchModel, load_foreign, try_batch
from compressor.own_code import ALLOW, OwnFunction, is_reference, load_function
from compressor.paths import exists, is_folder, no_folder, unwritable
from compressor.pipeline.inputs import require_fitting_passes
from compressor.pipeline.preflight import check_inputs
from compressor.progress import SILENT, Progress
from compressor.recipe.recipe import Recipe, parse_recipe
from compressor.starter.columns import Asked, Guess, guess
from compressor.starter.folder_splits import folder_splits
from compressor.starter.judged import judged_source, splits_in
from compressor.starter.lengths import measure_lengths
from compressor.starter.plan import Plan, Pruning, Rows, make_plan, step_of
from compressor.starter.questions import ask_for_weights, why_not
from compressor.starter.render import (
    MAX_TRAIN_ROWS,
    SourceFacts,
    StarterFacts,
    estimate,
    render,
)
from compressor.starter.trial import look_at
from compressor.tasks import (
    Example,
    Task,
    load_task,
    task_class,
    task_names,
    with_own_metric,
)
from compressor.tasks.columns import Columns
from compressor.tasks.pooling import Pooling, short_words
from compressor.tasks.table import Table

logger = logging.getLogger(__name__)

_TRIED_ROWS = 4  # that the checkpoint reads before a recipe is written
_ROWS_TO_CUT = 20  # fewer are all needed to judge on: nothing is cut from them
_ROWS_TO_SHARE = 10_000  # of train, below which calibration reads all of them
_DRAFT_RATIO = 0.2
_FLAGS = {
    "data.search": "--data",
    "data.train": "--train",
    "data.calibration": "--train",
    "data.certification": "--certification",
}
_MIN_ROWS = 2  # with one, a single prediction would be the whole score


@dataclass(frozen=True)
class Wishes:
    """What the user said about the data; left out, it is guessed."""

    inputs: tuple[str, ...] = ()
    label: str | None = None
    label_names: tuple[str, ...] = ()
    metric: str | None = None  # of the budget; one of the user's own as file.py:function
    quoting: Quoting | None = None  # of csv and tsv files
    task: str | None = None  # where it is not what the checkpoint's architecture is for


def write_starter(
    checkpoint: str,
    data: Path,
    output: Path,
    *,
    base: str | None = None,
    train: Path | None = None,
    certification: Path | None = None,
    wishes: Wishes = Wishes(),
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
    if is_folder(data):
        found = splits_in(data) if _media(task) is None else folder_splits(data)
        data, train = found["search"], train or found.get("train")
        certification = certification or found.get("certification")
    _require_different(data, train, certification)
    if wishes.label_names and not _columns(task).names_labels:
        raise RecipeError(f"--label-names: {task.name} has no labels of classes; leave it out")
    if task.reads_tokens:
        check_padding(files)
    labels = files.labels_for(task)
    progress.stage("read the data")
    searched, table = _look(data, labels, wishes, task)
    given = {"train": train, "certification": certification}
    others = _other_sources(given, searched, labels, wishes, task)
    progress.stage(f"load {files.name}")
    model = load_foreign(files, task)
    if own is not None:
        model.task = with_own_metric(model.task, own, labels)
    cannot_prune, keeps_heads = _pruning(model, files)
    pooling = task.how_pooled(files.directory)
    examples = _examples(table, searched.guess.inputs, task)
    tried = examples[:_TRIED_ROWS] if task.reads_tokens else [task.dummy_example(0)]
    try_batch(files, model, tried)
    length = model.task.needed_length(
        model.preprocessor, _read(table, searched.guess.inputs, model.task)
    )
    model.task = replace(model.task, max_length=length)
    donor = others.get("train", searched).num_rows
    if donor < _ROWS_TO_CUT and not cannot_prune:
        cannot_prune = f"{donor} rows are too few to fit weights by"
    if (convolves := _convolves(model.module)) and donor < _ROWS_TO_CUT:
        raise RecipeError(
            f"{data if train is None else train}: its convolutions become int8 by rows for "
            f"calibration, and {donor} rows are too few to cut any; give at "
            f"least {_ROWS_TO_CUT}"
        )
    ask_for_weights(model, files, convolves=convolves)
    lengths = None
    if task.reads_tokens:
        full = full_attention(files.config)
        lengths = measure_lengths(task, model.preprocessor, examples, full)
        check_attention(files, lengths.read)
    facts = StarterFacts(
        checkpoint=checkpoint,
        is_local=is_folder(Path(checkpoint)),
        base=files.base,
        model_type=model.module.config.model_type,
        task=task.name,
        labels=labels,
        vectors="" if pooling is None else _vectors(pooling),
        input_column=task.input_column,
        search=searched,
        train=others.get("train"),
        certification=others.get("certification"),
        calibrates_on_train="train" in others and not cannot_prune and donor < _ROWS_TO_SHARE,
        lengths=lengths,
        provider=_provider(),
        machine=_machine(),
        keeps_heads=keeps_heads,
        convolves=convolves,
        about_label=_columns(task).about_label,
        length=length,
    )
    progress.stage("a first look at the checkpoint's predictions")
    draft = _draft(facts, prunes=not cannot_prune, repairs=donor >= _ROWS_TO_CUT)
    metric = wishes.metric if own is None else own.reference
    try:
        trial = look_at(
            parse_recipe(render(facts, draft, output), path=output),
            model,
            files,
            None if lengths is None else lengths.read,
            progress,
        )
        plan = make_plan(
            trial,
            _rows(facts, task),
            provider=facts.provider,
            cannot_prune=cannot_prune,
            keeps_heads=keeps_heads,
            metric=metric,
        )
    except RecipeError as error:
        raise RecipeError([_with_flags(item) for item in error.mistakes]) from error
    if own is not None:
        file = os.path.relpath(own.file, output.absolute().parent)
        plan = replace(plan, metric=f"{Path(file).as_posix()}:{own.name}")
    text = render(facts, plan, output)
    # Before it is written: a starter that does not load, or that `compress validate` refuses.
    recipe = parse_recipe(text, path=output)
    check_inputs(recipe if own is None else recipe.allowing_code())
    require_fitting_passes(recipe, model.task, files.of_task(model.task))
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
        pruning=Pruning(_DRAFT_RATIO, None, None, 0.0) if prunes else None,
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
        else _columns(task).examples_in(len(facts.search.guess.inputs)),
    )


def _with_flags(mistake: str) -> str:
    """Return a mistake with the flag of `init` in place of the key of a recipe."""
    for key, flag in _FLAGS.items():
        if mistake.startswith(key):
            return flag + mistake.removeprefix(key)
    return mistake


def _require_different(data: Path, train: Path | None, certification: Path | None) -> None:
    """Raise `RecipeError` where one file is given for two splits."""
    seen = {data.resolve(): "--data"}
    for flag, path in (("--train", train), ("--certification", certification)):
        if path is None:
            continue
        if (other := seen.get(path.resolve())) is not None:
            raise RecipeError(
                f"{flag}: {path} is the file of {other} too, and rows that were trained on or "
                f"judged by before prove nothing; give rows of their own, or leave {flag} out"
            )
        seen[path.resolve()] = flag


def _require_same_names(
    other: SourceFacts, rows: Table, searched: SourceFacts, labels: Sequence[str]
) -> None:
    """Raise `RecipeError` where a file calls a class otherwise than the one of `searched`."""
    label = other.guess.label
    if label is None or searched.guess.label is None or not isinstance(label, str):
        return  # columns of labels are found by the names
    names = searched.guess.label_names or labels
    cells = rows.columns[label]
    found = [value for cell in cells for value in (cell if isinstance(cell, list) else [cell])]
    unknown = sorted({str(value) for value in found}.difference(names))
    if unknown and not all(value.isdigit() for value in unknown):  # ids are read beside any names
        raise RecipeError(
            f"{other.path}: column '{label}' holds {', '.join(unknown[:6])}, {searched.path} calls "
            f"the classes {', '.join(names)}, and a recipe has one data.label_names; make the "
            f"labels of one file like the other's"
        )


def _vectors(pooling: Pooling) -> str:
    """Say in a few words how a sentence encoder makes its vectors."""
    return f"vectors: {short_words(pooling.mode, normalize=pooling.normalize)}"


def _look(
    path: Path, labels: Sequence[str], wishes: Wishes, task: Task
) -> tuple[SourceFacts, Table]:
    if (judged := judged_source(path)) is not None and _columns(task).reads_relevance:
        table = read_judged(judged, read_header, read_table)
        found = Guess(("text",), None, searches=True)
        return SourceFacts(path, len(table), found, source=judged), table
    source = _source(path, wishes, task)
    header = read_header(source)
    table = read_table(source, header, ())
    if len(table) < _MIN_ROWS:
        rows = "1 row" if len(table) == 1 else f"{len(table)} rows"
        raise RecipeError(f"{path}: has {rows}, at least {_MIN_ROWS} are needed")
    asked = Asked(tuple(labels), wishes.inputs, wishes.label, wishes.label_names)
    found = guess(_columns(task).holds, str(path), table.columns, asked)
    return SourceFacts(path, len(table), found, source.quoting), table


def _other_sources(
    paths: Mapping[str, Path | None],
    searched: SourceFacts,
    labels: tuple[str, ...],
    wishes: Wishes,
    task: Task,
) -> dict[str, SourceFacts]:
    """Return what is known of the splits besides search, which have the same names of labels."""
    found: dict[str, SourceFacts] = {}
    for name, path in paths.items():
        if path is not None:
            # Each file may call its columns differently; what was given by name is for `searched`.
            found[name], rows = _look(path, labels, _for_other(path, wishes, task), task)
            if _columns(task).names_labels:
                _require_same_names(found[name], rows, searched, labels)
    return found


def _columns(task: Task) -> Columns:
    return task.columns(task.metrics[0].name)


def _media(task: Task) -> Media | None:
    """Return what a folder of a task's inputs holds; None where they have no files of their own."""
    return next((media for media in MEDIA.values() if media.column == task.input_column), None)


def _source(path: Path, wishes: Wishes, task: Task) -> SplitSource:
    """Return the source for a file or a folder of images or sounds.

    What was said of quotes is for files that have separators.
    """
    if is_folder(path) and (media := _media(task)) is not None:
        return SplitSource.model_validate({media.nouns: path})
    source = file_source(path)
    if wishes.quoting is None or source.file_format not in ("csv", "tsv"):
        return source
    return file_source(path, wishes.quoting)


def _for_other(path: Path, wishes: Wishes, task: Task) -> Wishes:
    """Return the wishes that fit another file: columns that it lacks are guessed there."""
    header = set(read_header(_source(path, wishes, task)))
    return Wishes(
        inputs=wishes.inputs if header.issuperset(wishes.inputs) else (),
        label=wishes.label if wishes.label in header else None,
        label_names=wishes.label_names,
        quoting=wishes.quoting,
    )


def _examples(table: Table, columns: Sequence[str], task: Task) -> list[Example]:
    if not task.reads_tokens:
        return [str(value) for column in columns for value in table.columns[column]]
    read = _columns(task)
    found = read.examples(table, columns, range(len(table)))
    if table.judged:  # with the documents, which are longer
        texts = (*(item.text for item in table.judged), *table.judged[0].corpus.documents.values())
        return list(texts)
    return [part for example in found for part in read.texts_apart(example)]


def _read(table: Table, columns: Sequence[str], task: Task) -> Iterator[Example]:
    """Yield the examples of all rows, none of which is read before it is asked for."""
    yield from _columns(task).examples(table, columns, range(len(table)))


def _pruning(model: TorchModel, files: CheckpointFiles) -> tuple[str, bool]:
    """Return why the encoder cannot be pruned ("" when it can), and whether its heads must stay."""
    try:
        encoder_layers(model.module)
    except UnsupportedArchitecture as error:
        return error.reason, False
    keeps_heads = why_heads_stay(model.module.config) is not None
    step = step_of(Pruning(_DRAFT_RATIO, None, None, 0.0), keeps_heads=keeps_heads)
    reason = why_not(step, model, files, {}) or ""
    return reason.partition("; ")[0], keeps_heads


def _convolves(module: nn.Module) -> bool:
    """Return whether most weights of a model are filters of convolutions."""
    sizes: Counter[bool] = Counter()
    for part in module.modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.Embedding)):
            sizes[isinstance(part, (nn.Conv1d, nn.Conv2d))] += part.weight.numel()
    return sizes[True] > sizes[False]


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
