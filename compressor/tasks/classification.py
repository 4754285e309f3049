"""What every classification task shares: scores, computed with scikit-learn, and predictions."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.measurements import FlipKind, Score
from compressor.runtime.predictions import Prediction, chosen_labels
from compressor.runtime.probabilities import softmax
from compressor.tasks.base import (
    DRAWS,
    Ability,
    Batch,
    Comparison,
    Findings,
    Guess,
    Predict,
    Task,
    Truth,
)
from compressor.tasks.examples import Example, is_long
from compressor.tasks.head import ConfigFile, HasShape, gives_one_number, require_choice
from compressor.tasks.hiding import log_probabilities
from compressor.tasks.metrics import AGREEMENT, Metric
from compressor.tasks.outputs import ClassLogits, Outputs, Positions, one_each

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.tasks.losses import ClassLosses

_PROBABILITIES = "probabilities"  # of each class, shape (num_examples, num_labels)
ACCURACY = Metric(
    "accuracy",
    "accuracy",
    "the share of examples whose highest logit is the labelled class",
    "hits",
)
F1_MACRO = Metric(
    "f1_macro",
    "macro F1",
    "the harmonic mean of precision and recall of each class, averaged over classes",
    "classes",
)
MATTHEWS = Metric(
    "matthews_correlation",
    "matthews correlation",
    "the correlation of predicted and labelled classes, from -1 to 1",
    "classes",
    percent=False,
)


class Classification(Task):
    """One label out; the prediction is the class with the largest logit."""

    output: ClassVar[str] = "logits"
    output_words: ClassVar[str] = "logits"
    metrics: ClassVar[tuple[Metric, ...]] = (ACCURACY, F1_MACRO, MATTHEWS, AGREEMENT)
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {"labels", "logits", "own_width", "classes", "mixes", "blends"}
    )
    finds: ClassVar[str | None] = "class"
    scoring: ClassVar[str | None] = None  # the task for the same head with one output
    explains: ClassVar[str] = "log-probability of the class that the original predicts"
    explains_by_gradients: ClassVar[bool] = True

    @classmethod
    def check_head(
        cls,
        config: ConfigFile,
        tensors: Mapping[str, HasShape],
        about: ConfigFile | None,
    ) -> None:
        """Raise `HeadProblem` unless the head chooses one of several labels."""
        require_choice(config, tensors, about=about, scoring=cls.scoring)

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether the head gives more than one number, or no other task takes that one."""
        return cls.scoring is None or not gives_one_number(config)

    def misfit(self, shape: tuple[int, ...], num_rows: int, num_labels: int) -> str | None:
        """Return what is needed unless there is a logit for each label of each row."""
        return None if shape == (num_rows, num_labels) else "one row of logits for each"

    def collect(
        self,
        arrays: Sequence[NDArray[np.float32]],
        batches: Sequence[Batch],  # noqa: ARG002 - one row is one example
    ) -> ClassLogits:
        """Return the logits, shape `(num_examples, num_labels)`."""
        return ClassLogits(np.concatenate(arrays))

    @property
    def losses(self) -> ClassLosses:
        """Return cross-entropy and the KL divergence from a teacher."""
        from compressor.tasks.losses import ClassLosses  # torch, which an artifact has not

        return ClassLosses()

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score by the arg-max of the logits."""
        logits = class_logits(outputs)
        right = self._right(metric, truth)
        if right is None:
            right = predicted_classes(logits)
        return score_classification(metric, logits, right)

    def changed(self, before: Outputs, after: Outputs) -> NDArray[np.bool_]:
        """Return for which examples another logit is the largest."""
        first, second = (predicted_classes(class_logits(item)) for item in (before, after))
        return np.asarray(first != second)

    def hits(
        self, metric: str, outputs: Outputs, truth: Truth, positions: Positions
    ) -> NDArray[np.bool_] | None:
        """Return which classes are the label or, for `agreement`, the untouched checkpoint's."""
        right = self._right(metric, truth)
        if right is None:
            return None
        return np.asarray(predicted_classes(class_logits(outputs)) == right[positions])

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that labels are missing or all the same, where they are."""
        if metric == AGREEMENT.name:
            return None
        if truth.labels is None:
            return "has no labels, so nothing but agreement can be scored on it"
        if len(np.unique(truth.labels)) == 1:
            return (
                f"every label is class {truth.labels[0]}, so a model that "
                f"always predicts it is never wrong; give it rows of other classes too"
            )
        return None

    def constant(self, score: Score, labels: Sequence[str]) -> str | None:
        """Say the one class that every example got, where it was one."""
        prediction = int(score.outcomes[0])
        return f"predicts '{labels[prediction]}'" if np.ptp(score.outcomes) == 0 else None

    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        """Return the best constant prediction and, where guessing can win, the best of 19 guesses.

        The constant prediction is the most frequent right one. No guess is expected to do better in
        accuracy or agreement; in macro F1 and Matthews' correlation one that comes as often as the
        labels, or as the baseline's own predictions, does. One in twenty such models does better
        than the best of 19.
        """
        is_agreement = baseline.metric == AGREEMENT.name or truth.labels is None
        right = baseline.outcomes if is_agreement else np.asarray(truth.labels)
        most = int(np.bincount(right).argmax())
        always = np.full(len(right), most, dtype=np.int64)
        found = {f"a model that predicts '{labels[most]}' for everything": [always]}
        if baseline.metric not in (ACCURACY.name, AGREEMENT.name):
            random = np.random.RandomState(0)
            draws = [random.permutation(len(right)) for _ in range(DRAWS)]
            own = [baseline.outcomes[order] for order in draws]
            found["a model that gives the checkpoint's predictions, but for other examples"] = own
            drawn = [right[order] for order in draws]
            found["a model that guesses each label as often as it comes"] = drawn
        return tuple(
            Guess(who, max((_score(baseline.metric, item, right) for item in items), key=_value))
            for who, items in found.items()
        )

    def _right(self, metric: str, truth: Truth) -> NDArray[np.int64] | None:
        """Return the labels or, for `agreement`, the untouched checkpoint's predictions."""
        if metric != AGREEMENT.name:
            return None if truth.labels is None else one_each(truth.labels)
        return None if truth.reference is None else truth.reference.outcomes

    def kinds(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the classes."""
        return tuple(labels)

    def held(self, truth: Truth, labels: Sequence[str]) -> dict[str, int]:
        """Return how many rows are of each class."""
        assert truth.labels is not None, "the caller asked whether there are labels"
        counts = np.bincount(np.asarray(truth.labels), minlength=len(labels))
        return dict(zip(labels, counts.tolist(), strict=True))

    def findings(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> dict[str, Findings]:
        """Return for each class which examples are of it, and got it from both models."""
        right = before.outcomes
        if labelled:
            assert truth.labels is not None, "the caller asked whether there are labels"
            right = np.asarray(truth.labels)

        def found(there: NDArray[np.bool_], score: Score, kind: int) -> NDArray[np.int64]:
            return np.asarray(there & (score.outcomes == kind), dtype=np.int64)

        return {
            name: Findings(
                (right == kind).astype(np.int64),
                found(right == kind, before, kind),
                found(right == kind, after, kind),
            )
            for kind, name in enumerate(labels)
        }

    def flips(
        self, before: Score, after: Score, truth: Truth, labels: Sequence[str]
    ) -> list[Comparison]:
        """Return the examples that turned wrong or right; without labels all that changed."""
        changed = before.outcomes != after.outcomes
        right = before.outcomes if truth.labels is None else one_each(truth.labels)
        changed &= (before.outcomes == right) | (after.outcomes == right)
        rows = np.flatnonzero(changed)
        old = _confidences(before, before.outcomes, rows)
        new = _confidences(after, after.outcomes, rows)
        of_right = zip(
            _confidences(before, right, rows), _confidences(after, right, rows), strict=True
        )
        lost = [None if a is None or b is None else a - b for a, b in of_right]

        def kind(row: int) -> FlipKind:
            if truth.labels is None:
                return "changed"
            return "lost" if before.outcomes[row] == right[row] else "won"

        return [
            Comparison(
                row,
                labels[before.outcomes[row]],
                labels[after.outcomes[row]],
                old[place],
                new[place],
                None if truth.labels is None else labels[truth.labels[row]],
                kind(row),
                lost[place],
            )
            for place, row in enumerate(rows.tolist())
        ]

    def samples(
        self,
        before: Score,
        after: Score,  # noqa: ARG002 - what it predicts is asked of `predict`
        truth: Truth,
        labels: Sequence[str],
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        """Return one example of each class that the first model predicts, in turn."""
        rows = one_of_each(before.outcomes, truth.examples, count)
        old = _confidences(before, before.outcomes, np.array(rows, dtype=np.int64))
        found = predict([truth.examples[row] for row in rows])
        return [
            Comparison(
                row,
                labels[before.outcomes[row]],
                predicted["label"],
                sure,
                predicted["score"],
                None if truth.labels is None else labels[truth.labels[row]],
            )
            for row, sure, predicted in zip(rows, old, found, strict=True)
        ]

    def explained(self, original: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """Return the log-probability of the class that the untouched checkpoint predicts."""
        [chosen] = predicted_classes(class_logits(original))
        logits = class_logits(outputs)
        return log_probabilities(logits, np.full(len(logits), chosen))

    def explained_tensor(
        self,
        original: Outputs,
        whole: Outputs,  # noqa: ARG002 - the original's class is explained
        array: Tensor,
    ) -> Tensor:
        """Return the same in PyTorch."""
        [chosen] = predicted_classes(class_logits(original)).tolist()
        return array.log_softmax(dim=-1)[:, chosen]

    def in_words(self, outputs: Outputs, labels: Sequence[str]) -> str:
        """Return the label and how probable it is."""
        [found] = self.predictions(outputs, labels)
        return f"{found['label']} ({found['score']:.1%})"

    def predictions(self, outputs: Outputs, labels: Sequence[str]) -> list[Prediction]:
        """Return one prediction for each row of logits."""
        return chosen_labels(class_logits(outputs), labels)


def one_of_each(outcomes: NDArray[np.int64], examples: Sequence[Example], count: int) -> list[int]:
    """Return positions: the first short example of each outcome, then the second, up to `count`."""
    short: dict[int, list[int]] = defaultdict(list)
    long: dict[int, list[int]] = defaultdict(list)
    for row, example in enumerate(examples):
        queue = (long if is_long(example) else short)[int(outcomes[row])]
        if len(queue) < count:  # more of one outcome are never chosen
            queue.append(row)
    queues = {kind: (short[kind] + long[kind])[:count] for kind in (*short, *long)}
    in_turn = [(turn, kind, row) for kind in queues for turn, row in enumerate(queues[kind])]
    return [row for _, _, row in heapq.nsmallest(count, in_turn)]


def _confidences(
    score: Score, classes: NDArray[np.int64], rows: NDArray[np.int64]
) -> list[float | None]:
    """Return the probability that the class in `classes` got, of the examples at `rows`."""
    probabilities = score.kept.get(_PROBABILITIES)
    if probabilities is None:
        return [None] * len(rows)
    chosen: list[float | None] = probabilities[rows, classes[rows]].tolist()
    return chosen


def class_logits(outputs: Outputs) -> NDArray[np.float32]:
    """Return the logits of a classifier, shape `(num_examples, num_labels)`."""
    assert isinstance(outputs, ClassLogits), "a classification task collects nothing else"
    return outputs.values


def predicted_classes(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class with the largest logit of each row, shape `(num_examples,)`."""
    winners: NDArray[np.int64] = logits.argmax(axis=-1).astype(np.int64)
    return winners


def score_classification(
    metric: str, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> Score:
    """Score the arg-max of `logits`, shape `(num_examples, num_labels)`.

    For `agreement`, `labels` are the predictions of the untouched checkpoint.

    >>> logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=np.float32)
    >>> score_classification("accuracy", logits, np.array([0, 1, 1])).value
    0.6666666666666666
    """
    return _score(metric, predicted_classes(logits), labels, softmax(logits))


def _value(score: Score) -> float:
    return score.value


def _value_by_sklearn(
    metric: str, predicted: NDArray[np.int64], labels: NDArray[np.int64]
) -> float:
    # Here and not at the top: `compress validate` asks tasks for their metrics' names, and loading
    # scikit-learn takes longer than the rest of it.
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric == F1_MACRO.name:
        return float(f1_score(labels, predicted, average="macro", zero_division=0.0))
    return float(matthews_corrcoef(labels, predicted))


def _score(
    metric: str,
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32] | None = None,
) -> Score:
    if metric in (ACCURACY.name, AGREEMENT.name):
        value = float(np.mean(predicted == labels))
    elif metric in (F1_MACRO.name, MATTHEWS.name):
        value = _value_by_sklearn(metric, predicted, labels)
    else:
        raise KeyError(metric)
    kept = {} if probabilities is None else {_PROBABILITIES: probabilities}
    return Score(metric, value, len(labels), predicted, kept=kept)
