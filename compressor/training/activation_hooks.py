"""Hooks that record outputs of linear layers of student and teacher while they run.

Which linear layers of student and teacher belong together is decided here, before training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.families.layers import Attention, EncoderLayer, encoder_layers
from compressor.models.families.prunable import (
    UnsupportedArchitecture,
    unknown_attention,
    why_no_layers_apart,
)
from compressor.models.torch_model import TorchModel
from compressor.training.distill_settings import DistillSettings, Relation
from compressor.training.layer_map import LayerMap

_NO_HEADS = (
    "relation_weight: {} lost all its attention heads, so there are no queries, keys and values; "
    "choose another relation_layer or set relation_weight to 0"
)


@dataclass(frozen=True, eq=False)
class LinearPair:
    """A linear layer of the student and the one of the teacher whose output it learns from."""

    student: nn.Linear
    teacher: nn.Linear


@dataclass(frozen=True)
class RelationPairs:
    """Projections whose outputs, cut into `num_heads` parts, give the relations to learn."""

    pairs: tuple[LinearPair, ...]
    num_heads: int


def sublayer_pairs(
    model: TorchModel, teacher: TorchModel, layer_map: LayerMap
) -> tuple[LinearPair, ...]:
    """Return the output projections of attention and feed-forward that both models have.

    Raises `StepFailed` when there is none, the projections differ in width, or it is not known
    where they are.
    """
    ours, theirs = known_layers(model, "sublayer_weight"), known_layers(teacher, "sublayer_weight")
    found = []
    for own, other in layer_map:
        mine, its = ours[own], theirs[other]
        if mine.attention is not None and its.attention is not None:
            found.append(LinearPair(mine.attention.output, its.attention.output))
        if mine.feed_forward is not None and its.feed_forward is not None:
            found.append(LinearPair(mine.feed_forward.ffn_out, its.feed_forward.ffn_out))
    if not found:
        raise StepFailed(
            f"sublayer_weight: of the {len(layer_map)} pairs of layers none has attention or a "
            f"feed-forward network in both models; set sublayer_weight to 0"
        )
    for pair in found:
        if pair.student.out_features != pair.teacher.out_features:
            raise StepFailed(
                f"sublayer_weight compares outputs of one width, but the student's sub-layers give "
                f"{pair.student.out_features} and the teacher's {pair.teacher.out_features} "
                f"numbers a token; set sublayer_weight to 0, or use relation_weight"
            )
    return tuple(found)


def relation_pairs(
    model: TorchModel, teacher: TorchModel, settings: DistillSettings
) -> RelationPairs:
    """Return the projections of the student's last attention and of the chosen teacher layer.

    Raises `StepFailed` when one of them has none, the relation heads do not divide both widths, or
    it is not known where they are.
    """
    other = relation_teacher(teacher, settings)
    ours = known_layers(model, "relation_weight")
    own = next((layer.attention for layer in reversed(ours) if layer.attention), None)
    if own is None:
        raise StepFailed(_NO_HEADS.format("every layer of the student"))
    for whose, attention in (("student", own), ("teacher", other)):
        if attention.is_packed or _width(attention) != attention.key.out_features:
            how = "come from one matrix" if attention.is_packed else "differ in width"
            raise StepFailed(
                f"relation_weight compares queries, keys and values, which {how} in the {whose}; "
                f"set relation_weight to 0, or use sublayer_weight"
            )
    num_heads = settings.relation_heads or other.num_heads
    for whose, width in (("student", _width(own)), ("teacher", _width(other))):
        if width % num_heads:
            raise StepFailed(
                f"relation_heads: {num_heads} parts do not divide the {whose}'s queries, keys and "
                f"values, which are {width} wide; give a number that divides {_width(own)} and "
                f"{_width(other)}"
            )
    return RelationPairs(
        tuple(LinearPair(_linear(own, name), _linear(other, name)) for name in settings.relations),
        num_heads,
    )


def relation_teacher(teacher: TorchModel, settings: DistillSettings) -> Attention:
    """Return the teacher's attention whose relations are learnt.

    Raises `StepFailed` when the chosen layer is not there or has none.
    """
    layers = known_layers(teacher, "relation_weight")
    chosen = len(layers) - 1 if settings.relation_layer is None else settings.relation_layer
    if chosen >= len(layers):
        raise StepFailed(
            f"relation_layer: the teacher has layers 0 to {len(layers) - 1}, got {chosen}"
        )
    attention = layers[chosen].attention
    if attention is None:
        raise StepFailed(_NO_HEADS.format(f"layer {chosen} of the teacher"))
    return attention


@contextmanager
def recording(linears: Sequence[nn.Linear]) -> Iterator[Mapping[nn.Linear, Tensor]]:
    """Yield the outputs of `linears` in their models' latest forward pass, for a block's length."""
    outputs: dict[nn.Linear, Tensor] = {}
    with ExitStack() as hooks:
        for linear in linears:
            hooks.enter_context(linear.register_forward_hook(partial(_record, outputs)))
        yield outputs


def _record(outputs: dict[nn.Linear, Tensor], linear: nn.Linear, _: object, output: Tensor) -> None:
    outputs[linear] = output


def known_layers(
    model: TorchModel, setting: Literal["sublayer_weight", "relation_weight"]
) -> list[EncoderLayer]:
    """Return the layers of a model whose sub-layers or attention `setting` compares.

    Raises `StepFailed` when it is not known where they are.
    """
    try:
        layers = encoder_layers(model.module)
    except UnsupportedArchitecture as error:
        reason = unknown_attention(setting, error.model_type, error.reason)
        raise StepFailed(f"{setting}: {reason}") from error
    config = model.module.config
    if (why := why_no_layers_apart(config)) is not None:
        raise StepFailed(f"{setting}: {unknown_attention(setting, config.model_type, why)}")
    return layers


def _width(attention: Attention) -> int:
    return attention.query.out_features


def _linear(attention: Attention, name: Relation) -> nn.Linear:
    return {"queries": attention.query, "keys": attention.key, "values": attention.value}[name]
