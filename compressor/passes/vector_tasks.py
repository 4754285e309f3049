"""Which settings make no sense for a task whose models give vectors and no logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compressor.tasks import Task
from compressor.training.settings import DistillSettings, TrainingSettings

if TYPE_CHECKING:
    from compressor.passes.prune_structured.settings import PruneStructured


def unfit_training(
    settings: TrainingSettings, task: Task, place: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield key and reason of every such setting; `place` is put before keys, with its dot."""
    if task.names_labels:
        return
    if not isinstance(settings, DistillSettings):
        yield (
            f"{place}kind",
            f"trains on labels of classes, and {task.name} has none; use distill, which learns the "
            f"untouched checkpoint's vectors",
        )
        return
    if settings.label_weight > 0:
        yield (
            f"{place}label_weight",
            f"weighs a loss on labels of classes, and {task.name} has none; set it to 0",
        )
    if settings.temperature != DistillSettings.model_fields["temperature"].default:
        yield (
            f"{place}temperature",
            "softens logits, and vectors have no temperature; remove it",
        )


def unfit_pruning(settings: PruneStructured, task: Task) -> Iterator[tuple[str, str]]:
    """Yield key and reason of what needs a loss on labels, or trains on one."""
    if task.names_labels:
        return
    if settings.method == "scores" and settings.importance == "taylor" and settings.measures_units:
        yield (
            "importance",
            "taylor is the gradient of a loss on labels, and where a model is compared with its "
            "own vectors that gradient is 0; use fisher, activation or magnitude, or method: "
            "reconstruction",
        )
    if settings.recovery is not None:
        yield from unfit_training(settings.recovery, task, "recovery.")
