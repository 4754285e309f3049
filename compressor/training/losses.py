"""The losses of distillation on what happens inside a model, as pure functions of tensors.

Every loss is a mean, so that its size does not depend on the batch size or on padding, and the
weights of a recipe keep their meaning from one model to the next. Half precision is summed in
float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from compressor.tasks.losses import SummedLoss, in_float32

# Attention probabilities below this count as this: dropout leaves zeros, whose logarithm is not.
_SMALLEST_PROBABILITY = 1e-6


def hidden_state_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> SummedLoss:
    """Return the squared error of the student's hidden states over the teacher's squared norm.

    Both have shape `(batch, tokens, width)`; `mask`, shape `(batch, tokens)`, is 0 at padding,
    which does not count. Being relative, 1.0 means no better than all zeros at every layer.
    """
    student, teacher = in_float32(student), in_float32(teacher)
    error = (student - teacher).square().sum(dim=-1)  # (batch, tokens)
    norm = teacher.square().sum(dim=-1)  # (batch, tokens)
    if mask is not None:
        error, norm = error * mask, norm * mask
    return SummedLoss(error.sum(), norm.sum(), least=None, of_tokens=True)


def logits_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> SummedLoss:
    """Return the mean squared difference of logits, both `(batch, ...)`, over examples and classes.

    `mask`, shape `(batch, tokens)`, is 0 at padding, which does not count; it is for outputs of
    shape `(batch, tokens, classes)` alone.

    Ref: Kim et al. 2021, arXiv:2105.08919, eq. 3.
    """
    error = (in_float32(student) - in_float32(teacher)).square()
    if mask is None:
        return SummedLoss(error.sum(), torch.tensor(error.numel()))
    total = (error.mean(dim=-1) * mask).sum()
    return SummedLoss(total, mask.sum(), least=None, of_tokens=True)


def vector_distance(student: Tensor, teacher: Tensor) -> SummedLoss:
    """Return the squared distance of vectors, both `(batch, width)`, a mean over examples.

    Ref: Vujanic & Rueckstiess 2025, arXiv:2509.12539, section 3.
    """
    error = (in_float32(student) - in_float32(teacher)).square()
    return SummedLoss(error.sum(), torch.tensor(len(error)))


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> SummedLoss:
    """Return the KL divergence from the teacher's attention to the student's, averaged over heads.

    `student` and `teacher` are probabilities of shape `(batch, heads, tokens, tokens)` and may
    have different numbers of heads, because maps are averaged over heads first. `mask`, shape
    `(batch, tokens)`, is 0 at padding, which counts neither as query nor as key. Rows are
    normalised again: attention dropout leaves the student's without a sum of one.

    Ref: Wang et al. 2020, arXiv:2002.10957, eq. 6 (there head by head).
    """
    # (batch, queries, keys)
    student, teacher = in_float32(student).mean(dim=1), in_float32(teacher).mean(dim=1)
    if mask is None:
        mask = student.new_ones(student.shape[:2])
    queries = mask.to(student.dtype)  # (batch, queries)
    keys = queries[:, None, :]  # (batch, 1, keys)
    student, teacher = _normalise(student, keys), _normalise(teacher, keys)
    divergence = torch.xlogy(teacher, teacher / student) * keys  # (batch, queries, keys)
    total = (divergence.sum(dim=-1) * queries).sum()
    return SummedLoss(total, queries.sum(), least=None, of_tokens=True)


def relation_loss(
    student: Tensor, teacher: Tensor, num_heads: int, mask: Tensor | None = None
) -> SummedLoss:
    """Return the KL divergence from the teacher's self-attention relations to the student's.

    `student` and `teacher` are queries, keys or values of shape `(batch, tokens, width)`, the width
    may differ. Each is cut into `num_heads` parts; the relations of a part are the softmax of the
    scaled products of its tokens among themselves. The result is the mean over parts and tokens.
    `mask`, shape `(batch, tokens)`, is 0 at padding, which counts neither as row nor as column.

    Ref: Wang et al. 2021 (MiniLMv2), arXiv:2012.15828, eq. 5-7.
    """
    if mask is None:
        mask = student.new_ones(student.shape[:2])
    columns = mask[:, None, None, :] == 0  # (batch, 1, 1, tokens)
    own = _log_relations(student, num_heads, columns)  # (batch, heads, tokens, tokens)
    other = _log_relations(teacher, num_heads, columns)
    divergence = (other.exp() * (other - own)).masked_fill(columns, 0.0).sum(dim=-1)
    rows = mask.to(divergence.dtype)  # (batch, tokens)
    total = (divergence.mean(dim=1) * rows).sum()
    return SummedLoss(total, rows.sum(), least=None, of_tokens=True)


def mean_of_pairs(losses: Iterable[Tensor]) -> Tensor:
    """Return the mean of the losses of several layers."""
    return torch.stack(list(losses)).mean()


def _normalise(attention: Tensor, keys: Tensor) -> Tensor:
    clamped = attention.clamp_min(_SMALLEST_PROBABILITY) * keys
    # Where a key is padding the result is 1, a factor that the caller's mask removes.
    return clamped / clamped.sum(dim=-1, keepdim=True) + (1 - keys)


def _log_relations(states: Tensor, num_heads: int, hidden_columns: Tensor) -> Tensor:
    batch, tokens, width = states.shape
    parts = states.view(batch, tokens, num_heads, width // num_heads).transpose(1, 2)
    # (batch, heads, tokens, tokens)
    products = in_float32(parts @ parts.mT) / math.sqrt(width // num_heads)
    # Not -inf: a difference of two would be NaN, also in the gradient.
    lowest = torch.finfo(products.dtype).min
    relations: Tensor = products.masked_fill(hidden_columns, lowest).log_softmax(dim=-1)
    return relations
