"""The work of `quantize_aware_train`; apart from its settings because it needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.models.torch_model import TorchModel
from compressor.passes._base import PassContext
from compressor.quantization.fake_quantize import WeightQuantizer, simulated_int8
from compressor.tasks import Batch
from compressor.training.recovery import distill
from compressor.training.trainer import TrainingRun

if TYPE_CHECKING:
    from compressor.passes.quantize_aware_train import QuantizeAwareTrain

_ROWS_PER_BATCH = 32


def train_for_int8(
    model: TorchModel, settings: QuantizeAwareTrain, context: PassContext
) -> TorchModel:
    """Do what `QuantizeAwareTrain.apply` promises."""
    model.module.to(context.device)
    teacher = model.clone() if settings.teacher == "input" else context.load_baseline()
    teacher.module.to(context.device)
    rows = list(_batches(model, settings, context))
    wanted = [teacher.predict(batch) for batch in rows]
    has_tables = any(isinstance(part, nn.Embedding) for part in model.module.modules())
    settings = settings.model_copy(
        update={"freeze_embeddings": settings.freeze_embeddings and has_tables}
    )
    run = TrainingRun(
        context.device, context.seed, context.work_dir, context.progress, settings.kind
    )
    untrained = {name: value.clone() for name, value in model.module.state_dict().items()}
    with (
        _without_dropout(model.module),
        simulated_int8(
            model.module,
            min_elements=settings.min_elements,
            rounds_tables=settings.freeze_embeddings,
        ) as quantizers,
    ):
        before = _compare(model, rows, wanted)
        summary = distill(
            model,
            teacher,
            context.train,
            settings,
            run,
            after_step=(freezer := _StepFreezer(quantizers, settings.frozen_steps_ratio)),
            goal={"simulates": "int8"},
            kept={"step_freezer": freezer},
        )
        after = _compare(model, rows, wanted)
    context.note(summary.sentence())
    words = f"int8 as simulated, on {after.num_rows} calibration rows: "
    if before.changed is not None and after.changed is not None:
        words += (
            f"answers that differ from the float model's {100 * before.changed:.2f}% -> "
            f"{100 * after.changed:.2f}%, "
        )
    output = "vectors" if before.changed is None else "logits"
    context.note(
        f"{words}error of the {output} {before.logit_rms:.4f} -> {after.logit_rms:.4f} (root mean "
        f"square)"
    )
    if before.changed == 0:
        context.note(
            "There were no answers to recover: rounding alone changed none of them on these rows."
        )
    is_kept = settings.keep_if_worse or after.logit_rms < before.logit_rms
    if not is_kept:
        model.module.load_state_dict(untrained)
        context.note(
            "There was nothing to recover: the training came no nearer to the teacher than "
            "rounding alone, so its weights were put back. A lower learning_rate or more epochs "
            "may help."
        )
    answers = {"before": asdict(before), "after": asdict(after), "kept": is_kept}
    context.record("int8_answers", answers)
    return model


@dataclass(frozen=True)
class _Comparison:
    """How far answers are from the wanted ones: share of other classes, error of the logits.

    Vectors have no classes, so of them the share is None.
    """

    num_rows: int
    changed: float | None
    logit_rms: float


def _compare(
    model: TorchModel, batches: Sequence[Batch], wanted: Sequence[NDArray[np.float32]]
) -> _Comparison:
    found = np.concatenate([model.predict(batch) for batch in batches])
    goal = np.concatenate(list(wanted))
    error = np.sqrt(np.mean(np.square(found - goal, dtype=np.float64)))
    if not model.task.names_labels:
        return _Comparison(len(goal), None, float(error))
    changed = found.argmax(axis=1) != goal.argmax(axis=1)
    return _Comparison(len(goal), float(changed.mean()), float(error))


def _batches(
    model: TorchModel, settings: QuantizeAwareTrain, context: PassContext
) -> Iterator[Batch]:
    dataset = context.calibration
    chosen = np.random.default_rng(context.seed).permutation(len(dataset))
    chosen = chosen[: settings.measured_rows]
    if len(chosen) == 0:
        raise ValueError(
            f"{dataset.source}: quantize_aware_train measures on the calibration split, and it is "
            f"empty; give data.calibration at least one row"
        )
    for start in range(0, len(chosen), _ROWS_PER_BATCH):
        rows = chosen[start : start + _ROWS_PER_BATCH]
        yield model.task.encode(model.preprocessor, [dataset.examples[row] for row in rows])


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    """Keep units in: the model answers almost right already, and dropout is far larger an error.

    Some architectures hold the probability as a number beside their functional dropout.
    """
    found = [
        (part, name, value)
        for part in module.modules()
        for name, value in vars(part).items()
        if (name == "p" and isinstance(part, nn.Dropout))
        or (name.endswith(("dropout", "dropout_prob")) and isinstance(value, float))
    ]
    for part, name, _ in found:
        setattr(part, name, 0.0)
    try:
        yield
    finally:
        for part, name, value in found:
            setattr(part, name, value)


class _StepFreezer:
    """Fixes the step sizes when the last `ratio` of a training begins, called after each step."""

    def __init__(self, quantizers: Sequence[WeightQuantizer], ratio: float) -> None:
        self._quantizers = quantizers
        self._ratio = ratio
        self._is_frozen = False

    def __call__(self, step: int, total: int) -> None:
        if not self._is_frozen and step >= total * (1 - self._ratio):
            self._freeze()

    def state_dict(self) -> dict[str, Tensor]:
        return {"is_frozen": torch.tensor(self._is_frozen)}

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        if state_dict["is_frozen"]:
            self._freeze()

    def _freeze(self) -> None:
        self._is_frozen = True
        for quantizer in self._quantizers:
            quantizer.log_factor.requires_grad_(False)
