"""What a run of a recipe would do, as `compress validate` says it before anything is done."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from compressor.data import SplitSource, check_plan, cut_sizes, most_rows
from compressor.pipeline.preflight import Seen
from compressor.pipeline.wanted_splits import calibration_rows, needed_splits
from compressor.proof import least_proof
from compressor.recipe.recipe import Recipe
from compressor.setting_errors import names_shown
from compressor.tasks import find_metric
from compressor.training.schedules import total_steps
from compressor.words import bound_points, counted, points

_PURPOSE = {
    "train": "to train on",
    "calibration": "to calibrate on",
    "search": "to judge each pass",
    "certification": "to prove the budget at the end",
}
_UNKNOWN = "known when the checkpoint is loaded"


def render_plan(recipe: Recipe, seen: Seen) -> str:
    """Return what a run would do, a line for each thing, and below it what to think of first."""
    facts = dict(_facts(recipe, seen))
    width = max(map(len, facts))
    lines = [f"  {name:<{width}}  {value}" for name, value in facts.items()]
    warnings = [f"warning: {text}" for text in _warnings(recipe, seen)]
    nothing = "nothing was run; next: compress run"
    name = "RECIPE" if recipe.path is None else str(recipe.path)
    output = "" if recipe.output is not None else " --output DIRECTORY"
    allow = " --allow-code" if recipe.own_code else ""
    return "\n".join([*lines, *warnings, f"{nothing} {name}{output}{allow}"])


def _facts(recipe: Recipe, seen: Seen) -> Iterator[tuple[str, str]]:
    yield "checkpoint", _short(recipe.model.checkpoint)
    yield "task", seen.task or _UNKNOWN
    if seen.labels is not None:
        yield "labels", names_shown(seen.labels)
    budget = f"{seen.metric or 'its score'} may fall by at most {points(recipe.budget.max_drop)}"
    yield "budget", budget
    if (least := recipe.budget.min_attribution_agreement) is not None:
        yield "attributions", f"must agree with the original's by {least:g} in the mean"
    if (target := recipe.budget.target) is not None:
        yield "goal", _goal(target.max_megabytes, target.speedup)
    for position, step in enumerate(recipe.passes):
        repair = " (milder settings are tried if it fails)" if recipe.may_repair(step) else ""
        yield f"pass {position + 1}", f"{step.kind}{repair}"
    yield from _rows(recipe, seen)
    yield "export", f"ONNX for {recipe.export.provider}"
    timed = ", ".join(recipe.benchmark.providers)
    yield "benchmark", f"on {timed}" if timed else "none"
    if recipe.benchmark.runtimes:
        yield "runtimes", f"{', '.join(recipe.benchmark.runtimes)} in turns"
    yield "output", "none yet" if recipe.output is None else _short(str(recipe.output))


def _goal(max_megabytes: float | None, speedup: float | None) -> str:
    if max_megabytes is not None:
        return f"at most {max_megabytes:g} MB"
    return "the strongest that holds" if speedup is None else f"at least {speedup:g}x faster"


def _rows(recipe: Recipe, seen: Seen) -> Iterator[tuple[str, str]]:
    """Yield each split that the run reads, with its rows and where they come from."""
    given = recipe.data.given
    needed = needed_splits(recipe)
    plan = check_plan(given, needed)
    counts = {name: len(split) for name, split in seen.splits.items()}
    counts = counts or _estimated(recipe, plan)
    for name in needed:
        rows = "an unknown number of rows" if name not in counts else counted(counts[name], "row")
        if name in seen.splits and (queries := seen.splits[name].num_judged) is not None:
            documents = counted(counts[name] - queries, "document")
            rows = f"{counted(queries, 'query', 'queries')} and {documents}"
        is_exact = (
            bool(seen.splits) or name not in counts or _is_counted(given[plan.get(name, name)])
        )
        about = "" if is_exact else "at most "
        origin = f"cut from {plan[name]}" if name in plan else f"of {_short(given[name].name)}"
        yield name, f"{about}{rows} {origin}, {_PURPOSE[name]}"
    if "certification" not in needed:
        yield "certification", "none"


def _short(name: str) -> str:
    """Return a path as seen from the working directory, where it lies in there."""
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name


def _is_counted(source: SplitSource) -> bool:
    """Return whether `most_rows` is exact: lines of a text file are not, a cell may have several.

    A name on the Hub with `max_rows` may have fewer.
    """
    if source.path is not None:
        return source.file_format == "parquet"
    return source.hub is None and source.qrels is None


def _estimated(recipe: Recipe, plan: dict[str, str]) -> dict[str, int]:
    """Return how many rows each split has at most, where that can be told without reading them."""
    counts: dict[str, int] = {}
    for name, source in recipe.data.given.items():
        rows = most_rows(source)
        if rows is not None:
            cuts = cut_sizes(name, plan, rows, calibration_rows(recipe))
            counts |= {**cuts, name: rows - sum(cuts.values())}
    return counts


def _warnings(recipe: Recipe, seen: Seen) -> Iterator[str]:
    given = recipe.data.given
    if recipe.data.certification is None:
        yield (
            "nothing will be proven, because there is no certification split; give "
            "data.certification rows that no other split has"
        )
    elif (split := seen.splits.get("certification")) is not None:
        least, max_drop = least_proof(len(split), recipe.budget.confidence), recipe.budget.max_drop
        is_bounded = seen.metric is not None and find_metric(seen.metric).bound in ("hits", "flips")
        if is_bounded and max_drop == 0:
            yield (
                f"a budget of 0 points can hardly be proven: where no prediction changes, "
                f"{counted(len(split), 'certification row')} still leave "
                f"{bound_points(least, max_drop)} open; raise budget.max_drop to what you can "
                f"accept"
            )
        elif is_bounded and least > max_drop:
            yield (
                f"the budget cannot be proven: {counted(len(split), 'certification row')} prove a "
                f"drop of at most {bound_points(least, max_drop)} even when no prediction changes, "
                f"and max_drop is {points(max_drop)}; give more rows or raise budget.max_drop"
            )
    if (train := seen.splits.get("train")) is not None:
        yield from _unreached(recipe, len(train))
    for (name, source), (other, twin) in itertools.combinations(given.items(), 2):
        if {name, other} == {"train", "search"} and source.shares_rows_with(twin):
            yield (
                f"data.{name} and data.{other} read the same rows; scores on rows that were "
                f"trained on say little, so give them different files"
            )
    unread = [
        f"data.{name}"
        for name, source in given.items()
        if source.hub is not None
        or ((source.path is not None or source.qrels is not None) and not seen.splits)
    ]
    if unread:
        yield f"not every row of {', '.join(unread)} was checked; the run does that first"


def _unreached(recipe: Recipe, num_rows: int) -> Iterator[str]:
    """Yield each limit of steps that a training ends before, its epochs left to the default."""
    for position, step in enumerate(recipe.passes):
        for within, training in step.trainings():
            limit, steps = training.max_steps, total_steps(num_rows, training)
            if limit is None or steps >= limit or "epochs" in training.model_fields_set:
                continue
            least = math.ceil(limit / math.ceil(num_rows / training.batch_size))
            yield (
                f"passes[{position}].{within}max_steps: {counted(limit, 'step')} are never "
                f"reached: epochs is {training.epochs:g} where it is left out, "
                f"{counted(steps, 'step')} of {counted(num_rows, 'train row')}; {limit:,} are "
                f"{least:,} epochs"
            )
