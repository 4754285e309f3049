"""The work of `quantize_aware_train`; apart from its settings because it needs torch.

What was seen on a MiniLM without 70% of its FLOPs, rounded with fixed scales (KL of the predictions
on development sentences, and on rows of the training file that training did not see, in 1e-4 nats):
rounding alone loses 54 and 45. 150 steps at 5e-6 on phrases as they are lead to 68 and 36; 120 at
1e-5 on longer, joined and masked texts change nothing (46 to 46, 34 to 34, fewer rows); 100 at 5e-4
of normalisations and biases alone, 46 to 61 and 34 to 23. So training fits texts like those it
reads, and a hundred steps do not recover half. One step of AdamW moves every weight by the learning
rate in the direction of its sign, which without a warm-up is more than rounding does: at 2e-5, with
a scale for each token, from 10 to 37. On the whole MiniLM with fixed scales, 400 steps at 1e-5 on
joined and masked texts of ten words or more (8.9 CPU minutes) left the error on 512 calibration
rows where it was, .079 to .081.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.data import Dataset
from compressor.data.sampling import drawn_by_chance
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.activation_ranges import static_scale
from compressor.onnx_graph.gptq import ActivationMoments
from compressor.onnx_graph.observers import ActivationStatistics
from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint
from compressor.passes.base import Ahead, PassContext
from compressor.passes.lent_run import lent_run
from compressor.passes.quantize.calibration import spread_rows, unpadded
from compressor.passes.quantize_aware_train.fake_quantize import (
    SimulatedInt8,
    check_simulation,
    simulated_int8,
)
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.tasks import Batch, Example, Outputs
from compressor.training.recovery import distill
from compressor.training.teacher import teacher_order
from compressor.training.together import in_all_processes
from compressor.training.training_run import StepHook, TrainingRun, TrainingSummary
from compressor.words import counted

_ROWS_PER_BATCH = 32


def look_ahead(settings: QuantizeAwareTrain, model: TorchModel, ahead: Ahead) -> TorchModel:  # noqa: ARG001
    """Run the model once, to see what its linear layers read."""
    require_simulation(model, settings)
    return model


def apply(settings: QuantizeAwareTrain, model: TorchModel, context: PassContext) -> TorchModel:
    """Train `model` in place; its weights are then multiples of int8 scales.

    Where training came no nearer to the teacher's predictions, the model is as it was before, and
    a note says that there was nothing to recover.

    Records `int8_answers`: on the calibration rows, the share of predictions that rounding
    changes (null of vectors) and the root mean square error of the logits or vectors, before and
    after the training, and whether the training was `kept`.

    Raises `StepFailed` before training when the model's int8 file is not simulated, a weight is
    not finite or the teacher cannot teach it, and what training raises.
    """
    model.move_to(context.device)
    require_simulation(model, settings)
    teacher = model.clone() if settings.teacher == "input" else context.load_baseline()
    teacher.move_to(context.device)
    chunks = list(_measured(settings, context))
    rows = [_encode(model, chunk) for chunk in chunks]
    order = teacher_order(model, teacher, [example for chunk in chunks for example in chunk])
    # Its own tokens and its own order of labels: the passes before may have changed the model's.
    read = [_encode(teacher, chunk) for chunk in chunks]
    wanted = model.task.predicted(lambda part: teacher.predict(part)[..., order], read)
    has_tables = any(isinstance(part, nn.Embedding) for part in model.module.modules())
    settings = settings.model_copy(
        update={"freeze_embeddings": settings.freeze_embeddings and has_tables}
    )
    run = lent_run(context, settings.kind)
    untrained = {name: value.clone() for name, value in model.module.state_dict().items()}
    before, summary, after = in_all_processes(
        run,
        train_simulated,
        settings,
        model,
        teacher,
        context.train,
        context.calibration,
        _Wanted(rows, wanted),
        run,
    )
    context.note(summary.sentence())
    _note_change(before, after, model.task.output_words, context)
    is_kept = settings.keep_if_worse or after.logit_rms < before.logit_rms
    if not is_kept:
        model.module.load_state_dict(untrained)
        context.note(
            "There was nothing to recover: the training came no nearer to the teacher than "
            "rounding alone, so its weights were put back. A lower learning_rate or more epochs "
            "may help."
        )
    context.record(
        "int8_answers", {"before": asdict(before), "after": asdict(after), "kept": is_kept}
    )
    return model


@dataclass(frozen=True)
class _Wanted:
    """Rows as the model reads them, and what it should give for them."""

    rows: list[Batch]
    outputs: Outputs


def train_simulated(
    settings: QuantizeAwareTrain,
    model: TorchModel,
    teacher: TorchModel,
    train: Dataset,
    calibration: Dataset,
    wanted: _Wanted,
    run: TrainingRun,
) -> tuple[_Comparison, TrainingSummary, _Comparison]:
    """Train `model` in place as its int8 file computes; return how near it was, and is, to that."""
    moments = _moments(model, settings, calibration) if settings.rounding == "gptq" else None
    with (
        _without_dropout(model.module),
        simulated_int8(
            model.module,
            min_elements=settings.min_elements,
            rounds_tables=settings.freeze_embeddings,
            int4_block=settings.embedding_block if settings.embeddings == "int4" else None,
            matrix_block=settings.matrix_block if settings.matrices == "int4" else None,
            moments=moments,
        ) as simulated,
    ):
        observe = partial(_observe, model, simulated, settings, calibration)
        observe()
        before = _compare(model, wanted)
        freezer = _Freezer(simulated, settings.frozen_steps_ratio, observe)
        hook = StepHook(freezer, {"simulates": "int8"}, {"freezer": freezer})
        summary = distill(model, teacher, train, settings, run, hook=hook)
        observe()
        return before, summary, _compare(model, wanted)


def require_simulation(model: TorchModel, settings: QuantizeAwareTrain) -> None:
    """Raise `StepFailed` when the int8 file of this model cannot be simulated."""
    check_simulation(
        model.module,
        min_elements=settings.min_elements,
        fixed_scales=settings.activations == "static",
    )


@dataclass(frozen=True)
class _Comparison:
    """How far outputs are from the wanted ones: share of other predictions, error of the numbers.

    The share is None where outputs are no predictions that change or stay.
    """

    num_rows: int
    changed: float | None
    logit_rms: float


def _note_change(
    before: _Comparison, after: _Comparison, output: str, context: PassContext
) -> None:
    """Note what the training changed in how far int8 is from the teacher."""
    words = f"int8 as simulated, on {counted(after.num_rows, 'calibration row')}: "
    if before.changed is not None and after.changed is not None:
        words += (
            f"predictions that differ from the float model's {100 * before.changed:.2f}% -> "
            f"{100 * after.changed:.2f}%, "
        )
    context.note(
        f"{words}error of the {output} {before.logit_rms:.4f} -> {after.logit_rms:.4f} (root mean "
        f"square)"
    )
    if before.changed == 0:
        context.note(
            "There were no predictions to recover: rounding alone changed none of them on these "
            "rows."
        )


def _compare(model: TorchModel, wanted: _Wanted) -> _Comparison:
    outputs = wanted.outputs
    with parametrize.cached():
        found = model.task.predicted(model.predict, wanted.rows)
    error = np.sqrt(np.mean(np.square(found.numbers - outputs.numbers, dtype=np.float64)))
    changed = model.task.changed(found, outputs)
    return _Comparison(
        len(outputs), None if changed is None else float(changed.mean()), float(error)
    )


def _measured(settings: QuantizeAwareTrain, context: PassContext) -> Iterator[list[Example]]:
    dataset = context.calibration
    chosen = drawn_by_chance(len(dataset), settings.measured_rows, context.seed)
    if len(chosen) == 0:
        raise StepFailed(
            f"{dataset.source}: quantize_aware_train measures on the calibration split, and it is "
            f"empty; give data.calibration at least one row"
        )
    for start in range(0, len(chosen), _ROWS_PER_BATCH):
        yield [dataset.examples[row] for row in chosen[start : start + _ROWS_PER_BATCH]]


def _encode(model: TorchModel, examples: Sequence[Example]) -> Batch:
    return model.task.encode(model.preprocessor, examples)


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    """Keep units in: the model predicts almost right already, and dropout is far larger an error.

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


