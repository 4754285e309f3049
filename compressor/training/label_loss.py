"""The loss on labels: the task's own, or one with smoothed labels and weighted classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.tasks.losses import Losses, SummedLoss, in_float32
from compressor.tasks.outputs import UNLABELLED
from compressor.training.batches import TrainingBatch
from compressor.training.mixing import Mix, mixed_loss
from compressor.training.settings import TrainingSettings

_CHUNK = 256  # rows that are encoded together to count the labels of their tokens
_ALMOST_NOTHING = 1e-37  # as good as the smallest float32; weights of classes may be tiny


@dataclass(frozen=True)
class LabelLoss:
    """The mean loss of outputs against labels.

    `weights`, shape `(num_classes,)`, are those of classes, where the settings ask for any: the
    mean is then a weighted one, as `torch.nn.CrossEntropyLoss` takes it.

    Ref: label smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    losses: Losses
    smoothing: float
    weights: Tensor | None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the labels that are there, a scalar; 0 where there are none."""
        return self.summed(outputs, targets).mean

    def summed(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        """Return what that is the mean of."""
        if self._is_plain:
            return self.losses.on_labels(outputs, targets)
        total = functional.cross_entropy(
            in_float32(outputs).flatten(0, -2),
            targets.flatten(),
            weight=None if self.weights is None else self.weights.to(outputs.device),
            ignore_index=UNLABELLED,
            reduction="sum",
            label_smoothing=self.smoothing,
        )
        return SummedLoss(total, self.count(targets), least=_ALMOST_NOTHING)

    def of_batch(self, outputs: Tensor, batch: TrainingBatch) -> Tensor:
        """Return what a batch, whose labels are there, adds to the mean over a step."""
        assert batch.targets is not None, "the split is checked"
        return batch.mean(self.summed(outputs, batch.targets)) * batch.label_share

    def of_mixed(
        self, outputs: Tensor, targets: Tensor, batch: TrainingBatch, mix: Mix, own: slice
    ) -> Tensor:
        """Return the mean on both labels of mixed examples, of which `outputs` are the `own` rows.

        `targets` are those of all rows.
        """

        def mean(outputs: Tensor, targets: Tensor) -> Tensor:
            return batch.mean(self.summed(outputs, targets))

        return mixed_loss(mean, outputs, targets, mix, own)

    def count(self, targets: Tensor) -> Tensor:
        """Return how many labels there are, or the sum of their weights."""
        if self.weights is None:
            return self.losses.count(targets)
        weights = self.weights.to(targets.device)
        return weights[targets[targets != UNLABELLED]].sum()

    def words(self, names: Sequence[str]) -> str:
        """Return the weights of classes called `names`, for the report; empty without any."""
        if self.weights is None:
            return ""
        each = zip(names, self.weights.tolist(), strict=True)
        return f"classes weigh {', '.join(f'{name} {weight:.3g}' for name, weight in each)}"

    @property
    def _is_plain(self) -> bool:
        return self.smoothing == 0 and self.weights is None


def label_loss(model: TorchModel, dataset: Dataset, settings: TrainingSettings) -> LabelLoss:
    """Return the loss on the labels of `dataset` that `settings` ask for.

    Raises `StepFailed` for weights of classes that the model does not have.
    """
    weights = _class_weights(model, dataset, settings)
    tensor = None if weights is None else torch.from_numpy(weights)
    return LabelLoss(model.task.losses, settings.label_smoothing, tensor)


def require_classes(model: TorchModel, settings: TrainingSettings) -> None:
    """Raise `StepFailed` for weights of classes that the model does not have."""
    if (why := settings.unknown_labels(model.labels)) is not None:
        raise StepFailed(f"class_weights: {why}")


def _class_weights(
    model: TorchModel, dataset: Dataset, settings: TrainingSettings
) -> NDArray[np.float32] | None:
    """Return the weight of each class, in the order of the logits; None where none are asked for.

    Balanced is the number of labels over that of the class and that of the classes, as
    scikit-learn has it; a class without a label has 1.

    Raises `StepFailed` for weights of classes that the model does not have.
    """
    wanted, names = settings.class_weights, model.labels
    if wanted is None:
        return None
    weights = np.ones(len(names), dtype=np.float32)
    if wanted == "balanced":
        counts = sum(
            (np.bincount(found, minlength=len(names)) for found in _label_ids(model, dataset)),
            start=np.zeros(len(names), dtype=np.int64),
        )
        there = counts > 0
        weights[there] = counts.sum() / (counts[there] * there.sum())
        return weights
    require_classes(model, settings)
    for name, weight in wanted.items():
        weights[names.index(name)] = weight
    return weights


def _label_ids(model: TorchModel, dataset: Dataset) -> Iterator[NDArray[np.int64]]:
    """Yield the class ids of the labels that are there, of tokens where each has one."""
    assert dataset.labels is not None, "the split is checked"
    task, labels = model.task, dataset.labels
    if not task.per_token:
        found = np.asarray(labels, dtype=np.int64)
        yield found[found != UNLABELLED]
        return
    for start in range(0, len(dataset), _CHUNK):
        rows = slice(start, start + _CHUNK)
        batch = task.encode(model.preprocessor, dataset.examples[rows])
        found = task.targets(batch, labels[rows])
        yield found[found != UNLABELLED]
