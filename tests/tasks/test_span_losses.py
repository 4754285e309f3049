"""The losses of starts and ends, by PyTorch's own and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compressor.tasks.losses import SpanLosses

LOSSES = SpanLosses()
ROWS, TOKENS = 3, 6
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]])
STARTS, ENDS = torch.tensor([2, 0, 3]), torch.tensor([4, 3, 3])


def logits(seed: int) -> Tensor:
    return torch.randn(ROWS, TOKENS, 2, generator=torch.Generator().manual_seed(seed)).double()


def targets() -> Tensor:
    found = torch.zeros(ROWS, TOKENS, 2, dtype=torch.int64)
    found[range(ROWS), STARTS, 0] = 1
    found[range(ROWS), ENDS, 1] = 1
    return found.masked_fill(MASK[..., None] == 0, -100)


def test_the_loss_is_the_mean_cross_entropy_of_start_and_end():
    outputs = logits(0)
    hidden = outputs.masked_fill(MASK[..., None] == 0, -torch.inf)
    expected = (
        functional.cross_entropy(hidden[..., 0], STARTS)
        + functional.cross_entropy(hidden[..., 1], ENDS)
    ) / 2
    assert LOSSES.on_labels(outputs, targets()).mean.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("changed", [1e3, -1e3, float("3e4")])
def test_padding_changes_nothing_and_has_no_gradient(changed: float):
    outputs = logits(0)
    other = outputs.masked_fill(MASK[..., None] == 0, changed).requires_grad_()
    loss = LOSSES.on_labels(other, targets()).mean
    assert loss.item() == pytest.approx(LOSSES.on_labels(outputs, targets()).mean.item())
    teacher = logits(1)
    distance = LOSSES.to_teacher(other, teacher, MASK, 2.0)
    assert distance.item() == pytest.approx(
        LOSSES.to_teacher(outputs, teacher + 7, MASK, 2.0).item()
    )
    probes = list(LOSSES.fisher_probes(other, MASK, torch.Generator().manual_seed(0)))
    (loss + distance + sum(probes)).backward()
    assert other.grad is not None
    assert other.grad.isfinite().all()
    assert not other.grad[MASK == 0].any()
    assert other.grad[MASK == 1].all()


def test_the_distance_to_a_teacher_by_hand():
    student, teacher = logits(0), logits(1)
    total = 0.0
    for row in range(ROWS):
        kept = MASK[row].bool()
        for side in range(2):
            p = torch.softmax(teacher[row, kept, side] / 2, dim=0)
            q = torch.softmax(student[row, kept, side] / 2, dim=0)
            total += float((p * (p.log() - q.log())).sum())
    expected = 4 * total / (2 * ROWS)
    assert LOSSES.to_teacher(student, teacher, MASK, 2.0).item() == pytest.approx(expected)
    assert LOSSES.to_teacher(student, student, MASK, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_own_targets_are_the_likeliest_tokens_without_padding():
    outputs = targets().clamp(min=0).double()
    outputs[MASK == 0] = 99
    assert torch.equal(LOSSES.own_targets(outputs, MASK), targets())


def test_a_batch_without_a_mask_has_no_padding():
    outputs = logits(0)
    everything = torch.ones(ROWS, TOKENS)
    assert torch.equal(LOSSES.own_targets(outputs, None), LOSSES.own_targets(outputs, everything))
    assert LOSSES.to_teacher(outputs, logits(1), None, 1.0).item() == pytest.approx(
        LOSSES.to_teacher(outputs, logits(1), everything, 1.0).item()
    )


def test_probes_add_up_to_the_fisher_information_of_start_and_end():
    """Of a softmax at temperature 2, by its outputs, it has p (1 - p) on the diagonal."""
    outputs = logits(0).requires_grad_()
    total = torch.zeros_like(outputs)
    generator, draws = torch.Generator().manual_seed(0), 600
    for _ in range(draws):
        for probe in LOSSES.fisher_probes(outputs, MASK, generator):
            [gradient] = torch.autograd.grad(probe, outputs, retain_graph=True)
            total += gradient.square() / draws
    hidden = outputs.detach().masked_fill(MASK[..., None] == 0, -torch.inf)
    p = torch.softmax(hidden / 2, dim=1)
    # The squared projections of 600 * 8 draws are right within a twentieth.
    torch.testing.assert_close(total, p * (1 - p), rtol=0.15, atol=1e-3)


def test_half_precision_is_summed_in_float32():
    outputs = logits(0).half()
    expected = LOSSES.on_labels(outputs.float(), targets()).mean.item()
    assert LOSSES.on_labels(outputs, targets()).mean.item() == pytest.approx(expected)
