import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from compressor.training.losses import (
    attention_loss,
    hidden_state_loss,
    logits_mse,
    mean_of_pairs,
    relation_loss,
)


def test_hidden_state_loss_is_relative_to_the_teachers_norm():
    teacher = torch.tensor([[[3.0, 4.0], [0.0, 5.0]]])  # squared norm 25 + 25
    student = torch.tensor([[[3.0, 3.0], [2.0, 5.0]]])  # squared error 1 + 4

    assert hidden_state_loss(student, teacher).mean.item() == pytest.approx(5 / 50)


def test_hidden_state_loss_leaves_padding_out():
    teacher = torch.tensor([[[3.0, 4.0], [7.0, 7.0]]])
    student = torch.tensor([[[3.0, 3.0], [0.0, -9.0]]])
    mask = torch.tensor([[1, 0]])

    assert hidden_state_loss(student, teacher, mask).mean.item() == pytest.approx(1 / 25)


def test_attention_loss_averages_heads_before_comparing():
    # Two heads whose mean is the teacher's single head: nothing to learn.
    student = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]]])
    teacher = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])

    assert attention_loss(student, teacher).mean.item() == pytest.approx(0.0, abs=1e-6)


def test_attention_loss_is_the_mean_divergence_of_the_queries():
    teacher = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])
    student = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])
    first_query = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)

    assert attention_loss(student, teacher).mean.item() == pytest.approx(first_query / 2)


def test_attention_loss_leaves_padded_queries_and_keys_out():
    teacher = torch.tensor([[[[0.25, 0.75, 0.0], [0.5, 0.5, 0.0], [0.1, 0.1, 0.8]]]])
    student = torch.tensor([[[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.9, 0.1, 0.0]]]])
    mask = torch.tensor([[1, 1, 0]])
    first_query = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)

    loss = attention_loss(student, teacher, mask).mean.item()

    assert loss == pytest.approx(first_query / 2, abs=1e-5)


def test_attention_loss_is_finite_where_dropout_left_zeros():
    teacher = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])
    student = torch.tensor([[[[0.0, 0.0], [1.1, 0.0]]]], requires_grad=True)

    loss = attention_loss(student, teacher).mean
    loss.backward()

    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_mean_of_pairs_is_the_mean():
    losses = (torch.tensor(1.0), torch.tensor(2.0), torch.tensor(6.0))

    assert mean_of_pairs(losses).item() == 3.0


def relations(states: np.ndarray, heads: int) -> np.ndarray:
    parts = np.split(states, heads, axis=-1)
    return np.stack([log_softmax(p @ p.T / math.sqrt(p.shape[1]), axis=-1) for p in parts])


def test_relation_loss_is_the_kl_of_scaled_products_over_parts_and_tokens():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(3, 4, 6)), random.normal(size=(3, 4, 8))
    lengths = (4, 2, 3)
    rows = []
    for own, other, length in zip(student, teacher, lengths, strict=True):
        ours, theirs = relations(own[:length], 2), relations(other[:length], 2)
        rows += ((np.exp(theirs) * (theirs - ours)).sum(-1)).mean(0).tolist()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])

    found = relation_loss(torch.from_numpy(student), torch.from_numpy(teacher), 2, mask).mean

    assert found.item() == pytest.approx(np.mean(rows), rel=1e-9)


def test_relation_loss_without_a_mask_counts_every_token():
    states = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))

    with_mask = relation_loss(states, 2 * states, 2, torch.ones(2, 3)).mean

    assert relation_loss(states, 2 * states, 2).mean.item() == pytest.approx(with_mask.item())
    assert with_mask.item() > 0
    assert relation_loss(states, states, 2).mean.item() == pytest.approx(0.0, abs=1e-6)


def test_what_stands_in_padding_changes_neither_relation_loss_nor_its_gradient():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(1, 3, 4, generator=generator).requires_grad_()
    teacher = torch.randn(1, 3, 4, generator=generator)
    mask = torch.tensor([[1, 1, 0]])
    other = teacher.clone()
    other[0, 2] = 100.0

    loss = relation_loss(student, teacher, 2, mask).mean
    loss.backward()

    assert relation_loss(student, other, 2, mask).mean.item() == pytest.approx(loss.item())
    assert student.grad is not None
    assert student.grad[0, 2].abs().max() == 0
    assert torch.isfinite(student.grad).all()


def test_squared_errors_of_logits_are_a_mean_over_classes_and_rows():
    student = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    teacher = torch.tensor([[0.0, 2.0], [2.0, 0.0]])

    assert logits_mse(student, teacher).mean.item() == pytest.approx((1 + 0 + 4 + 1) / 4)


def test_squared_errors_of_tokens_leave_padding_out():
    student = torch.tensor([[[1.0, 2.0], [9.0, 9.0]], [[0.0, -1.0], [3.0, 3.0]]])
    teacher = torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[2.0, 0.0], [3.0, 4.0]]])
    mask = torch.tensor([[1, 0], [1, 1]])

    assert logits_mse(student, teacher, mask).mean.item() == pytest.approx(
        (1 + 0 + 4 + 1 + 0 + 1) / 6
    )
