"""Multi-label classification: texts in, every label that holds out.

The labels hold independently of each other, so each has a logit of its own, whose sigmoid is its
probability; a label is predicted where that is at least its threshold, one half where nothing else
is said. What config.json calls it is `problem_type: multi_label_classification`, with one label as
with several.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.measurements import FlipKind, Score
from compressor.runtime.predictions import LabelScore, predicted_sets, scored_labels
from compressor.runtime.probabilities import sigmoid
from compressor.tasks.base import (
    DRAWS,
    Ability,
    Batch,
    Comparison,
    Findings,
    Guess,
    Predict,
    Truth,
)
from compressor.tasks.columns import Columns
from compressor.tasks.cross_encoder import CrossEncoderTask
from compressor.tasks.examples import is_long
from compressor.tasks.head import (
    ConfigFile,
    HasShape,
    has_label_set,
    require_label_set,
)
from compressor.tasks.hiding import log_sigmoid
from compressor.tasks.label_columns import LabelSetColumns
from compressor.tasks.metrics import AGREEMENT, Floats, Metric, ratio
from compressor.tasks.outputs import LabelArray, Outputs, Positions, RowOutputs, told_apart
from compressor.tasks.report_words import TOKENS_CODE, ReportWords
from compressor.tasks.thresholds import (
    CHOSEN,
    Thresholds,
    ThresholdWish,
    best_thresholds,
    thresholds_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.tasks.losses import LabelSetLosses

Sets = NDArray[np.bool_]  # which labels hold, shape (num_examples, num_labels)
_LOGITS = "logits"  # shape (num_examples, num_labels)
_NONE = "(none)"


def f1_micro(sums: Floats) -> Floats:
    """Return the F1 of all labels together, of sums of shape `(..., 3 * num_labels)`."""
    right, predicted, labelled = _by_label(sums)
    return _f1(right.sum(axis=-1), predicted.sum(axis=-1), labelled.sum(axis=-1))


def f1_per_label(sums: Floats) -> Floats:
    """Return the F1 of each label, averaged over labels; 0 for one that never comes."""
    return np.asarray(_f1(*_by_label(sums)).mean(axis=-1))


def lost_labels(units: Floats, total: Floats) -> Floats:  # noqa: ARG001 - an example loses its own
    """Return what examples add when no label that holds is predicted any more."""
    right, predicted, labelled = _by_label(units)
    return np.concatenate([np.zeros_like(right), predicted, labelled], axis=-1)


def _by_label(sums: Floats) -> tuple[Floats, Floats, Floats]:
    right, predicted, labelled = np.split(sums, 3, axis=-1)
    return right, predicted, labelled


def _f1(right: Floats, predicted: Floats, labelled: Floats) -> Floats:
    return ratio(2 * right, predicted + labelled)


F1_MICRO = Metric(
    "f1_micro",
    "micro F1",
    "the harmonic mean of precision and recall of all labels of all examples together",
    "sums",
    statistic=f1_micro,
    lost=lost_labels,
)
F1_PER_LABEL = Metric(
    "f1_per_label",
    "F1 per label",
    "the harmonic mean of precision and recall of each label, averaged over labels",
    "sums",
    statistic=f1_per_label,
    lost=lost_labels,
)
EXACT_MATCH = Metric(
    "exact_match",
    "exact match",
    "the share of examples for which every label is predicted that holds, and no other",
    "hits",
)
_CODE = f"""\
{TOKENS_CODE}\
[logits] = session.run(["logits"], inputs)
labels = {{labels}}
thresholds = {{thresholds}}
scores = 1 / (1 + np.exp(-logits))
print([[label for label, score, least in zip(labels, row, thresholds) if score >= least]
       for row in scores])
