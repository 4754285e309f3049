from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressor.machine.launchers import Launch
from compressor.machine.team import Team
from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.passes.prune_structured.fisher import fisher_scores
from compressor.passes.prune_structured.importance import UnitScores
from compressor.tasks import load_task

TASK = load_task("text-classification")  # and that of images: one label for each row


EncoderMaker = Callable[..., Any]


def probabilities(logits: Tensor) -> Tensor:
    return torch.softmax(logits / 2, dim=-1)


def by_small_changes(encoder: Any, layer: int, unit: int, kind: str, step: float = 1e-4) -> float:
    """Compute one mask's Fisher information from logits with that unit scaled by 1 +- step."""
    part = getattr(encoder_layers(encoder.module)[layer], kind)
    linear = part.output if kind == "attention" else part.ffn_out
    dim = part.head_dim if kind == "attention" else 1
    columns = slice(unit * dim, (unit + 1) * dim)
    original = linear.weight.data.clone()
    found = []
    for factor in (1 + step, 1 - step):
        linear.weight.data[:, columns] = original[:, columns] * factor
        found.append(encoder.logits())
        linear.weight.data.copy_(original)
    slopes = (found[0] - found[1]) / (2 * step)  # (batch, classes)
    p = probabilities(encoder.logits())
    variance = (p * slopes.square()).sum(1) - (p * slopes).sum(1).square()
    return float(variance.mean())


@pytest.mark.parametrize("model_type", ["albert", "bert", "distilbert", "gte", "vit"])
@pytest.mark.parametrize("num_labels", [2, 3])
def test_scores_are_the_variance_of_the_logits_slopes(
    make_encoder: EncoderMaker, model_type: str, num_labels: int
):
    # Not eager: that computes a softmax of doubles in float32.
    encoder = make_encoder(model_type, attention="sdpa", num_labels=num_labels)
    encoder.module.double()
    inputs = {
        name: value.double() if value.is_floating_point() else value
        for name, value in encoder.inputs.items()
    }
    encoder.inputs.update(inputs)

    scores = fisher_scores(find_encoder(encoder.module), [encoder.inputs], TASK)

    expected_head = by_small_changes(encoder, 0, 2, "attention")
    expected_neuron = by_small_changes(encoder, 1, 5, "feed_forward")
    assert float(scores.heads[0][2]) == pytest.approx(expected_head, rel=1e-5)
    assert float(scores.neurons[1][5]) == pytest.approx(expected_neuron, rel=1e-5)


def make_straight(module: Any) -> None:
    """Let z_1 - z_0 of a one-layer BERT be linear in what the neurons give to the first token."""
    layer = module.bert.encoder.layer[0]
    layer.output.LayerNorm = nn.Identity()
    module.bert.pooler.dense.weight.data.copy_(torch.eye(32))
    module.bert.pooler.dense.bias.data.zero_()
    module.bert.pooler.activation = nn.Identity()
    module.classifier.weight.data.zero_()
    module.classifier.weight.data[1, 0] = 1.0  # z_1 is the first feature, z_0 is 0
    module.classifier.bias.data.zero_()


def test_for_two_classes_a_neuron_scores_as_computed_by_hand(make_encoder: EncoderMaker):
    encoder = make_encoder("bert", num_hidden_layers=1, num_labels=2)
    make_straight(encoder.module)
    ffn = encoder_layers(encoder.module)[0].feed_forward
    assert ffn is not None
    seen: list[Tensor] = []
    hook = ffn.ffn_out.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    z = encoder.logits()[:, 1]
    hook.remove()
    # dz_1 / dmask_j = (activation of neuron j at the first token) * (its weight to feature 0)
    slopes = seen[0][:, 0] * ffn.ffn_out.weight[0]  # (batch, neurons)
    p = torch.sigmoid(z / 2)
    expected = (p * (1 - p))[:, None] * slopes.square()

    scores = fisher_scores(find_encoder(encoder.module), [encoder.inputs], TASK)

    torch.testing.assert_close(scores.neurons[0].float(), expected.mean(dim=0).detach())


def total(scores: UnitScores) -> Tensor:
    return torch.cat([*scores.heads, *scores.neurons])


