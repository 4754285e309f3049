"""What a run reads besides its rows, looked at before anything long begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.checkpoint import find_checkpoint
from compressor.paths import BUILTIN, HUB_ID
from compressor.recipe import Recipe


def local_inputs(recipe: Recipe) -> dict[str, Path]:
    """Return the files and folders on this machine that a run reads, by their keys."""
    named = {f"data.{name}.path": source.path for name, source in recipe.data.given.items()}
    found = {key: path for key, path in named.items() if path is not None}
    for key, name in _checkpoints(recipe):
        if Path(name).exists():
            found[key] = Path(name)
    return found


def check_local_checkpoints(recipe: Recipe) -> None:
    """Check every checkpoint that is not on the Hub, model, teachers and students.

    Raises `EnvironmentMismatch`, which begins with the key, for the first one that will not do.
    """
    for key, name in _checkpoints(recipe):
        if Path(name).is_dir() or not HUB_ID.fullmatch(name):
            _check(recipe, key, name)


def check_teachers(recipe: Recipe) -> None:
    """Check every checkpoint besides the model's, and fetch what is on the Hub; errors as above."""
    for key, name in _checkpoints(recipe):
        if key != "model.checkpoint":
            _check(recipe, key, name)


def _checkpoints(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if not recipe.model.checkpoint.startswith(BUILTIN):
        yield "model.checkpoint", recipe.model.checkpoint
    for position, step in enumerate(recipe.passes):
        for name in step.required_checkpoints():
            yield f"passes.{position}", name


def _check(recipe: Recipe, key: str, name: str) -> None:
    try:
        find_checkpoint(name)
    except EnvironmentMismatch as error:
        raise EnvironmentMismatch(recipe.describe(key, str(error))) from error


def fit_lengths(recipe: Recipe, limit: int) -> Recipe:
    """Return `recipe` for a model that reads `limit` tokens.

    The lengths that are timed where the recipe names none are cut to that. Raises `RecipeError` for
    every length that it names and that is longer.
    """
    timed = recipe.benchmark
    target = recipe.budget.target
    named: dict[str, tuple[int, ...]] = {"data.max_length": (recipe.data.max_length or 0,)}
    if target is not None:
        named["budget.target.sequence_length"] = (target.sequence_length or 0,)
    if timed.providers and "sequence_lengths" in timed.model_fields_set:
        named["benchmark.sequence_lengths"] = timed.sequence_lengths
    mistakes = [
        recipe.describe(
            key, f"{max(lengths)} tokens are more than this model reads; set {limit} or less"
        )
        for key, lengths in named.items()
        if max(lengths) > limit
    ]
    if mistakes:
        raise RecipeError(mistakes)
    if "sequence_lengths" in timed.model_fields_set:
        return recipe
    lengths = tuple(dict.fromkeys(min(length, limit) for length in timed.sequence_lengths))
    changed = timed.model_copy(update={"sequence_lengths": lengths})
    return recipe.model_copy(update={"benchmark": changed})
