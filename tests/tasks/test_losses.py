"""The losses of classes and of vectors."""

import math

import pytest
import torch
from torch import Tensor

from compressor.tasks.losses import ClassLosses, VectorLosses


def on_labels(logits: Tensor, labels: Tensor) -> Tensor:
    return ClassLosses().on_labels(logits, labels).mean


def to_teacher(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return ClassLosses().to_teacher(student, teacher, None, temperature)


def test_the_loss_on_labels_is_the_mean_negative_log_probability_of_the_label():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    # Probabilities of the labels: 3/4 and 1/2.
    expected = -(math.log(0.75) + math.log(0.5)) / 2

    assert on_labels(logits, torch.tensor([1, 0])).item() == pytest.approx(expected)


def test_rows_without_a_label_do_not_count():
    logits = torch.tensor([[1.0, 2.0], [0.0, 3.0], [5.0, 1.0]], requires_grad=True)
    some = on_labels(logits, torch.tensor([1, -100, -100]))
    assert some.item() == pytest.approx(on_labels(logits[:1], torch.tensor([1])).item())
    none = on_labels(logits, torch.tensor([-100, -100, -100]))
    none.backward()
    assert none.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_distance_of_equal_distributions_is_zero():
    logits = torch.tensor([[1.0, 2.0, 3.0]])

    assert to_teacher(logits + 5.0, logits, temperature=2.0).item() == pytest.approx(0.0, abs=1e-6)


def test_the_distance_goes_from_the_teacher_to_the_student():
    teacher = torch.tensor([[0.0, math.log(3.0)]])  # 1/4 and 3/4
    student = torch.tensor([[0.0, 0.0]])  # 1/2 and 1/2
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)

    assert to_teacher(student, teacher, temperature=1.0).item() == pytest.approx(expected)


def test_the_distance_is_scaled_by_the_squared_temperature_and_averaged_over_the_batch():
    # At temperature 2 these soften to (1/4, 3/4) for the teacher.
    teacher = torch.tensor([[0.0, 2 * math.log(3.0)], [0.0, 0.0]])
    student = torch.zeros(2, 2)
    first = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)

    assert to_teacher(student, teacher, temperature=2.0).item() == pytest.approx(4 * first / 2)


def test_gradients_of_the_distance_approach_those_of_squared_differences_at_high_temperature():
    # Hinton et al. 2015, eq. 4: for zero-mean logits the gradient tends to (z - v) / N.
    teacher = torch.tensor([[1.0, -2.0, 1.0]])
    student = torch.tensor([[0.5, 0.5, -1.0]], requires_grad=True)

    to_teacher(student, teacher, temperature=1000.0).backward()

    expected = (student.detach() - teacher) / 3
    torch.testing.assert_close(student.grad, expected, atol=5e-3, rtol=0)


def test_the_distance_of_unit_vectors_is_twice_the_missing_cosine():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[0.6, 0.8], [0.0, 1.0]])

    def distance(student: Tensor, teacher: Tensor) -> float:
        return float(VectorLosses().to_teacher(student, teacher, None, 1.0))

    # Cosines 0.6 and 1: the mean of 2 (1 - cosine) is 0.4.
    assert distance(student, teacher) == pytest.approx(0.4)
    assert distance(0 * student, 3 * teacher) == pytest.approx(1.0)


def test_half_precision_is_summed_in_float32():
    logits = torch.zeros(64, 2, dtype=torch.bfloat16)

    loss = on_labels(logits, torch.zeros(64, dtype=torch.int64))

    assert loss.item() == pytest.approx(0.693147, abs=1e-6)
