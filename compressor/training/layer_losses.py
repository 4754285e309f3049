"""The losses on what happens inside student and teacher, added up as the settings say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.training.activation_hooks import (
    LinearPair,
    RelationPairs,
    recording,
    relation_pairs,
    sublayer_pairs,
)
from compressor.training.batches import TrainingBatch
from compressor.training.distill_settings import DistillSettings
from compressor.training.layer_map import LayerMap
from compressor.training.losses import (
    attention_loss,
    hidden_state_loss,
    mean_of_pairs,
    relation_loss,
)
from compressor.training.teacher import (
    TeacherInputs,
    attention_maps_in,
    check_inputs,
    check_layers,
)


@dataclass(frozen=True)
class _Pass:
    """What one forward pass showed."""

    outputs: Any  # of the transformers model
    recorded: Mapping[nn.Linear, Tensor]


# Student, teacher and the batch to a loss.
_Term = Callable[[_Pass, _Pass, TrainingBatch], Tensor]


class LayerLosses:
    """The weighted sum of the losses on layers, with the outputs that the others need.

    `projection` is trained with the student and thrown away; it is None where the two are equally
    wide.
    """

    def __init__(
        self,
        teacher: TorchModel,
        inputs: TeacherInputs,
        settings: DistillSettings,
        terms: list[tuple[float, _Term]],
        recorded: Mapping[nn.Linear, Tensor],
        projection: nn.Linear | None,
    ) -> None:
        self.projection = projection
        self._teacher = teacher
        self._inputs = inputs
        self._terms = terms
        self._recorded = recorded
        self._wanted = {
            "output_hidden_states": settings.hidden_weight > 0,
            "output_attentions": settings.attention_weight > 0,
        }

    def __call__(self, module: nn.Module, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the student's outputs and the teacher's, in its own order of labels."""
        student = module(**batch.inputs, **self._wanted)
        with torch.no_grad():  # not inference_mode: autograd has to keep these tensors
            target = self._teacher.module(**self._inputs(batch), **self._wanted)
        own, other = _Pass(student, self._recorded), _Pass(target, self._recorded)
        losses = [weight * term(own, other, batch) for weight, term in self._terms]
        read = self._teacher.task.output_of
        return torch.stack(losses).sum(), read(student), read(target)


@contextmanager
def layer_losses(
    model: TorchModel,
    teacher: TorchModel,
    dataset: Dataset,
    settings: DistillSettings,
    layer_map: LayerMap | None,
    *,
    seed: int,
) -> Iterator[tuple[LayerLosses, LayerMap]]:
    """Yield the losses and the pairs of layers they compare; both models are watched meanwhile.

    Raises `StepFailed` when something that the settings ask for cannot be compared.
    """
    check_inputs(model, teacher, dataset)
    with ExitStack() as stack:
        maps = settings.attention_weight > 0
        stack.enter_context(attention_maps_in(model, teacher, wanted=maps))
        widths, pairs = check_layers(model, teacher, dataset, settings, layer_map)
        projection = _projection(*widths, seed) if settings.hidden_weight > 0 else None
        terms: list[tuple[float, _Term]] = []
        linears: list[nn.Linear] = []
        if settings.hidden_weight > 0:
            terms.append((settings.hidden_weight, _hidden_term(pairs, projection)))
        if maps:
            terms.append((settings.attention_weight, _attention_term(pairs)))
        if settings.sublayer_weight > 0:
            sublayers = sublayer_pairs(model, teacher, pairs)
            terms.append((settings.sublayer_weight, _sublayer_term(sublayers)))
            linears += [linear for pair in sublayers for linear in (pair.student, pair.teacher)]
        if settings.relation_weight > 0:
            relations = relation_pairs(model, teacher, settings)
            terms.append((settings.relation_weight, _relation_term(relations)))
            linears += [
                linear for pair in relations.pairs for linear in (pair.student, pair.teacher)
            ]
        recorded = stack.enter_context(recording(linears))
        inputs = TeacherInputs(model, teacher, dataset)
        yield LayerLosses(teacher, inputs, settings, terms, recorded, projection), pairs


def _projection(student_width: int, teacher_width: int, seed: int) -> nn.Linear | None:
    """Return the map from the student's hidden states to the teacher's, if one is needed.

    It begins as an isometry, so that it changes the size of no hidden state.

    Ref: Jiao et al. 2020, arXiv:1909.10351, eq. 8.
    """
    if student_width == teacher_width:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projection = nn.Linear(student_width, teacher_width, bias=False)
        nn.init.orthogonal_(projection.weight)
    return projection


def _hidden_term(pairs: LayerMap, projection: nn.Linear | None) -> _Term:
    # hidden_states[0] is the output of the embeddings, layer i gives hidden_states[i + 1].
    states = [(0, 0), *((own + 1, other + 1) for own, other in pairs)]

    def project(states: Tensor) -> Tensor:
        return states if projection is None else projection(states)

    def term(student: _Pass, teacher: _Pass, batch: TrainingBatch) -> Tensor:
        ours, theirs = student.outputs.hidden_states, teacher.outputs.hidden_states
        return mean_of_pairs(
            batch.part_of_mean(hidden_state_loss(project(ours[own]), theirs[other], batch.mask))
            for own, other in states
        )

    return term


def _attention_term(pairs: LayerMap) -> _Term:
    def term(student: _Pass, teacher: _Pass, batch: TrainingBatch) -> Tensor:
        ours, theirs = student.outputs.attentions, teacher.outputs.attentions
        return mean_of_pairs(
            batch.part_of_mean(attention_loss(ours[own], theirs[other], batch.mask))
            for own, other in pairs
        )

    return term


def _sublayer_term(pairs: tuple[LinearPair, ...]) -> _Term:
    def term(student: _Pass, teacher: _Pass, batch: TrainingBatch) -> Tensor:
        return mean_of_pairs(
            batch.part_of_mean(
                hidden_state_loss(
                    student.recorded[pair.student], teacher.recorded[pair.teacher], batch.mask
                )
            )
            for pair in pairs
        )

    return term


def _relation_term(relations: RelationPairs) -> _Term:
    def term(student: _Pass, teacher: _Pass, batch: TrainingBatch) -> Tensor:
        losses = [
            batch.part_of_mean(
                relation_loss(
                    student.recorded[pair.student],
                    teacher.recorded[pair.teacher],
                    relations.num_heads,
                    batch.mask,
                )
            )
            for pair in relations.pairs
        ]
        return torch.stack(losses).sum()

    return term
