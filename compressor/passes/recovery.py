"""The training that follows pruning; apart from its settings because it needs torch.

What training needs is looked at before anything is pruned: least squares on a large model takes
minutes, and a missing label would be told after them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, PassContext
from compressor.passes.lent_run import lent_run
from compressor.training.distill_settings import FinetuneRecovery, Recovery
from compressor.training.layer_map import LayerMap
from compressor.training.recovery import (
    check_distillation,
    check_finetuning,
    distilled,
    finetune,
)
from compressor.training.together import in_all_processes


def look_at_recovery(settings: Recovery | None, model: TorchModel, ahead: Ahead) -> None:
    """Raise `StepFailed` when `model` could not be trained so, whatever is removed from it."""
    if settings is None or ahead.train is None:
        return
    if isinstance(settings, FinetuneRecovery):
        check_finetuning(model, ahead.train, settings)
    else:
        check_distillation(model, ahead.untouched, ahead.train, settings)


@dataclass(frozen=True)
class RecoveryTraining:
    """A recovery that can be carried out, and its teacher where it has one."""

    settings: Recovery
    teacher: TorchModel | None  # the untouched checkpoint

    @classmethod
    def prepare(
        cls, settings: Recovery | None, model: TorchModel, context: PassContext
    ) -> RecoveryTraining | None:
        """Return what trains `model` once it is pruned; None where nothing is asked for.

        Raises `StepFailed` when it could not be trained so.
        """
        if settings is None:
            return None
        if isinstance(settings, FinetuneRecovery):
            check_finetuning(model, context.train, settings)
            return cls(settings, None)
        teacher = context.load_baseline()
        check_distillation(model, teacher, context.train, settings)
        return cls(settings, teacher)

    def teaches(self, depth: int) -> bool:
        """Return whether there is a teacher of `depth` layers."""
        config = None if self.teacher is None else self.teacher.module.config
        return getattr(config, "num_hidden_layers", None) == depth

    def in_parts(self, count: int) -> RecoveryTraining:
        """Return the part of this training that follows each of `count` steps of pruning."""
        whole = self.settings
        limit = None if whole.max_steps is None else whole.max_steps // count
        part = whole.model_copy(update={"epochs": whole.epochs / count, "max_steps": limit})
        return RecoveryTraining(part, self.teacher)

    def train(
        self,
        model: TorchModel,
        context: PassContext,
        *,
        name: str = "recovery",
        place: str = "",
        seed: int | None = None,
        layer_map: LayerMap | None = None,
    ) -> None:
        """Train `model` in place and note what was done; raises what training raises.

        `name` is that of the scratch folder, `place` says in words which part this is.
        """
        work_dir = context.work_dir / name
        work_dir.mkdir(parents=True, exist_ok=True)  # a killed run's training goes on there
        title = f"recovery{place}"
        seed = context.seed if seed is None else seed
        run = replace(lent_run(context, title), seed=seed, work_dir=work_dir)
        if isinstance(self.settings, FinetuneRecovery):
            summary = in_all_processes(run, finetune, model, context.train, self.settings, run)
        else:
            assert self.teacher is not None, "prepare loads one"
            summary = in_all_processes(
                run, distilled, model, self.teacher, context.train, self.settings, run, layer_map
            )
        context.note(f"{title}: {summary.sentence()}")
