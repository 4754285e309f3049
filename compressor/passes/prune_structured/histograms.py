"""Information that activations hold: their entropy, and what they tell of a label.

Both are estimated from histograms, in nats. What is compared are units of one model on the same
rows, so what an estimate is off by, because rows are few, is about the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from compressor.errors import StepFailed
from compressor.machine.team import Team
from compressor.passes.base import FEWEST_TO_COUNT, too_few_to_count
from compressor.tasks.outputs import UNLABELLED
from compressor.words import counted

Information = Literal["entropy", "mutual_information"]
_MOST_BINS = 64
_MOST_TOKENS = 1024  # that have a label of their own each; every one holds all units of a model
_UNITS_AT_ONCE = 1024


class Observations:
    """What units did on calibration rows, and the labels of those, batch by batch.

    `kind` says what is wanted of them. One observation is a row, and a unit's value there is its
    mean over tokens without padding; where each token has a label it is a token, of which up to
    1,024 are drawn by `seed`. `num_rows` is how many rows will come.
    """

    def __init__(self, kind: Information, num_rows: int, seed: int) -> None:
        self.kind = kind
        self._num_rows = num_rows
        self._generator = torch.Generator().manual_seed(seed)
        self._values: dict[int, list[Tensor]] = {}
        self._labels: list[Tensor] = []

    def add(self, values: Mapping[int, Tensor], mask: Tensor, labels: Tensor | None) -> None:
        """Take in a batch.

        `values` by number of a part have shape `(batch, tokens, units)` each, `mask` shape
        `(batch, tokens)` is True where no padding is. `values` of one token are of a whole row.
        `labels` have shape `(batch,)` or `(batch, tokens)`, -100 where there is none.
        """
        kept = torch.ones(len(mask), dtype=torch.bool)
        if self.kind == "mutual_information":
            if labels is None:
                raise StepFailed(
                    "importance mutual_information compares activations with labels, and the "
                    "calibration split has none; name the label column in data.label, or use "
                    "importance entropy"
                )
            if labels.dim() == 2:
                self._add_tokens(values, labels)
                return
            kept = labels.cpu() != UNLABELLED
            self._labels.append(labels.cpu()[kept])
        for number, found in values.items():
            # In float64, so that the mean of equal numbers is that number.
            by_token = _once_a_token(found, mask.shape[1]).double()
            counts = mask.to(by_token)[..., None]  # (batch, tokens, 1)
            means = by_token[:, 0]
            if by_token.shape[1] > 1:
                means = (by_token * counts).sum(dim=1) / counts.sum(dim=1)
            self._values.setdefault(number, []).append(means.float().cpu()[kept])

    def pass_over(self, labels: Tensor | None) -> None:
        """Draw what `add` would draw for a batch that another process takes in."""
        if self.kind == "mutual_information" and labels is not None and labels.dim() == 2:
            self._drawn(labels)

    def share(self, team: Team, numbers: Iterable[int]) -> None:
        """Take in what the other processes of a `team` did, of the parts of these `numbers`."""
        self._values = {number: _of_all(team, self._values.get(number, [])) for number in numbers}
        self._values = {number: parts for number, parts in self._values.items() if parts}
        self._labels = _of_all(team, self._labels)

    def _drawn(self, labels: Tensor) -> Tensor:
        """Return places of labelled tokens, shape `(tokens, 2)`."""
        places = (labels.cpu() != UNLABELLED).nonzero()
        most = math.ceil(_MOST_TOKENS * len(labels) / self._num_rows)
        return places[torch.randperm(len(places), generator=self._generator)[:most]]

    def _add_tokens(self, values: Mapping[int, Tensor], labels: Tensor) -> None:
        places = self._drawn(labels)
        rows, tokens = places[:, 0], places[:, 1]
        self._labels.append(labels.cpu()[rows, tokens])
        for number, given in values.items():
            found = _once_a_token(given, labels.shape[1])
            # What is computed once for a row belongs to each of its tokens.
            at = tokens if found.shape[1] > 1 else torch.zeros_like(tokens)
            picked = found[rows.to(found.device), at.to(found.device)]
            self._values.setdefault(number, []).append(picked.float().cpu())

    @property
    def words(self) -> str:
        """Return what was counted, for the report."""
        size = self._size
        return (
            f"{'entropy' if self.kind == 'entropy' else 'mutual information'} estimated from "
            f"histograms of {num_bins(size)} bins over {counted(size, 'observation')}"
        )

    def scores(self) -> dict[int, Tensor]:
        """Return nats by number of a part, each of shape `(units,)`, float64 on the CPU.

        Raises `StepFailed` where there are too few observations, or labels of one class alone.
        """
        if self._size < FEWEST_TO_COUNT:
            raise StepFailed(f"importance: {too_few_to_count(self.kind, self._size)}")
        values = {number: torch.cat(parts) for number, parts in self._values.items()}
        if self.kind == "entropy":
            return {number: entropies(found) for number, found in values.items()}
        labels = torch.cat(self._labels)
        if len(torch.unique(labels)) < 2:
            raise StepFailed(
                f"importance mutual_information compares activations with labels, and all "
                f"{counted(len(labels), 'label')} read of the calibration split are of one class; "
                f"give it rows of others, or use importance entropy"
            )
        return {number: mutual_information(found, labels) for number, found in values.items()}

    @property
    def _size(self) -> int:
        parts: Sequence[Tensor] = next(iter(self._values.values()), [])
        return sum(map(len, parts))


def _of_all(team: Team, own: Sequence[Tensor]) -> list[Tensor]:
    """Return what all processes have of something, the parts of which are joined by rows."""
    if team.is_alone:
        return list(own)
    joined = torch.cat(list(own)) if own else torch.zeros(0)
    return [found for found in team.gathered(joined) if len(found)]


def _once_a_token(values: Tensor, num_tokens: int) -> Tensor:
    """Return the mean over runs of a layer that is run several times, one run behind the other."""
    if values.shape[1] in (1, num_tokens):
        return values
    batch_size, _, units = values.shape
    return values.reshape(batch_size, -1, num_tokens, units).mean(dim=1)


def num_bins(num_observations: int) -> int:
    """Return how many bins a histogram has: the root of what it counts, 2 to 64.

    >>> num_bins(256)
    16
    """
    return min(_MOST_BINS, max(2, round(math.sqrt(num_observations))))


def entropies(values: Tensor) -> Tensor:
    """Return the entropy of each unit's histogram, shape `(units,)`, float64.

    `values` has shape `(observations, units)`. The bins are equally wide, from a unit's smallest
    value to its largest, so a unit that always does the same has 0.

    Ref: Luo & Wu 2017, arXiv:1706.05791, eq. 2 (means of a filter over an image).
    """
    bins = num_bins(len(values))
    found = []
    for part in torch.split(values.double(), _UNITS_AT_ONCE, dim=1):
        low, high = part.min(dim=0).values, part.max(dim=0).values
        width = torch.where(high > low, high - low, 1.0) / bins
        places = ((part - low) / width).floor().long().clamp(max=bins - 1)
        found.append(_entropy(_counted(places, bins)))
    return torch.cat(found)


def mutual_information(values: Tensor, labels: Tensor) -> Tensor:
    """Return what each unit tells of the label, shape `(units,)`, float64.

    `values` has shape `(observations, units)`, `labels` shape `(observations,)`. The bins hold as
    many observations each, as far as values differ: where they were equally wide, few large values
    would leave all others in one.

    Ref: Amjad et al. 2018, arXiv:1804.06679, section 3 (of quantized outputs and the class).
    """
    bins = num_bins(len(values))
    _, classes = torch.unique(labels, return_inverse=True)  # (observations,)
    num_classes = int(classes.max()) + 1
    of_class = _entropy(torch.bincount(classes, minlength=num_classes)[None].double())
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    found = []
    for part in torch.split(values.double(), _UNITS_AT_ONCE, dim=1):
        by_unit = part.T.contiguous()  # (units, observations)
        borders = torch.quantile(by_unit, edges, dim=1).T.contiguous()  # (units, bins - 1)
        places = torch.searchsorted(borders, by_unit).T  # (observations, units)
        of_unit = _entropy(_counted(places, bins))
        joint = _entropy(_counted(places * num_classes + classes[:, None], bins * num_classes))
        found.append((of_unit + of_class - joint).clamp(min=0))
    return torch.cat(found)


def _counted(places: Tensor, size: int) -> Tensor:
    """Return how often each place below `size` occurs in each column, shape `(units, size)`."""
    counts = torch.zeros(places.shape[1], size, dtype=torch.float64)
    return counts.scatter_add_(1, places.T, torch.ones_like(places.T, dtype=torch.float64))


def _entropy(counts: Tensor) -> Tensor:
    shares = counts / counts.sum(dim=1, keepdim=True)
    return -torch.xlogy(shares, shares).sum(dim=1)