def _observe(
    model: TorchModel, simulated: SimulatedInt8, settings: QuantizeAwareTrain, calibration: Dataset
) -> None:
    """Fix the scales of activations as `quantize_static` will: on the same rows, without padding.

    But for tokens of the last layer that the file does not compute: see `fake_quantize.py`.
    """
    if settings.activations != "static":
        return
    for each in simulated.inputs.values():
        each.watch()
    with parametrize.cached():  # of one length each, batches are many and small
        _run_unpadded(model, settings, calibration)

    def choose(statistics: ActivationStatistics) -> ScaleAndZeroPoint:
        return static_scale(statistics, settings.method, percentile=settings.percentile)

    for each in simulated.inputs.values():
        each.fix(choose)


def _moments(
    model: TorchModel, settings: QuantizeAwareTrain, calibration: Dataset
) -> dict[str, ActivationMoments]:
    """Return what goes into the linear layers of `model`, on the rows that scales are fixed on."""
    found: dict[str, ActivationMoments] = {}
    hooks = []

    def watching(moments: ActivationMoments) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: moments.update(inputs[0].detach().float().cpu().numpy())

    for name, part in model.module.named_modules():
        if isinstance(part, nn.Linear) and part.weight.numel() >= settings.min_elements:
            found[name] = ActivationMoments()
            hooks.append(part.register_forward_pre_hook(watching(found[name])))
    try:
        _run_unpadded(model, settings, calibration)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _run_unpadded(model: TorchModel, settings: QuantizeAwareTrain, calibration: Dataset) -> None:
    rows = spread_rows(calibration, settings.rows)
    for start in range(0, len(rows), _ROWS_PER_BATCH):
        chunk = rows[start : start + _ROWS_PER_BATCH]
        for batch in unpadded(_encode(model, chunk)):
            model.predict(batch)


class _Freezer:
    """Fixes all scales when the last `ratio` of a training begins; called after each step."""

    def __init__(self, simulated: SimulatedInt8, ratio: float, observe: Callable[[], None]) -> None:
        self._simulated = simulated
        self._ratio = ratio
        self._observe = observe
        self._is_frozen = False

    def __call__(self, step: int, total: int) -> None:
        if not self._is_frozen and step >= total * (1 - self._ratio):
            self._freeze()
            self._observe()

    def state_dict(self) -> dict[str, Tensor]:
        scales = [each.scale for each in self._simulated.inputs.values()]
        fixed = [
            (each.scale, each.zero_point) for each in scales if isinstance(each, ScaleAndZeroPoint)
        ]
        return {
            "is_frozen": torch.tensor(self._is_frozen),
            "scales": torch.tensor(fixed, dtype=torch.float64),
        }

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        scales = state_dict["scales"].tolist()
        if scales:
            for each, (scale, zero_point) in zip(
                self._simulated.inputs.values(), scales, strict=True
            ):
                each.scale = ScaleAndZeroPoint(scale, int(zero_point))
        if state_dict["is_frozen"]:
            self._freeze()

    def _freeze(self) -> None:
        self._is_frozen = True
        for quantizer in self._simulated.weights:
            quantizer.freeze()
