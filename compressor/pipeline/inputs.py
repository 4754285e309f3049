"""What a run reads, looked at before anything long begins; free of torch and of SciPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.data import check_labels, most_rows
from compressor.errors import EnvironmentMismatch, RecipeError, raise_all
from compressor.models.checkpoint import CheckpointFiles, describe_checkpoint, find_checkpoint
from compressor.models.guard import foreign
from compressor.models.packaged import is_trained_here, local_folder
from compressor.models.text_files import MOST_UNASKED, check_text_files, require_vocabulary
from compressor.passes import TorchPass
from compressor.paths import HUB_ID, exists
from compressor.recipe.recipe import Recipe
from compressor.recipe.rules import expected_task, task_conflicts
from compressor.setting_errors import Mistake, did_you_mean
from compressor.tasks import (
    NO_LIMIT,
    Task,
    find_metric,
    has_metric,
    load_task,
    task_class,
    task_names,
)
from compressor.words import counted

_READ_AT_ONCE = 1 << 22  # bytes of a tokenizer, a tenth of a second


def lies_here(checkpoint: str) -> bool:
    """Return whether a checkpoint lies on this machine, in a folder or an installed package."""
    try:
        return local_folder(checkpoint) is not None
    except EnvironmentMismatch:
        return False  # `check_local_checkpoints` says why


def known_task(recipe: Recipe) -> str | None:
    """Return the task where recipe or checkpoint tell it, None where only loading it can.

    A checkpoint whose weights are missing tells it by its config.json all the same.
    """
    if recipe.model.task is not None:
        return recipe.model.task
    if not lies_here(recipe.model.checkpoint):
        return expected_task(recipe.to_dict())
    files = describe_checkpoint(recipe.model.checkpoint, base=recipe.model.base)
    try:
        return None if files is None else files.infer_task()
    except EnvironmentMismatch:
        return None


def known_metric(recipe: Recipe) -> str | None:
    """Return the metric where it is known: the recipe's if its task has it, else the first.

    Where the task is not known, the recipe's if any task has it.
    """
    task, metric = known_task(recipe), recipe.budget.metric_name
    if recipe.budget.own_metric is not None:
        return metric
    if task is None:
        return metric if metric is not None and has_metric(metric) else None
    metrics = task_class(task).metric_names()
    return metric if metric in metrics else metrics[0]


def known_labels(recipe: Recipe) -> tuple[str, ...] | None:
    """Return the label names of a classifier that lies here; None where config.json has none."""
    task = known_task(recipe)
    if task is None or not (task_class(task).has_head and task_class(task).names_labels):
        return None
    files = None
    if lies_here(recipe.model.checkpoint):
        files = describe_checkpoint(recipe.model.checkpoint, base=recipe.model.base)
    try:
        return None if files is None else files.labels
    except EnvironmentMismatch:
        return None


def check_resolution(recipe: Recipe) -> None:
    """Raise `RecipeError` when the budget is finer than one example of search, if that can be told.

    No row is read, so a split that is cut from another one, or lies on the Hub, is passed over; and
    so is a metric whose score moves by less than an example, or that is not known yet.
    """
    metric = known_metric(recipe)
    if metric is None or find_metric(metric).is_fine:
        return
    source = recipe.data.search
    rows = None if source is None else most_rows(source)
    mistake = recipe.budget.resolution_mistake(rows) if rows else None
    if mistake is not None:
        raise RecipeError(recipe.describe("budget.max_drop", mistake))


def check_task(recipe: Recipe) -> None:
    """Raise `RecipeError` when metric, columns or pooling do not fit the task.

    A checkpoint on this machine tells the task; of one on the Hub only a metric that no task has
    can be told. Raises `EnvironmentMismatch` where the checkpoint is for no task.
    """
    data, metric = recipe.to_dict(), recipe.budget.metric_name
    try:
        task = expected_task(data)
    except EnvironmentMismatch as error:
        raise EnvironmentMismatch(recipe.describe("model.checkpoint", str(error))) from error
    mistakes = [] if task is None else list(task_conflicts(data, task))
    if task is not None and not lies_here(recipe.model.checkpoint):
        load_task(task, **recipe.model.task_options)
    if task is None and metric is not None and recipe.budget.own_metric is None:
        known = sorted({name for task in task_names() for name in task_class(task).metric_names()})
        if metric not in known:
            unknown = f"no task has a metric '{metric}'{did_you_mean(metric, known)}"
            mistakes.append(Mistake(("budget", "metric"), unknown))
    if mistakes:
        raise RecipeError(
            [recipe.describe(".".join(map(str, item.path)), item.message) for item in mistakes]
        )


def check_label_columns(recipe: Recipe) -> None:
    """Raise `RecipeError` for labels in local files that are not those of a local checkpoint."""
    task, metric = known_task(recipe), known_metric(recipe)
    if task is None or metric is None or (labels := known_labels(recipe)) is None:
        return
    columns = load_task(task).columns(metric)
    needed = {"search", "certification"}
    needed = needed.union(*(step.required_splits() for step in recipe.possible_passes()))
    with recipe.placing():
        check_labels(recipe.data, columns, labels, needed)


def local_inputs(recipe: Recipe) -> dict[str, Path]:
    """Return the files and folders on this machine that a run reads, by their keys."""
    found: dict[str, Path] = {}
    for name, source in recipe.data.given.items():
        if source.path is not None:
            found[f"data.{name}.path"] = source.path
        elif (of_files := source.folder) is not None:
            media, folder = of_files
            found[f"data.{name}.{media.nouns}"] = folder
        elif source.hub is not None and exists(Path(source.hub)):
            found[f"data.{name}.hub"] = Path(source.hub)
        for key, table in source.tables.items():
            assert table.path is not None, "each is a file"
            found[f"data.{name}.{key}"] = table.path
    for key, name in _checkpoints(recipe):
        if exists(Path(name)):
            found[key] = Path(name)
    for key, reference in recipe.own_code.items():
        found[key] = Path(reference.rpartition(":")[0])
    for position, step in enumerate(recipe.passes):
        for setting, path in step.required_files().items():
            found[f"passes.{position}.{setting}"] = path
    return found


def check_local_checkpoints(recipe: Recipe) -> None:
    """Check every checkpoint that is not on the Hub, model, teachers and students.

    Raises `EnvironmentMismatch` with a line, which begins with the key, for each that will not do.
    """
    task = known_task(recipe)
    problems: list[str] = []
    for key, name in _checkpoints(recipe):
        if not lies_here(name) and HUB_ID.fullmatch(name):
            continue
        try:
            files = _check(recipe, key, name, task)
            _check_preprocessor(recipe, key, files, task)
        except EnvironmentMismatch as error:
            problems.extend(error.problems)
    if problems:
        raise EnvironmentMismatch(problems)


def _check_preprocessor(recipe: Recipe, key: str, files: CheckpointFiles, task: str | None) -> None:
    """Raise `EnvironmentMismatch` for a checkpoint without the files of a tokenizer."""
    if task is None:
        return
    kind = task_class(task)
    what = kind.preprocessor_name
    try:
        kind.require_files(files.directory)
    except OSError as error:
        raise EnvironmentMismatch(
            recipe.describe(
                key,
                f"{files.name}: its {what} cannot be loaded ({error}); save the {what} beside the "
                f"weights with save_pretrained",
            )
        ) from error
    written = files.directory / "tokenizer.json"
    if kind.reads_tokens and written.is_file() and written.stat().st_size <= _READ_AT_ONCE:
        # Here and not at the top: where no such file lies, `compress validate` need not load it.
        from tokenizers import Tokenizer

        try:
            with foreign(
                f"{files.name}: its {what} cannot be loaded",
                f"save the {what} beside the weights with save_pretrained",
            ):
                vocabulary = Tokenizer.from_file(str(written)).get_vocab()
            rows = files.of_task(kind).config.get("vocab_size")
            if type(rows) is int:
                require_vocabulary(files, max(vocabulary.values(), default=-1), rows)
        except EnvironmentMismatch as error:
            raise EnvironmentMismatch(recipe.describe(key, str(error))) from error


def other_checkpoints(recipe: Recipe, task: str) -> dict[str, CheckpointFiles]:
    """Return every checkpoint besides the model's by its key, fetched where it is on the Hub.

    Raises as `check_local_checkpoints` does.
    """
    return {
        key: _check(recipe, key, name, task).of_task(task_class(task))
        for key, name in _checkpoints(recipe)
        if key != "model.checkpoint"
    }


def require_fitting_passes(recipe: Recipe, task: Task, files: CheckpointFiles | None) -> None:
    """Raise `RecipeError` for every setting of a pass that task or checkpoint cannot do with.

    Nothing but the small files of checkpoints is read; without `files` only the task is asked.
    """
    mistakes: list[str] = []
    problems: list[str] = []
    left = files
    if recipe.export.token_states and not task.pools_tokens:
        why = f"{task.name} makes no vector of the states of tokens; remove it"
        mistakes.append(recipe.describe("export.token_states", why))
    for position, step in enumerate(recipe.passes):
        found = list(step.unfit_for(task))
        done = step.incomparable
        if done is not None and (metric := _compared_by_number(recipe, task)) is not None:
            found.append(("kind", f"{done}, and {metric}"))
        if files is not None and left is not None:
            try:
                found += step.unfit_to(left, files)
                found += step.unfit_tokens(task, left, files)
                found += step.unfit_labels(files.labels_for(task))
            except EnvironmentMismatch as error:  # of a teacher or student, which is looked at too
                problems.extend(error.problems)
            left = step.leaves(left) if isinstance(step, TorchPass) else left
        mistakes += [recipe.describe(f"passes.{position}.{key}", why) for key, why in found]
    raise_all(mistakes, problems)


def _compared_by_number(recipe: Recipe, task: Task) -> str | None:
    """Return that the metric compares numbers with the untouched checkpoint's, where it does."""
    name = recipe.budget.metric or task.metrics[0].name
    if name not in task.metric_names() or not find_metric(name).same_width:
        return None
    others = [metric.name for metric in task.metrics if not metric.same_width]
    return (
        f"{name} compares each with the untouched checkpoint's; set budget.metric to one of "
        f"{', '.join(others)}"
    )


