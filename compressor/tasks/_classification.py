"""What every classification task shares: scores, computed with scikit-learn, and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from compressor.measurements import AGREEMENT, Score
from compressor.tasks._base import DRAWS, Guess, Task, Truth

METRICS = ("accuracy", "f1_macro", "matthews_correlation", AGREEMENT)


class Prediction(TypedDict):
    """One answer: the label, its class id, and its softmax probability."""

    label: str
    label_id: int
    score: float


class Classification(Task):
    """One label out; the answer is the class with the largest logit."""

    output: ClassVar[str] = "logits"
    metrics: ClassVar[tuple[str, ...]] = METRICS
    names_labels: ClassVar[bool] = True
    splits_pairs: ClassVar[bool] = False

    def score(self, metric: str, outputs: NDArray[np.float32], truth: Truth) -> Score:
        """Score by the arg-max of the logits, shape `(num_examples, num_labels)`."""
        right = self.right_answers(metric, truth)
        if right is None:
            right = outputs.argmax(axis=-1).astype(np.int64)
        return score_classification(metric, outputs, right)

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that labels are missing or all the same, where they are."""
        if metric == AGREEMENT:
            return None
        if truth.labels is None:
            return "has no labels, so nothing but agreement can be scored on it"
        if len(np.unique(truth.labels)) == 1:
            return (
                f"every label is class {truth.labels[0]}, so a model that "
                f"always answers so is never wrong; give it rows of other classes too"
            )
        return None

    def constant(self, score: Score, labels: Sequence[str]) -> str | None:
        """Say the one class that every example got, where it was one."""
        answer = int(score.outcomes[0])
        return f"answers '{labels[answer]}'" if np.ptp(score.outcomes) == 0 else None

    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        """Return the best constant answer and, where guessing can beat it, the best of 19 guesses.

        The constant answer is the most frequent right one. No guess is expected to do better in
        accuracy or agreement; in macro F1 and Matthews' correlation one that comes as often as the
        labels, or as the baseline's own answers, does. One in twenty such models does better than
        the best of 19.
        """
        is_agreement = baseline.metric == AGREEMENT or truth.labels is None
        right = baseline.outcomes if is_agreement else np.asarray(truth.labels)
        most = int(np.bincount(right).argmax())
        always = np.full(len(right), most, dtype=np.int64)
        found = {f"a model that answers '{labels[most]}' to everything": [always]}
        if baseline.metric not in ("accuracy", AGREEMENT):
            random = np.random.RandomState(0)
            draws = [random.permutation(len(right)) for _ in range(DRAWS)]
            own = [baseline.outcomes[order] for order in draws]
            found["a model that gives the checkpoint's answers, but to other examples"] = own
            drawn = [right[order] for order in draws]
            found["a model that guesses each label as often as it comes"] = drawn
        return tuple(
            Guess(who, max((_score(baseline.metric, item, right) for item in items), key=_value))
            for who, items in found.items()
        )

    def right_answers(self, metric: str, truth: Truth) -> NDArray[np.int64] | None:
        """Return the labels or, for `agreement`, the untouched checkpoint's answers."""
        if metric != AGREEMENT:
            return truth.labels
        return None if truth.reference is None else truth.reference.outcomes

    def answers(self, outputs: NDArray[np.float32], labels: Sequence[str]) -> list[Prediction]:
        """Return one prediction for each row of logits."""
        winners = outputs.argmax(axis=-1)
        return [
            Prediction(label=labels[int(k)], label_id=int(k), score=float(row[k]))
            for k, row in zip(winners, softmax(outputs), strict=True)
        ]


def score_classification(
    metric: str, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> Score:
    """Score the arg-max of `logits`, shape `(num_examples, num_labels)`.

    For `agreement`, `labels` are the answers of the untouched checkpoint.

    >>> logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=np.float32)
    >>> score_classification("accuracy", logits, np.array([0, 1, 1])).value
    0.6666666666666666
    """
    predicted = logits.argmax(axis=-1).astype(np.int64)  # (num_examples,)
    return _score(metric, predicted, labels, softmax(logits))


def _value(score: Score) -> float:
    return score.value


def _score(
    metric: str,
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32] | None = None,
) -> Score:
    # Here and not at the top: `compress validate` asks tasks for their metrics' names, and loading
    # scikit-learn takes longer than the rest of it.
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric in ("accuracy", AGREEMENT):
        value = float(np.mean(predicted == labels))
    elif metric == "f1_macro":
        value = float(f1_score(labels, predicted, average="macro", zero_division=0.0))
    elif metric == "matthews_correlation":
        value = float(matthews_corrcoef(labels, predicted))
    else:
        raise KeyError(metric)
    return Score(metric, value, len(labels), predicted, probabilities)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of logits of shape `(num_examples, num_labels)`, in that shape.

    A single logit is no choice between labels, so its probability is 1.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]], dtype=np.float32)).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))  # the largest becomes exp(0)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float32)
