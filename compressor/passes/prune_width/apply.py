"""The work of `prune_width`; apart from its settings because it needs torch."""

from __future__ import annotations

from functools import partial

from compressor.errors import StepFailed
from compressor.models.families.layers import encoder_layers
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, NothingToRemove, PassContext
from compressor.passes.prune_structured.few_rows import RowsRead, each_batch, read_rows
from compressor.passes.prune_structured.reconstruct import CalibrationInputs, most_unknowns
from compressor.passes.prune_width.feature_groups import (
    check_width,
    choose_features,
    cut_spaces,
    require_finite_weights,
    spaces_of,
)
from compressor.passes.prune_width.fit import fit_width
from compressor.passes.prune_width.settings import READS_ROWS, PruneWidth, nearest_multiples
from compressor.passes.recovery import RecoveryTraining, look_at_recovery

_ROUND_TO = {"cuda": 64}
_ROUND_TO_ELSEWHERE = 16


def look_ahead(settings: PruneWidth, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Look for the parts of every layer, and at the recovery."""
    encoder_layers(model.module)
    look_at_recovery(settings.recovery, model, ahead)
    return model


def apply(settings: PruneWidth, model: TorchModel, context: PassContext) -> TorchModel:
    """Make `model` narrower, in place.

    Raises `StepFailed` before anything changes when the width cannot be met by this model;
    `UnsupportedArchitecture` is one of them.
    """
    model.module.to(context.device)
    spaces = spaces_of(model.module)
    before = spaces[0].size
    width = _width(before, settings, context.device.type)
    check_width(model.module, width)
    require_finite_weights(model.module)
    training = RecoveryTraining.prepare(settings.recovery, model, context)
    rows = _read_rows(model, settings, context, width)
    calibration = None if rows is None else rows.inputs
    kept = _choose(model, settings, context, width, calibration)
    teacher = model.clone() if settings.compensate else model
    cut_spaces(model.module, spaces, kept, width)
    context.note(f"hidden size {before} -> {width}")
    if rows is not None and settings.compensate:
        rows.tell(context)
        steps = len(encoder_layers(model.module)) + 1
        with context.progress.bar("fitting layers", steps) as advance:
            choices = fit_width(
                model.module,
                teacher.module,
                spaces,
                kept,
                rows.inputs,
                ridge=settings.ridge,
                advance=advance,
                few_tokens=rows.are_few,
                few_rows=rows.are_few_for_a_head,
            )
        context.note(rows.summary)
        rows.record(settings.ridge, choices, context)
    if training is not None:
        training.train(model, context)
    return model


def _choose(
    model: TorchModel,
    settings: PruneWidth,
    context: PassContext,
    width: int,
    calibration: CalibrationInputs | None,
) -> list[list[int]]:
    """Return the features of each space that stay."""
    choose = partial(
        choose_features,
        model.module,
        spaces_of(model.module),
        width,
        settings.importance,
        seed=context.seed,
    )
    if calibration is None or settings.importance not in READS_ROWS:
        return choose(())
    with context.progress.bar("measuring features", len(calibration)) as advance:
        return choose(each_batch(calibration, advance))


def _width(before: int, settings: PruneWidth, device: str) -> int:
    """Return the new hidden size; raises `StepFailed` when there is none."""
    round_to = settings.round_to or _ROUND_TO.get(device, _ROUND_TO_ELSEWHERE)
    if settings.width is not None:
        if settings.width >= before:
            raise NothingToRemove(
                f"width: the model is {before} wide, so a narrower one has 1 to {before - 1}, got "
                f"{settings.width}"
            )
        if settings.width % round_to:
            raise StepFailed(
                f"width: {settings.width} is not a multiple of {round_to}, which the kernels on "
                f"{device} like; use {nearest_multiples(settings.width, round_to)}, or set round_to"
            )
        return settings.width
    assert settings.ratio is not None, "the settings are checked"
    width = round(before * (1 - settings.ratio) / round_to) * round_to
    if not 0 < width < before:
        kind = StepFailed if width == 0 else NothingToRemove
        raise kind(
            f"ratio: {settings.ratio:g} of {before} features leaves {width} in multiples of "
            f"{round_to}, but more than none have to stay and fewer than all; use another ratio or "
            f"a smaller round_to"
        )
    return width


def _read_rows(
    model: TorchModel, settings: PruneWidth, context: PassContext, width: int
) -> RowsRead | None:
    if not settings.reads_rows:
        return None
    inside, _ = most_unknowns(model.module)
    return read_rows(
        model,
        context,
        settings.calibration_rows,
        unknowns=max(inside, width + 1),
        of_head=width + 1,
    )