def test_padding_and_the_way_rows_are_batched_change_nothing(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    whole = fisher_scores(find_encoder(encoder.module), [encoder.inputs], TASK)
    single = {name: value[:1, :4] for name, value in encoder.inputs.items()}  # row 0 has 4 tokens
    rest = {name: value[1:] for name, value in encoder.inputs.items()}

    torch.testing.assert_close(
        total(fisher_scores(find_encoder(encoder.module), [single, rest], TASK)),
        total(whole),
        rtol=1e-4,
        atol=1e-7,
    )


def test_a_feed_forward_computed_in_chunks_scores_the_same(make_encoder: EncoderMaker):
    whole = make_encoder("bert")
    chunked = make_encoder("bert", chunk_size_feed_forward=1)
    torch.testing.assert_close(
        total(fisher_scores(find_encoder(chunked.module), [chunked.inputs], TASK)),
        total(fisher_scores(find_encoder(whole.module), [whole.inputs], TASK)),
        rtol=1e-4,
        atol=1e-7,
    )


def test_frozen_weights_are_scored_all_the_same(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    expected = total(fisher_scores(find_encoder(encoder.module), [encoder.inputs], TASK))
    encoder.module.requires_grad_(False)
    found = total(fisher_scores(find_encoder(encoder.module), [encoder.inputs], TASK))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())


def test_many_classes_are_estimated_from_projections_drawn_by_the_seed(make_encoder: EncoderMaker):
    encoder = make_encoder("bert", num_labels=12)
    p = probabilities(encoder.logits())
    assert p.shape == (3, 12)
    draws = [
        total(fisher_scores(find_encoder(encoder.module), [encoder.inputs], TASK, seed=s))
        for s in range(60)
    ]
    torch.testing.assert_close(
        draws[0], total(fisher_scores(find_encoder(encoder.module), [encoder.inputs], TASK, seed=0))
    )
    expected = by_small_changes(encoder, 1, 5, "feed_forward", step=1e-2)
    # 60 x 8 projections: the standard error is near sqrt(2 / 480) = 6%
    assert float(torch.stack(draws).mean(dim=0)[8 + 64 + 5]) == pytest.approx(expected, rel=0.25)


class Apart(Team):
    """One of two processes, which adds nothing up with the other."""

    def __init__(self, rank: int) -> None:
        super().__init__(Launch(rank, 2))

    def total(self, value: Tensor) -> Tensor:
        return value


def test_processes_draw_for_their_examples_what_one_process_draws(make_encoder: EncoderMaker):
    encoder = make_encoder("bert", num_labels=12)
    own = find_encoder(encoder.module)
    rows = [{name: value[i : i + 1] for name, value in encoder.inputs.items()} for i in range(3)]

    expected = total(fisher_scores(own, rows, TASK))
    first, second = (total(fisher_scores(own, rows, TASK, team=Apart(rank))) for rank in (0, 1))

    torch.testing.assert_close((2 * first + second) / 3, expected, rtol=1e-5, atol=1e-9)


def test_no_examples_are_refused(make_encoder: EncoderMaker):
    with pytest.raises(ValueError, match="at least one example"):
        fisher_scores(find_encoder(make_encoder("bert").module), [], TASK)


def test_logits_that_are_not_finite_are_refused(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    encoder.module.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="predictions on the calibration split are not finite"):
        fisher_scores(find_encoder(encoder.module), [encoder.inputs], TASK)


def test_no_batch_is_remembered_while_the_next_one_is_measured(make_encoder):
    """The graph of a batch holds all activations, so two of them would be twice the memory."""
    encoder = make_encoder("bert")
    output = encoder_layers(encoder.module)[0].feed_forward.ffn_out
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[list[bool]] = []

    def look(module: torch.nn.Module, inputs: Any, result: torch.Tensor) -> None:
        alive.append([each() is not None for each in seen])
        seen.append(weakref.ref(result))

    with_hook = output.register_forward_hook(look)
    fisher_scores(find_encoder(encoder.module), [encoder.inputs] * 3, TASK)
    with_hook.remove()

    assert alive == [[], [False], [False, False]]
