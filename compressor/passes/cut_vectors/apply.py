"""The work of `cut_vectors`; apart from its settings because it needs torch."""

from __future__ import annotations

from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, PassContext
from compressor.passes.cut_vectors.settings import CutVectors


def look_ahead(settings: CutVectors, model: TorchModel, ahead: Ahead) -> TorchModel:  # noqa: ARG001
    """Look whether there are more numbers than stay; return a copy with those alone.

    A later pass that learns from the untouched checkpoint's vectors is then refused at once.
    """
    _require_more(settings, model)
    changed = model.clone()
    changed.task.cut_vectors(changed.module, settings.dimensions)
    return changed


def apply(settings: CutVectors, model: TorchModel, context: PassContext) -> TorchModel:
    """Return the model whose vectors have `dimensions` numbers; it is changed in place.

    Raises `StepFailed` where they do not have more.
    """
    width = _require_more(settings, model)
    model.task.cut_vectors(model.module, settings.dimensions)
    share = settings.dimensions / width
    context.note(
        f"{settings.dimensions:,} of {width:,} numbers of a vector stay, so an index of vectors "
        f"takes {share:.0%} of the room"
    )
    return model


def _require_more(settings: CutVectors, model: TorchModel) -> int:
    width = model.task.vector_width(model.module.config)
    if settings.dimensions >= width:
        raise StepFailed(
            f"dimensions is {settings.dimensions:,}, and vectors have {width:,} numbers, so there "
            f"is nothing to cut; lower it, or remove this pass"
        )
    return width
