"""Rough estimates of a pass's work, so that a run can say how long it will take.

Counted in rows that the untouched checkpoint reads forwards once, because that is what a run
measures first. Rough: within a factor of two or so, as what rows cost differs from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compressor.training.distill_settings import DistillSettings
from compressor.training.schedules import total_steps
from compressor.training.settings import TrainingSettings

# What an example costs in training, taken on MiniLM and on a small ViT. It is less than operations
# say: a row that is scored is tokenized alone, and its model is loaded for it.
_STUDENT, _TEACHER = 2.2, 0.4
_BFLOAT16 = 0.6


@dataclass(frozen=True)
class Effort:
    """What a pass takes: rows read forwards once, and seconds that depend on no row."""

    rows: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.rows + other.rows, self.seconds + other.seconds)


def training_effort(
    settings: TrainingSettings | None,
    num_rows: Mapping[str, int],
    *,
    student: float = 1.0,
    teachers: int = 1,
) -> Effort:
    """Return what a training takes of a model that costs `student` of the untouched checkpoint."""
    if settings is None:
        return Effort()
    examples = total_steps(num_rows["train"], settings) * settings.batch_size
    one = _STUDENT * student
    if isinstance(settings, DistillSettings):
        one = (one + teachers * _TEACHER) * (1 + settings.join_probability / 2)
    if settings.precision != "float32":
        one *= _BFLOAT16
    scored = settings.evaluations * num_rows.get("search", 0) * student
    return Effort(examples * one + scored, seconds=1.0)


def reading_effort(num_rows: Mapping[str, int], most: int, times: float) -> Effort:
    """Return what reading up to `most` calibration rows takes, each as much as `times` forwards."""
    return Effort(min(most, num_rows.get("calibration", 0)) * times)


def sensitivity_effort(num_rows: Mapping[str, int]) -> Effort:
    """Return what trying each weight of an encoder alone takes: about forty of them."""
    return reading_effort(num_rows, 128, times=25) + Effort(seconds=20.0)