def check_local_passes(recipe: Recipe) -> None:
    """Raise as `require_fitting_passes` does, as far as task and checkpoint are known."""
    task = known_task(recipe)
    if task is not None:
        files = None
        if lies_here(recipe.model.checkpoint):
            files = describe_checkpoint(recipe.model.checkpoint, base=recipe.model.base)
        if files is not None:
            files = files.of_task(task_class(task))
        require_fitting_passes(recipe, load_task(task), files)


def check_packages(recipe: Recipe) -> None:
    """Raise `EnvironmentMismatch` for every package that a pass needs and that is not installed."""
    problems = [
        recipe.describe(f"passes.{position}.{setting}", why)
        for position, step in enumerate(recipe.passes)
        for setting, why in step.missing_packages()
    ]
    raise_all((), problems)


def _checkpoints(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if not is_trained_here(recipe.model.checkpoint):
        yield "model.checkpoint", recipe.model.checkpoint
    for position, step in enumerate(recipe.passes):
        for role, name in step.required_checkpoints().items():
            yield f"passes.{position}.{role}", name


def _base(recipe: Recipe, key: str) -> str | None:
    """Return the base that a recipe gives for the adapter under a key of it."""
    return recipe.model.base if key == "model.checkpoint" else None


def _check(recipe: Recipe, key: str, name: str, task: str | None) -> CheckpointFiles:
    try:
        revision = recipe.model.revision if key == "model.checkpoint" else None
        files = find_checkpoint(name, revision=revision, base=_base(recipe, key))
        # A student may be an encoder that was only pretrained; it then gets a head of its own.
        own_head = task is not None and files.has_head(task)
        if task is not None and (own_head or not key.endswith(".student")):
            files.require_head(task)
    except EnvironmentMismatch as error:
        raise EnvironmentMismatch(recipe.describe(key, str(error))) from error
    return files


def check_text_inputs(recipe: Recipe) -> None:
    """Check lengths and padding by the files of every checkpoint on this machine, without torch.

    Raises `EnvironmentMismatch` for a checkpoint whose own cannot be right, and `RecipeError` for
    every length of the recipe that is certainly more than a checkpoint reads, and for a pooling
    that the model's files contradict.
    """
    task = known_task(recipe)
    limits: dict[str, int] = {}
    problems: list[str] = []
    mistakes: list[str] = []
    for key, name in _checkpoints(recipe):
        if not lies_here(name):
            continue
        if (files := describe_checkpoint(name, base=_base(recipe, key))) is None:
            continue  # `check_local_checkpoints` says why
        try:
            pooling = _pooling(recipe, key, files)
            if task is not None and not task_class(task).reads_tokens:
                continue  # a pair of encoders has a tokenizer, which that of images does not read
            limit = check_text_files(
                files,
                max_length=recipe.export.max_length,
                pooling=pooling,
                is_teacher=key.endswith(".teacher"),
                tokens_read=None if task is None else load_task(task).tokens_read(files.directory),
            )
        except EnvironmentMismatch as error:
            problems.append(recipe.describe(key, str(error)))
        except RecipeError as error:
            mistakes.extend(recipe.placed(error).mistakes)
        else:
            if limit is not None:
                limits[key] = limit
    raise_all(mistakes, problems)
    if limits:
        _require_readable(recipe, limits)


def _pooling(recipe: Recipe, key: str, files: CheckpointFiles) -> str | None:
    """Return how a sentence encoder makes vectors; None for a classifier.

    Of a teacher or student None where it is unclear: it may be an encoder without a head, and what
    is wrong with its files is told when it is loaded. Raises as `read_pooling` for the model.
    """
    try:
        task = load_task(recipe.model.task or files.infer_task(), **recipe.model.task_options)
        pooling = task.how_pooled(files.directory)
        if key == "model.checkpoint":
            task.fitted_to(files.directory)
            task.require_prompts(files.directory, recipe.data.prompt_names)
        return None if pooling is None else pooling.mode
    except (EnvironmentMismatch, RecipeError):
        if key == "model.checkpoint":
            raise
        return None


def fit_lengths(recipe: Recipe, limits: Mapping[str, int]) -> Recipe:
    """Return `recipe` for models that read so many tokens at most, by their keys in the recipe.

    What the artifact reads is as much as the checkpoint, or a student that takes its place, where
    the recipe does not ask for less. The lengths that are timed where the recipe names none are cut
    to it. Raises `RecipeError` for every length that it names and that is more, and where nothing
    says how much the model reads, or so much that it cannot be checked.
    """
    timed, asked = recipe.benchmark, recipe.export.max_length
    own = min(_shipped(limits).values())
    if asked is None and own > MOST_UNASKED:
        why = (
            "neither tokenizer nor config.json says how many tokens the model reads; set how many "
            "the artifact should read at most"
            if own >= NO_LIMIT
            else f"the checkpoint reads {own:,} tokens, and an export is compared with it on a "
            f"text as long as the artifact reads, which takes memory with the square of that; set "
            f"how many the artifact should read at most"
        )
        raise RecipeError(recipe.describe("export.max_length", why))
    _require_readable(recipe, limits)
    limit = asked or own
    changes: dict[str, Any] = {"export": recipe.export.model_copy(update={"max_length": limit})}
    if "sequence_lengths" not in timed.model_fields_set:
        lengths = tuple(dict.fromkeys(min(length, limit) for length in timed.sequence_lengths))
        changes["benchmark"] = timed.model_copy(update={"sequence_lengths": lengths})
    return recipe.model_copy(update=changes)


def limited_by(recipe: Recipe, limits: Mapping[str, int]) -> str:
    """Return the key of `recipe` that says how much the artifact reads, before it is fitted."""
    if recipe.export.max_length is not None:
        return "export.max_length"
    shipped = _shipped(limits)
    return min(shipped, key=shipped.__getitem__)


def _shipped(limits: Mapping[str, int]) -> dict[str, int]:
    """Return the limits of what may become the artifact: not of teachers."""
    return {key: limit for key, limit in limits.items() if not key.endswith(".teacher")}


def _require_readable(recipe: Recipe, limits: Mapping[str, int]) -> None:
    """Raise `RecipeError` for every length in the recipe that is more than a model reads."""
    timed, target = recipe.benchmark, recipe.budget.target
    asked, measured = recipe.export.max_length, recipe.data.max_length
    shipped = _shipped(limits)
    read = shipped if asked is None else {**shipped, "the artifact (export.max_length)": asked}
    named: dict[str, tuple[int, ...]] = {}
    if target is not None:
        named["budget.target.sequence_length"] = (target.sequence_length or 0,)
    if timed.providers and "sequence_lengths" in timed.model_fields_set:
        named["benchmark.sequence_lengths"] = timed.sequence_lengths
    mistakes = [
        *_longer({"data.max_length": (measured or asked or 0,)}, limits),
        *_longer({"export.max_length": (asked or 0,)}, shipped),
        *_longer(named, read),
    ]
    if mistakes:
        raise RecipeError([recipe.describe(*mistake) for mistake in mistakes])


def _longer(
    named: Mapping[str, tuple[int, ...]], limits: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Yield key and reason of every length that is more than one of the models reads."""
    if not limits:
        return
    reader, limit = min(limits.items(), key=lambda item: item[1])
    for key, lengths in named.items():
        if max(lengths) > limit:
            yield (
                key,
                f"{counted(max(lengths), 'token')} are more than {reader} reads; set {limit} or "
                f"less",
            )
