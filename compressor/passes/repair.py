"""Milder settings for a pass whose gate failed, in a fixed order, from settings alone.

A fraction goes down to 3/4, 1/2 and 1/4 of what the recipe says, and a number of features or layers
that stay goes up, which costs no more than the attempt before; then training gets longer, at half
of the fraction. Between a setting that failed
and a milder one that passed lies the strongest that passes: `halfway` looks there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel

from compressor.training.settings import TrainingSettings

Settings = TypeVar("Settings", bound=BaseModel)
Training = TypeVar("Training", bound=TrainingSettings)

HALF = 0.5
_SHARES = (0.75, HALF, 0.25)
_TIMES_LONGER = (2, 4)
_FINEST = 0.02  # below this two fractions are the same model for all practical purposes
_MOST_EPOCHS = 1000.0


def lower(settings: Settings, *names: str, share: float) -> Settings:
    """Return `settings` with the fractions called `names` at `share` of their value."""
    lowered = {name: round(getattr(settings, name) * share, 4) for name in names}
    return settings.model_copy(update=lowered)


def ladder(settings: Settings, *names: str) -> Iterator[Settings]:
    """Yield `settings` with lower and lower fractions called `names`; nothing without a name."""
    for share in _SHARES if names else ():
        yield lower(settings, *names, share=share)


def longer(training: Training) -> Iterator[Training]:
    """Yield `training` twice as long, and four times."""
    for times in _TIMES_LONGER:
        update: dict[str, object] = {"epochs": min(times * training.epochs, _MOST_EPOCHS)}
        if training.max_steps is not None:
            update["max_steps"] = times * training.max_steps
        yield training.model_copy(update=update)


def halfway(strong: Settings, mild: Settings, *names: str) -> Settings | None:
    """Return `mild` with its fractions called `names` halfway up to those of `strong`.

    None when they are too close to differ, or when the two differ in anything else, so that there
    is no line between them.
    """
    ends = [(getattr(strong, name), getattr(mild, name)) for name in names]
    moved = mild.model_copy(
        update=dict(zip(names, (round((high + low) / 2, 4) for high, low in ends), strict=True))
    )
    same_but_for_fractions = mild.model_copy(
        update=dict(zip(names, (high for high, _ in ends), strict=True))
    )
    if same_but_for_fractions != strong or not ends:
        return None
    return moved if max(high - low for high, low in ends) > _FINEST else None