"""


class LabelLogits(RowOutputs):
    """One logit for each label, any number of which hold: shape `(num_examples, num_labels)`."""


@dataclass(frozen=True)
class MultiLabelClassification(CrossEncoderTask):
    """A text or a pair of texts is one example, of which any number of labels hold.

    `thresholds` are the probabilities from which on labels are predicted: as asked for or, once
    `for_labels` and `tuned` know labels and scores, of each label; None is one half for all.
    """

    # Not in the representation, by which trainings are told apart: no training reads them.
    thresholds: ThresholdWish | Thresholds | None = field(default=None, repr=False)

    name: ClassVar[str] = "multi-label-classification"
    keeps_tokens: ClassVar[bool] = True
    head: ClassVar[str] = "ForSequenceClassification"
    output: ClassVar[str] = "logits"
    output_words: ClassVar[str] = "logits"
    metrics: ClassVar[tuple[Metric, ...]] = (F1_MICRO, F1_PER_LABEL, EXACT_MATCH, AGREEMENT)
    abilities: ClassVar[frozenset[Ability]] = frozenset({"labels", "logits", "own_width", "blends"})
    finds: ClassVar[str | None] = "label"
    explains: ClassVar[str] = "log-probability of the set of labels that the original predicts"
    explains_by_gradients: ClassVar[bool] = True
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        hub_task="text-classification",
        predictions_shown="search rows, one of each set of labels that the original predicts",
        score="probability of the least sure label",
        another="another set of labels",
        flips_order="Those come first whose labels moved most.",
    )

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether config.json says that each label holds or not, be it one alone."""
        return has_label_set(config)

    @classmethod
    def check_head(
        cls,
        config: ConfigFile,
        tensors: Mapping[str, HasShape],
        about: ConfigFile | None,  # noqa: ARG003 - config.json says it all
    ) -> None:
        """Raise `HeadProblem` unless each label has a logit of its own."""
        require_label_set(config, tensors)

    def auto_class(self, directory: Path) -> Any:  # noqa: ARG002 - config.json says it all
        """Return transformers' own."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def for_labels(self, labels: Sequence[str]) -> Self:
        """Return the task with a threshold for each label, where they need not be chosen.

        Raises `RecipeError` for thresholds of labels that are not there.
        """
        wish = self.thresholds
        if wish is None or wish == CHOSEN or isinstance(wish, tuple):
            return self
        assert not isinstance(wish, str), "there is one word"
        try:
            return dataclasses.replace(self, thresholds=thresholds_of(wish, labels))
        except ValueError as error:
            raise RecipeError([f"model.thresholds: {error}"]) from error

    def tuned(self, baseline: Score, truth: Truth) -> Self:
        """Return the task with the thresholds that `baseline` finds each label best with."""
        if self.thresholds != CHOSEN:
            return self
        assert truth.labels is not None, "the caller asked whether it can be scored"
        found = best_thresholds(baseline.kept[_LOGITS], _sets(truth.labels))
        return dataclasses.replace(self, thresholds=found)

    def facts(self) -> dict[str, Any]:
        """Return the thresholds too, where they are not one half."""
        found = super().facts()
        if self.thresholds is None:
            del found["thresholds"]
        return found

    def untunable(self, truth: Truth) -> str | None:
        """Return that there are no labels to choose thresholds by, where they are to be chosen."""
        if self.thresholds != CHOSEN or truth.labels is not None:
            return None
        return (
            "they are chosen by the labels of the search split, and it has none; name their column "
            "in data.label, or give numbers"
        )

    def explained(self, original: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """Return the log-probability of the set of labels that the untouched checkpoint predicts.

        Labels hold independently of each other, so it is the sum over all of them.
        """
        signs = np.where(self._predicted(_logits(original)), 1.0, -1.0)  # (1, num_labels)
        return np.asarray(log_sigmoid(signs * _logits(outputs)).sum(axis=1))

    def explained_tensor(
        self,
        original: Outputs,
        whole: Outputs,  # noqa: ARG002 - the original's labels are explained
        array: Tensor,
    ) -> Tensor:
        """Return the same in PyTorch."""
        from torch.nn.functional import logsigmoid

        signs = np.where(self._predicted(_logits(original)), 1.0, -1.0)
        return logsigmoid(array * array.new_tensor(signs)).sum(dim=1)

    def in_words(self, outputs: Outputs, labels: Sequence[str]) -> str:
        """Return the labels that are predicted."""
        [found] = self._predicted(_logits(outputs))
        return ", ".join(np.array(labels)[found].tolist()) or _NONE

    def label_thresholds(self, labels: Sequence[str]) -> dict[str, float]:
        """Return the threshold of each label, where they are not one half."""
        if not isinstance(self.thresholds, tuple):
            return {}
        return dict(zip(labels, self.thresholds, strict=True))

    def _predicted(self, logits: NDArray[np.float32]) -> Sets:
        """Return which labels are predicted of logits; until they are chosen from one half on."""
        return predicted_sets(logits, self._known_thresholds())

    def _known_thresholds(self) -> Thresholds | None:
        return self.thresholds if isinstance(self.thresholds, tuple) else None

    def misfit(self, shape: tuple[int, ...], num_rows: int, num_labels: int) -> str | None:
        """Return what is needed unless there is a logit for each label of each row."""
        return None if shape == (num_rows, num_labels) else "one row of logits for each"

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return texts or pairs of texts, and sets of labels."""
        return LabelSetColumns()

    def collect(
        self,
        arrays: Sequence[NDArray[np.float32]],
        batches: Sequence[Batch],  # noqa: ARG002 - one row is one example
    ) -> LabelLogits:
        """Return the logits, shape `(num_examples, num_labels)`."""
        return LabelLogits(np.concatenate(arrays))

    def targets(
        self,
        batch: Batch,  # noqa: ARG002 - one row is one example
        labels: LabelArray,
    ) -> NDArray[np.float32]:
        """Return 1 for each label that holds, else 0, shape `(batch, num_labels)`."""
        return np.stack(list(labels)).astype(np.float32)

    def labels_of_changed(
        self,
        labels: LabelArray,
        partners: LabelArray,
    ) -> None:
        """Return None: which label a text lost with its words, nobody can tell."""

    @property
    def losses(self) -> LabelSetLosses:
        """Return binary cross-entropy, and the KL divergence of each label from a teacher."""
        from compressor.tasks.losses import LabelSetLosses  # torch, which an artifact has not

        return LabelSetLosses()

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score the labels whose probability is at least their threshold."""
        logits = _logits(outputs)
        right = self._right(metric, truth)
        return _score(metric, self._predicted(logits), right, logits)

    def _right(self, metric: str, truth: Truth) -> Sets | None:
        """Return the labels that hold or, for `agreement`, what the untouched checkpoint says."""
        if metric != AGREEMENT.name:
            assert truth.labels is not None, "the caller asked whether it can be scored"
            return _sets(truth.labels)
        return None if truth.reference is None else self._predicted(truth.reference.kept[_LOGITS])

    def changed(self, before: Outputs, after: Outputs) -> NDArray[np.bool_]:
        """Return for which examples another set of labels is predicted."""
        first, second = (self._predicted(_logits(item)) for item in (before, after))
        return np.asarray((first != second).any(axis=1))

    def hits(
        self, metric: str, outputs: Outputs, truth: Truth, positions: Positions
    ) -> NDArray[np.bool_] | None:
        """Return which sets of labels are exactly right."""
        right = self._right(metric, truth)
        if right is None:
            return None
        return np.asarray((self._predicted(_logits(outputs)) == right[positions]).all(axis=1))

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that labels are missing or all the same, where they are."""
        if metric == AGREEMENT.name:
            return None
        if truth.labels is None:
            return "has no labels, so nothing but agreement can be scored on it"
        sets = _sets(truth.labels)
        if np.all(sets == sets[0]):
            return (
                "every row has the same labels, so a model that always predicts them is never "
                "wrong; give it other rows too"
            )
        return None

    def constant(self, score: Score, labels: Sequence[str]) -> str | None:
        """Say the one set of labels that every example got, where it was one."""
        sets = self._predicted(score.kept[_LOGITS])
        if not np.all(sets == sets[0]):
            return None
        if not sets[0].any():
            return (
                f"predicts '{set_words(sets[0], labels)}', as no probability reaches its threshold "
                f"(lower ones are set in model.thresholds),"
            )
        return f"predicts '{set_words(sets[0], labels)}'"

    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        """Return the best constant sets of labels, and the best of 19 guesses.

        Which labels to give always is a question of how often each holds: of the most frequent
        ones, every number of them is tried, and the most frequent set as a whole. One in twenty
        models that give the checkpoint's predictions for other examples does better than the best
        of 19.
        """
        own = self._predicted(baseline.kept[_LOGITS])
        right = own if baseline.metric == AGREEMENT.name else self._right(baseline.metric, truth)
        assert right is not None
        order = np.argsort(-right.sum(axis=0), kind="stable")
        most = np.zeros((len(labels) + 1, len(labels)), dtype=bool)
        for count in range(len(labels) + 1):
            most[count, order[:count]] = True
        unique, counts = np.unique(right, axis=0, return_counts=True)
        always = [*most, unique[counts.argmax()]]
        random = np.random.RandomState(0)
        drawn = [own[random.permutation(len(own))] for _ in range(DRAWS)]
        return (
            _best(
                "a model that predicts the same labels for everything",
                baseline.metric,
                [np.broadcast_to(item, right.shape) for item in always],
                right,
            ),
            _best(
                "a model that gives the checkpoint's predictions, but for other examples",
                baseline.metric,
                drawn,
                right,
            ),
        )

    def kinds(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the labels."""
        return tuple(labels)

    def held(self, truth: Truth, labels: Sequence[str]) -> dict[str, int]:
        """Return for how many rows each label holds."""
        assert truth.labels is not None, "the caller asked whether there are labels"
        return dict(zip(labels, _sets(truth.labels).sum(axis=0).tolist(), strict=True))

    def findings(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> dict[str, Findings]:
        """Return for each label which examples it holds for, and by which model it was found."""
        own, other = (self._predicted(score.kept[_LOGITS]) for score in (before, after))
        there = own
        if labelled:
            assert truth.labels is not None, "the caller asked whether there are labels"
            there = _sets(truth.labels)
        found = [there, there & own, there & other]
        return {
            name: Findings(*(item[:, place].astype(np.int64) for item in found))
            for place, name in enumerate(labels)
        }

    def flips(
        self, before: Score, after: Score, truth: Truth, labels: Sequence[str]
    ) -> list[Comparison]:
        """Return the examples whose set of labels turned wrong or right; else all that changed.

        What was lost is how much less probable the labels are, of all that changed, that are right.
        """
        own, other = (self._predicted(score.kept[_LOGITS]) for score in (before, after))
        sure = [self._least_sure(score) for score in (before, after)]
        right = own if truth.labels is None else _sets(truth.labels)
        chances = [_chance_of(score.kept[_LOGITS], right) for score in (before, after)]
        was, now = ((sets == right).all(axis=1) for sets in (own, other))
        changed = (own != other).any(axis=1) & (was | now)

        def kind(row: int) -> FlipKind:
            if truth.labels is None:
                return "changed"
            return "lost" if was[row] else "won"

        return [
            Comparison(
                row,
                set_words(own[row], labels),
                set_words(other[row], labels),
                float(sure[0][row]),
                float(sure[1][row]),
                None if truth.labels is None else set_words(right[row], labels),
                kind(row),
                float(chances[0][row] - chances[1][row]),
            )
            for row in np.flatnonzero(changed).tolist()
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
        """Return one example of each set of labels that the first model predicts."""
        own = self._predicted(before.kept[_LOGITS])
        sure = self._least_sure(before)
        first: dict[int, int] = {}
        for row in sorted(range(len(own)), key=lambda row: is_long(truth.examples[row])):
            first.setdefault(int(before.outcomes[row]), row)
        rows = list(first.values())[:count]
        found: list[list[LabelScore]] = predict([truth.examples[row] for row in rows])
        return [
            Comparison(
                row,
                set_words(own[row], labels),
                ", ".join(item["label"] for item in scores if item["predicted"]) or _NONE,
                float(sure[row]),
                min(item["score"] if item["predicted"] else 1 - item["score"] for item in scores),
                None
                if truth.labels is None
                else set_words(np.asarray(truth.labels[row], dtype=bool), labels),
            )
            for row, scores in zip(rows, found, strict=True)
        ]

    def _least_sure(self, score: Score) -> NDArray[np.float32]:
        """Return the probability of the least sure decision about a label, of each example."""
        logits = score.kept[_LOGITS]
        decided = np.where(self._predicted(logits), logits, -logits)
        return np.asarray(sigmoid(decided).min(axis=1))

    def predictions(self, outputs: Outputs, labels: Sequence[str]) -> list[list[LabelScore]]:
        """Return the score of every label for each row, in the order of the labels."""
        return scored_labels(_logits(outputs), labels, self._known_thresholds())


def set_words(labels: Sets, names: Sequence[str]) -> str:
    """Return the names of the labels that hold, of shape `(num_labels,)`.

    >>> set_words(np.array([True, False, True]), ["a", "b", "c"])
    'a, c'
    """
    return ", ".join(name for name, holds in zip(names, labels, strict=True) if holds) or _NONE


def _sets(labels: LabelArray) -> Sets:
    """Return the labels of a split, one array for each example, as one."""
    found = np.empty((len(labels), len(labels[0])), dtype=bool)
    for row, own in enumerate(labels):
        found[row] = own
    return found


def _logits(outputs: Outputs) -> NDArray[np.float32]:
    assert isinstance(outputs, LabelLogits), "the task collects nothing else"
    return outputs.values


def _outcomes(sets: Sets) -> NDArray[np.int64]:
    """Return a number for each example that is the same where its set of labels is."""
    return told_apart(row.tobytes() for row in np.packbits(sets, axis=1))


def _score(
    metric: str, predicted: Sets, right: Sets | None, logits: NDArray[np.float32] | None = None
) -> Score:
    truth = predicted if right is None else right
    size = len(predicted)
    outcomes = _outcomes(predicted)
    kept = {} if logits is None else {_LOGITS: logits}
    exact = (predicted == truth).all(axis=1)
    if metric == AGREEMENT.name:
        return Score(metric, float(exact.mean()), size, outcomes, kept=kept)
    if metric == EXACT_MATCH.name:
        shares = exact.astype(np.float64)
        return Score(metric, float(exact.mean()), size, outcomes, shares=shares, kept=kept)
    sums = np.concatenate([predicted & truth, predicted, truth], axis=1).astype(np.float64)
    [found] = [item for item in (F1_MICRO, F1_PER_LABEL) if item.name == metric]
    assert found.statistic is not None
    value = float(found.statistic(sums.sum(axis=0)))
    return Score(metric, value, size, outcomes, sums=sums, kept=kept)


def _best(who: str, metric: str, candidates: Sequence[Sets], right: Sets) -> Guess:
    scores = [_score(metric, item, right) for item in candidates]
    return Guess(who, max(scores, key=lambda score: score.value))


def _chance_of(logits: NDArray[np.float32], sets: Sets) -> NDArray[np.float64]:
    """Return the probability of exactly these labels, shape `(num_examples,)`."""
    chances = sigmoid(np.where(sets, logits, -logits)).astype(np.float64)
    return np.asarray(np.prod(chances, axis=1))
