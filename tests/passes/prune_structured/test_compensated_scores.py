from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.passes.prune_structured import compensated_scores as module
from compressor.passes.prune_structured.compensated_scores import (
    Moments,
    compensated_scores,
    elimination_costs,
)
from compressor.tasks import load_task

TASK = load_task("text-classification")  # and that of images: one label for each row

EncoderMaker = Callable[..., Any]


def moments(inputs: Tensor, num_outputs: int) -> Moments:
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    rows = torch.cat([inputs.double(), ones], dim=1)
    gradients = torch.eye(num_outputs, dtype=torch.float64) / num_outputs
    return Moments(rows.T @ rows, gradients)


def test_a_head_that_another_can_imitate_leaves_first_and_costs_next_to_nothing():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 6, generator=generator)  # three heads of two features
    inputs[:, 4:] = inputs[:, :2] @ torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    weight = torch.randn(5, 6, generator=generator)
    first, middle, last = elimination_costs(weight, moments(inputs, 5), dim=2).tolist()
    assert min(first, last) < 0.01 * middle  # the middle one is the one without a twin
    assert max(first, last) > 10 * min(first, last)  # the twin that stays is needed


def test_the_first_cost_is_the_error_that_least_squares_leaves():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    inputs[:, 3] += inputs[:, 0]
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    targets = inputs @ weight.T
    ones = torch.ones(200, 1, dtype=torch.float64)
    errors = []
    for stays in (slice(2, 4), slice(0, 2)):
        rest = torch.cat([inputs[:, stays], ones], dim=1)
        left = targets - rest @ torch.linalg.lstsq(rest, targets).solution
        errors.append(float(left.square().sum()) / 3)  # the gradients' factor is a third of eye(3)

    costs = elimination_costs(weight, moments(inputs, 3), dim=2)

    assert float(costs.min()) == pytest.approx(min(errors), rel=0.01)  # damped by 1e-3
    assert int(costs.argmin()) == errors.index(min(errors))


def test_neurons_leave_as_the_best_correction_of_the_rest_says(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(200, 80, generator=generator) @ torch.randn(80, 80, generator=generator)
    weight = torch.randn(6, 80, generator=generator)
    own = moments(inputs, 6)
    monkeypatch.setattr(module, "_ROUNDS", 2)  # several copies without the neurons that left
    found = elimination_costs(weight, own, dim=1)
    assert torch.allclose(found, by_definition(weight, own), rtol=1e-9)


def by_definition(weight: Tensor, own: Moments) -> Tensor:
    """Return the costs of neurons, 16 at a time, each time from the equations of those left."""
    size = weight.shape[1]
    damped = own.inputs.clone()
    damped.diagonal()[:size] += 1e-3 * damped.diagonal()[:size].mean()
    root = own.gradients.sqrt()  # diagonal
    costs = torch.zeros(size, dtype=torch.float64)
    left, rest, highest = list(range(size)), root @ weight.double(), 0.0
    while left:
        places = [*left, size]
        inverse = torch.linalg.inv(damped[places][:, places])
        alone = rest.square().sum(dim=0) / inverse.diagonal()[:-1]
        leaving = alone.argsort(stable=True)[:16]
        taken = rest[:, leaving]
        precision = torch.linalg.inv(inverse[leaving][:, leaving])
        highest = max(highest, float((taken @ precision * taken).sum()) / len(leaving))
        costs[[left[place] for place in leaving.tolist()]] = highest
        rest = rest - taken @ precision @ inverse[leaving][:, :-1]
        stay = [place for place in range(len(left)) if place not in leaving.tolist()]
        left, rest = [left[place] for place in stay], rest[:, stay]
    return costs


def test_second_moments_are_whole_whatever_their_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_BLOCK", 3)
    rows = torch.randn(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.arange(20, dtype=torch.float64)[:, None]
    total = torch.zeros(8, 8, dtype=torch.float64)
    module._add_product(total, rows[:9] * weights[:9], rows[:9])
    module._add_product(total, rows[9:] * weights[9:], rows[9:])
    assert torch.allclose(module._mirrored(total), rows.T @ torch.diag(weights[:, 0]) @ rows)


def test_a_matrix_that_rounding_left_indefinite_is_inverted_too():
    matrix = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(module._inverse(matrix) @ matrix, torch.eye(2, dtype=torch.float64))


def test_costs_rise_in_the_order_of_leaving_and_hold_for_every_architecture(
    make_encoder: EncoderMaker,
):
    encoder = make_encoder("vit")
    scores = compensated_scores(find_encoder(encoder.module), [encoder.inputs], TASK)
    layers = encoder_layers(encoder.module)
    assert [len(heads) for heads in scores.heads] == [layer.num_heads for layer in layers]
    assert [len(neurons) for neurons in scores.neurons] == [64, 64]
    # 64 neurons leave 16 at a time: at most 4 different costs
    assert len(scores.neurons[0].unique()) <= 4
    assert all(low <= high for low, high in pairwise(scores.neurons[0].sort().values.tolist()))
    assert float(scores.neurons[0].min()) >= 0


def test_a_unit_that_nothing_reads_costs_nothing(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    layer = encoder_layers(encoder.module)[0]
    assert layer.attention is not None
    layer.attention.output.weight.data[:, 8:16] = 0
    scores = compensated_scores(find_encoder(encoder.module), [encoder.inputs], TASK)
    assert float(scores.heads[0][1]) == 0
    assert float(scores.heads[0].sort().values[1]) > 0


def test_padding_changes_nothing(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    single = {name: value[:1, :4] for name, value in encoder.inputs.items()}  # row 0 has 4 tokens
    padded = {name: value[:1] for name, value in encoder.inputs.items()}
    expected = compensated_scores(find_encoder(encoder.module), [single], TASK)
    found = compensated_scores(find_encoder(encoder.module), [padded], TASK)
    torch.testing.assert_close(found.heads, expected.heads, rtol=1e-3, atol=1e-9)


def test_a_weight_that_is_not_finite_is_refused(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    encoder.module.bert.encoder.layer[1].output.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        compensated_scores(find_encoder(encoder.module), [encoder.inputs], TASK)


def test_predictions_that_depend_on_nothing_are_refused(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    encoder.module.classifier.weight.data.zero_()
    with pytest.raises(ValueError, match=r"depend on no layer.*check the checkpoint"):
        compensated_scores(find_encoder(encoder.module), [encoder.inputs], TASK)


def test_layers_that_no_prediction_depends_on_cost_nothing(make_encoder: EncoderMaker):
    """What lies before a norm whose weights are all zero is not seen behind it."""
    encoder = make_encoder("bert")
    encoder.module.bert.encoder.layer[1].attention.output.LayerNorm.weight.data.zero_()
    scores = compensated_scores(find_encoder(encoder.module), [encoder.inputs], TASK)
    for unseen in (scores.heads[0], scores.neurons[0], scores.heads[1]):
        assert unseen.tolist() == [0] * len(unseen)
    assert float(scores.neurons[1].max()) > 0
