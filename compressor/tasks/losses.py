"""The losses of tasks in PyTorch: on labels, towards a teacher, and by a model's own predictions.

Training and the scores of heads, neurons and layers take all their losses from here, through
`Task.losses`, and never ask what a model gives. Apart from the tasks because it needs torch, which
is not installed where an artifact runs. Half precision is summed in float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from compressor.tasks.outputs import UNLABELLED

_TEMPERATURE = 2.0  # softens confident predictions, whose Fisher information would vanish
_MAX_PROBES = 8  # backward passes for each batch
# Of vectors, whose every row draws signs of its own: hundreds of rows average out what two leave.
_DIRECTION_PROBES = 2
_TOKEN_PROBES = 2  # of tokens, which are many too


@dataclass(frozen=True)
class SummedLoss:
    """A loss summed over a batch, and over how much, such as the labels that are there.

    Of a batch in parts, totals and counts add up to those of the whole. A mean divides by `least`
    at least, where that is given, and is multiplied by `scale`. `of_tokens` says that tokens are
    counted, or grow with what is, and not rows.
    """

    total: Tensor
    count: Tensor
    least: float | None = 1
    scale: float = 1
    of_tokens: bool = False

    @property
    def mean(self) -> Tensor:
        """Return the mean; 0 where there is nothing to count."""
        return self.over(self.count)

    def over(self, count: Tensor) -> Tensor:
        """Return the total over `count`, such as that of a whole of which this is a part."""
        found = self.total / (count if self.least is None else count.clamp(min=self.least))
        return found if self.scale == 1 else found * self.scale


class Losses(ABC):
    """The losses of one task.

    `outputs` is what `Task.output_of` reads of a module, with the batch as its first axis.
    `targets` is what `Task.targets` makes of labels, as a tensor, or what `own_targets` returns.
    `mask`, shape `(batch, tokens)`, is 0 at padding, which never counts; it is None where a batch
    has no attention mask. Outputs without an axis of tokens have no padding.
    """

    # Whether the loss towards `own_targets` has a gradient. A distance to itself has none.
    own_targets_have_gradient: ClassVar[bool] = True

    @abstractmethod
    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return the loss of `outputs` against `targets`; examples do not touch each other."""

    def count(self, targets: Tensor) -> Tensor:
        """Return how many targets `on_labels` adds up the loss of: by default one for each row."""
        return torch.tensor(len(targets))

    def to_teacher(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float
    ) -> Tensor:
        """Return the distance of the student's outputs from the teacher's, a mean over the batch.

        Both have one shape. A larger `temperature` softens predictions that have one.
        """
        return self.distance(student, teacher, mask, temperature).mean

    @abstractmethod
    def distance(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float
    ) -> SummedLoss:
        """Return what `to_teacher` is the mean of; examples do not touch each other."""

    def margins(
        self,
        student: Tensor,  # noqa: ARG002 - for tasks that give one number
        teacher: Tensor,  # noqa: ARG002
        groups: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Return how far differences within a group are from the teacher's, a mean over pairs.

        `groups`, shape `(batch,)`, number what examples belong to. Only asked of tasks that tell
        rows of a group apart by one number.
        """
        raise TypeError(f"{type(self).__name__} compares no rows of a group")

    @abstractmethod
    def own_targets(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return what a model's own `outputs` say in the place of labels, such as classes."""

    @abstractmethod
    def fisher_probes(
        self, outputs: Tensor, mask: Tensor | None, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield scalars whose squared derivatives add up to the Fisher information of an example.

        It is that of the model's own predictions, softened. Each scalar is summed over the batch,
        whose examples do not touch each other, so a derivative by what belongs to one example is
        that example's. An example with several predictions needs a sign, drawn from `generator`,
        for each of them, so that their squares add up on average.
        """


class ClassLosses(Losses):
    """Cross-entropy of one class; `outputs` has shape `(batch, num_labels)`, targets `(batch,)`."""

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return the cross-entropy; rows whose label is -100 have none and do not count."""
        total = functional.cross_entropy(in_float32(outputs), targets, reduction="sum")
        return SummedLoss(total, self.count(targets))

    def count(self, targets: Tensor) -> Tensor:
        """Return how many labels there are."""
        return (targets != UNLABELLED).sum()

    def distance(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,  # noqa: ARG002 - one row is one example
        temperature: float,
    ) -> SummedLoss:
        """Return the KL divergence from the teacher's softened distribution to the student's.

        The mean over the batch is multiplied by the squared temperature, so that gradients keep
        their size whatever the temperature.

        Ref: Hinton et al. 2015, arXiv:1503.02531, section 2.
        """
        own = functional.log_softmax(in_float32(student) / temperature, dim=-1)
        other = functional.log_softmax(in_float32(teacher) / temperature, dim=-1)
        total = functional.kl_div(own, other, log_target=True, reduction="sum")
        return SummedLoss(total, torch.tensor(len(student)), scale=temperature**2)

    def own_targets(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """Return the class with the largest logit of each row."""
        return outputs.argmax(dim=-1)

    def fisher_probes(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield them for the class drawn from the logits softened at temperature 2.

        Exact up to 8 classes; with more, 8 random projections, whose mean is right.
        """
        p = torch.softmax(outputs.detach() / _TEMPERATURE, dim=-1)  # (batch, classes)
        num_classes = p.shape[-1]
        centred = outputs - (p * outputs).sum(dim=-1, keepdim=True)
        if num_classes == 2:
            yield ((p[:, 0] * p[:, 1]).sqrt() * (outputs[:, 1] - outputs[:, 0])).sum()
        elif num_classes <= _MAX_PROBES:
            for index in range(num_classes):
                yield (p[:, index].sqrt() * centred[:, index]).sum()
        else:
            for _ in range(_MAX_PROBES):
                signs = random_signs(p, generator)
                yield (p.sqrt() * signs * centred).sum() / math.sqrt(_MAX_PROBES)


class LabelSetLosses(Losses):
    """Losses on labels that hold or not, each by itself; outputs and targets `(batch, labels)`."""

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return the binary cross-entropy, a mean over labels."""
        each = functional.binary_cross_entropy_with_logits(
            in_float32(outputs), targets.float(), reduction="none"
        )
        return SummedLoss(each.mean(dim=-1).sum(), torch.tensor(len(outputs)))

    def distance(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,  # noqa: ARG002 - one row is one example
        temperature: float,
    ) -> SummedLoss:
        """Return the KL divergence from the teacher's softened probability of each label.

        It is summed over labels; as for one label of several, the mean over the batch is multiplied
        by the squared temperature.

        Ref: Hinton et al. 2015, arXiv:1503.02531, section 2.
        """
        own, other = (in_float32(item) / temperature for item in (student, teacher))
        sure = torch.sigmoid(other)
        each = sure * (functional.logsigmoid(other) - functional.logsigmoid(own))
        each = each + (1 - sure) * (functional.logsigmoid(-other) - functional.logsigmoid(-own))
        return SummedLoss(each.sum(dim=-1).sum(), torch.tensor(len(student)), scale=temperature**2)

    def own_targets(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """Return 1 for each label whose probability is at least one half, else 0."""
        return (outputs >= 0).to(outputs.dtype)

    def fisher_probes(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield them for labels drawn from the logits softened at temperature 2.

        Labels are independent of each other, so their information adds up: exact up to 8 labels;
        with more, 8 random projections, whose mean is right.
        """
        p = torch.sigmoid(outputs.detach() / _TEMPERATURE)  # (batch, labels)
        spread = (p * (1 - p)).sqrt() * outputs
        if p.shape[-1] <= _MAX_PROBES:
            for index in range(p.shape[-1]):
                yield spread[:, index].sum()
        else:
            for _ in range(_MAX_PROBES):
                signs = random_signs(p, generator)
                yield (signs * spread).sum() / math.sqrt(_MAX_PROBES)


class VectorLosses(Losses):
    """Losses on where vectors point, shape `(batch, width)`; there are no labels of vectors."""

    own_targets_have_gradient: ClassVar[bool] = False

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return 1 minus the cosine similarity to the vectors `targets`."""
        missing = 1 - functional.cosine_similarity(outputs, targets, dim=-1)
        return SummedLoss(missing.sum(), torch.tensor(len(outputs)))

    def distance(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,  # noqa: ARG002 - one row is one example
        temperature: float,  # noqa: ARG002 - vectors have none
    ) -> SummedLoss:
        """Return the squared error of the student's vectors over the teacher's squared length.

        For vectors of length 1 it is twice 1 minus the cosine similarity; for others lengths are
        learnt too, which those who rank by products need.

        Ref: Reimers & Gurevych 2020, arXiv:2004.09813, eq. 1 (there not divided).
        """
        own, other = in_float32(student), in_float32(teacher)
        return SummedLoss((own - other).square().sum(), other.square().sum(), least=None)

    def own_targets(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """Return the vectors."""
        return outputs

    def fisher_probes(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Iterator[Tensor]:
        """Project the vectors of length 1 onto random signs.

        They are means of a normal distribution around the direction, whose Fisher information is
        the squared derivative of that direction. Over all signs the mean square of a projection is
        the squared length (Hutchinson 1990, Communications in Statistics - Simulation and
        Computation 19:433).
        """
        directions = functional.normalize(outputs, dim=-1)
        for _ in range(_DIRECTION_PROBES):
            signs = random_signs(outputs, generator)
            yield (signs * directions).sum() / math.sqrt(_DIRECTION_PROBES)


class TokenLosses(Losses):
    """Cross-entropy of each token, `outputs` of shape `(batch, tokens, num_labels)`.

    Targets have shape `(batch, tokens)`. Padding never counts, and is no token towards a teacher.
    """

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return the cross-entropy; tokens whose label is -100 have none and do not count."""
        total = functional.cross_entropy(
            in_float32(outputs).flatten(0, 1), targets.flatten(), reduction="sum"
        )
        return SummedLoss(total, self.count(targets))

    def count(self, targets: Tensor) -> Tensor:
        """Return how many labels there are."""
        return (targets != UNLABELLED).sum()

    def distance(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float
    ) -> SummedLoss:
        """Return the KL divergence of softened distributions, a mean over all tokens of the batch.

        It is multiplied by the squared temperature, as that of `ClassLosses`.
        """
        own, other = (
            functional.log_softmax(in_float32(item) / temperature, dim=-1)
            for item in (student, teacher)
        )
        each = functional.kl_div(own, other, log_target=True, reduction="none").sum(dim=-1)
        kept = torch.ones_like(each) if mask is None else mask.to(each)  # (batch, tokens)
        return SummedLoss(
            (each * kept).sum(), kept.sum(), least=None, scale=temperature**2, of_tokens=True
        )

    def own_targets(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the class with the largest logit of each token, -100 at padding."""
        classes = outputs.argmax(dim=-1)
        return classes if mask is None else classes.masked_fill(mask == 0, UNLABELLED)

    def fisher_probes(
        self, outputs: Tensor, mask: Tensor | None, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield random projections of the tokens' classes, softened at temperature 2.

        Each token draws signs of its own, so that the squares of its classes, and those of the
        tokens of an example, add up on average.
        """
        p = torch.softmax(outputs.detach() / _TEMPERATURE, dim=-1)  # (batch, tokens, num_labels)
        centred = outputs - (p * outputs).sum(dim=-1, keepdim=True)
        kept = torch.ones_like(p) if mask is None else mask.unsqueeze(-1).to(p)
        for _ in range(_TOKEN_PROBES):
            signs = random_signs(p, generator)
            yield (kept * p.sqrt() * signs * centred).sum() / math.sqrt(_TOKEN_PROBES)


class SpanLosses(Losses):
    """Cross-entropy of where an answer starts and ends; `outputs` `(batch, tokens, 2)`.

    Targets have the same shape: 1 at the token that is right, 0 at others, and -100 at padding,
    which takes no part in a softmax over the tokens of a row. What counts is the mean over start
    and end.
    """

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return the cross-entropy, a mean over start and end."""
        each = _log_softmax_of_tokens(in_float32(outputs), targets[..., 0] != UNLABELLED)
        total = -torch.where(targets == 1, each, 0.0).sum() / 2
        return SummedLoss(total, torch.tensor(len(outputs)))

    def distance(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float
    ) -> SummedLoss:
        """Return the KL divergence of softened distributions over tokens, of start and end.

        It is a mean over both and over the batch, multiplied by the squared temperature, as that
        of `ClassLosses`.
        """
        kept = _kept_tokens(student, mask)
        own, other = (
            _log_softmax_of_tokens(in_float32(item) / temperature, kept)
            for item in (student, teacher)
        )
        each = functional.kl_div(own, other, log_target=True, reduction="none")
        return SummedLoss(each[kept].sum(), torch.tensor(2 * len(student)), scale=temperature**2)

    def own_targets(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return 1 at the tokens with the largest start and the largest end logit."""
        kept = _kept_tokens(outputs, mask)
        best = outputs.masked_fill(~kept[..., None], -torch.inf).argmax(dim=1, keepdim=True)
        found = torch.zeros_like(outputs, dtype=torch.int64).scatter(1, best, 1)
        return found.masked_fill(~kept[..., None], UNLABELLED)

    def fisher_probes(
        self, outputs: Tensor, mask: Tensor | None, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield random projections of start and end, softened at temperature 2.

        Both are a choice of one token, so the signs of tokens make their squares add up on average.
        """
        kept = _kept_tokens(outputs, mask)
        p = _log_softmax_of_tokens(outputs.detach() / _TEMPERATURE, kept).exp()
        p = p * kept[..., None]
        centred = outputs - (p * outputs).sum(dim=1, keepdim=True)
        for _ in range(_MAX_PROBES):
            signs = random_signs(p, generator)
            yield (p.sqrt() * signs * centred).sum() / math.sqrt(_MAX_PROBES)


def _kept_tokens(outputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return where no padding is, shape `(batch, tokens)`."""
    if mask is None:
        return torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
    return mask != 0


def _log_softmax_of_tokens(outputs: Tensor, kept: Tensor) -> Tensor:
    """Return the log softmax over the tokens where `kept` is true, shape `(batch, tokens)`.

    Elsewhere it is far below any logarithm, and finite.
    """
    hidden = outputs.masked_fill(~kept[..., None], torch.finfo(outputs.dtype).min)
    return functional.log_softmax(hidden, dim=1)


class ScoreLosses(Losses):
    """Losses on one number; `outputs` has shape `(batch, 1)`, targets `(batch,)`."""

    def distance(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,  # noqa: ARG002 - one row is one example
        temperature: float,  # noqa: ARG002 - a number has none
    ) -> SummedLoss:
        """Return the mean squared difference of the logits, whatever becomes of them.

        A sigmoid would hide how far apart two passages are that are both far from the limit.

        Ref: Hofstätter et al. 2020, arXiv:2010.02666, pointwise MSE in section 4.1.
        """
        each = (in_float32(student) - in_float32(teacher)).square()
        return SummedLoss(each.sum(), torch.tensor(each.numel()))

    def margins(self, student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
        """Return the mean squared error of differences of two logits of one group (margin-MSE).

        It is over all pairs of a group, 0 where no two rows share one. What is the same in all
        scores of a query, which changes no order, costs nothing.

        Ref: Hofstätter et al. 2020, arXiv:2010.02666, eq. 8 (there a relevant and another one).
        """
        missing = (in_float32(student) - in_float32(teacher))[:, 0]  # (batch,)
        same = torch.triu(groups[:, None] == groups[None, :], diagonal=1)  # (batch, batch)
        squares = (missing[:, None] - missing[None, :]).square()
        return torch.where(same, squares, 0.0).sum() / same.sum().clamp(min=1)


class ProbabilityLosses(ScoreLosses):
    """Losses on a number that is the logit of a probability."""

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return the binary cross-entropy to labels in 0..1."""
        total = functional.binary_cross_entropy_with_logits(
            in_float32(outputs)[:, 0], targets, reduction="sum"
        )
        return SummedLoss(total, torch.tensor(len(outputs)))

    def own_targets(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """Return 1 for a probability of half and more, else 0."""
        return (in_float32(outputs)[:, 0] >= 0).float()

    def fisher_probes(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002 - one number needs no sign
    ) -> Iterator[Tensor]:
        """Yield it for yes or no, drawn from the logit softened at temperature 2."""
        p = torch.sigmoid(outputs.detach() / _TEMPERATURE)
        yield ((p * (1 - p)).sqrt() * outputs).sum()


class NumberLosses(ScoreLosses):
    """Losses on a number that is meant as it is."""

    own_targets_have_gradient: ClassVar[bool] = False

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return the squared error."""
        total = (in_float32(outputs)[:, 0] - targets).square().sum()
        return SummedLoss(total, torch.tensor(len(outputs)))

    def own_targets(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """Return the numbers."""
        return in_float32(outputs)[:, 0]

    def fisher_probes(
        self,
        outputs: Tensor,
        mask: Tensor | None,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002 - one number needs no sign
    ) -> Iterator[Tensor]:
        """Yield it for a normal distribution around the number, of variance 1."""
        yield outputs.sum()


def in_float32(values: Tensor) -> Tensor:
    """Return half precision as float32, in which sums over a batch keep their digits."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return -1 and 1, as likely, in the shape of `like` and on its device."""
    return torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1
