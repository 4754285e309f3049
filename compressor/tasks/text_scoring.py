"""Text scoring: one number out, for a pair of texts or a single one.

Rerankers say how well a passage answers a query, and regressions say a grade, such as how similar
two texts are. No such number is right or wrong by itself. What counts is the order of the
candidates of a query, or how near the numbers are to those of the data, and without either how far
they are from the untouched checkpoint's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch, StepFailed
from compressor.measurements import Score
from compressor.runtime.probabilities import sigmoid
from compressor.tasks.base import (
    DRAWS,
    Ability,
    Batch,
    Comparison,
    Guess,
    OutputForm,
    Predict,
    Truth,
)
from compressor.tasks.columns import Columns, ScoredColumns
from compressor.tasks.cross_encoder import STEPS
from compressor.tasks.examples import length_of
from compressor.tasks.head import (
    ACTIVATIONS,
    Activation,
    ConfigFile,
    HasShape,
    HeadProblem,
    gives_one_number,
    has_label_set,
    read_activation,
    require_number,
)
from compressor.tasks.metrics import MRR, NDCG, SPEARMAN, Metric, UsualDrop
from compressor.tasks.outputs import LabelArray, Outputs, Positions, RowOutputs, one_each
from compressor.tasks.pooling import (
    MODULES,
    read_about,
    read_config,
    read_steps,
)
from compressor.tasks.ranking import (
    Floats,
    Groups,
    best_rows,
    concordance,
    differ_within,
    ndcg,
    pearson,
    pearson_lost,
    pearson_sums,
    r2,
    r2_lost,
    r2_sums,
    ranks_within,
    reciprocal_rank,
)
from compressor.tasks.report_words import TOKENS_CODE, ReportWords
from compressor.tasks.similarity import rank_correlation
from compressor.tasks.text import TextTask
from compressor.tasks.transformer_step import (
    longest_read,
    require_case,
    require_plain_reading,
)
from compressor.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.tasks.losses import ScoreLosses

_K = 10  # places of a list that a reader of search results looks at
# What scores usually lose was measured on a MiniLM reranker, 150 queries of 10 candidates, and is
# rounded up: by int8, and by a pruning of 0.2 with recovery followed by int8.
CONCORDANCE = Metric(
    "concordance",
    "concordance",
    "the share of pairs of candidates of a query that are in the untouched checkpoint's order, "
    "(tau + 1) / 2 of Kendall's tau, averaged over queries",
    "mean",
    label_free=True,
    unit="query",
    units="queries",
    usual_drop=UsualDrop(0.002, 0.015, 0.05),
    most_drop=0.15,
    most_pruned_drop=0.15,
)
PEARSON = Metric(
    "pearson",
    "Pearson correlation",
    "the correlation of scores and labels, from -1 to 1",
    "sums",
    percent=False,
    unit="query",
    units="queries",
    statistic=pearson,
    lost=pearson_lost,
    usual_drop=UsualDrop(0.0005, 0.002, 0.01),
)
R2 = Metric(
    "r2",
    "R²",
    "1 less the mean squared error of the scores over the variance of the labels: 1 without "
    "errors, 0 for a model that always gives the mean label",
    "sums",
    percent=False,
    unit="query",
    units="queries",
    statistic=r2,
    lost=r2_lost,
    usual_drop=UsualDrop(0.0005, 0.005, 0.03),
)
SCORE_AGREEMENT = Metric(
    "score_agreement",
    "score agreement",
    "1 less the mean squared distance of the scores from the untouched checkpoint's, over the "
    "variance of those: 1 for equal scores, 0 for a model that always gives their mean",
    "sums",
    label_free=True,
    percent=False,
    unit="query",
    units="queries",
    statistic=r2,
    lost=r2_lost,
    usual_drop=UsualDrop(0.0005, 0.002, 0.02),
    most_drop=0.15,
    most_pruned_drop=0.15,
)
_OF_ORDER = (NDCG.name, MRR.name, CONCORDANCE.name)  # of the candidates of queries
_OF_LABELS = (SPEARMAN.name, PEARSON.name, R2.name)
_SCORES = "scores"  # after the activation, shape (num_rows,)
_NOWHERE = -1  # the unit of a row that a metric leaves out
# A score that moved by more than this share of the standard deviation of all is another one.
_MOVED = 0.25
_MOST_CANDIDATES = 100  # of a query whose candidates the finished artifact reads to be shown
_CODE = f"""\
{TOKENS_CODE}\
[logits] = session.run(["logits"], inputs)
print(logits[:, 0])  # the higher the better; config.json's activation_fn makes the scores of them
# Pairs, such as queries and passages, are tokenizer(queries, passages, padding=True, ...).
"""


class ScoreLogits(RowOutputs):
    """One logit for each example, shape `(num_examples, 1)`."""


@dataclass(frozen=True)
class TextScoring(TextTask):
    """A pair of texts is one example, whose two parts the model reads together.

    `activation` makes the score of a logit; None where no checkpoint was asked yet.
    """

    activation: Activation | None = None

    name: ClassVar[str] = "text-scoring"
    keeps_tokens: ClassVar[bool] = True
    head: ClassVar[str] = "ForSequenceClassification"
    output: ClassVar[str] = "logits"
    output_words: ClassVar[str] = "scores"
    metrics: ClassVar[tuple[Metric, ...]] = (
        NDCG,
        MRR,
        CONCORDANCE,
        SPEARMAN,
        PEARSON,
        R2,
        SCORE_AGREEMENT,
    )
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {"labels", "own_width", "margins", "blends"}
    )
    reads_groups: ClassVar[bool] = True
    # Not of its sigmoid, which is flat where a score is sure.
    explains: ClassVar[str] = "logit of the score"
    explains_by_gradients: ClassVar[bool] = True
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        hub_task="text-ranking",
        predictions_title="Best passages, or scores",
        predictions_shown="the best passages of a few search queries, or without queries a few "
        "search rows from the lowest to the highest score of the original",
        score="score",
        flips_title="Best passages, or scores, that changed",
        another="another best passage or score",
        changes_are_rows=False,
        flips_order="Of a query the best passage counts, where there are no queries a score that "
        "moved by more than a quarter of the standard deviation of all. Those come first that "
        "moved most.",
        prediction_is_text=True,
        flips_sure="and its score",
        flips_moved=True,
    )

    @classmethod
    def metric_of_any_rows(
        cls,
        *,
        labelled: bool,  # noqa: ARG003 - labels are read anyway
        searches: bool = False,  # noqa: ARG003 - candidates are ranked
    ) -> str:
        """Return the metric that needs neither labels nor queries."""
        return SCORE_AGREEMENT.name

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether the head gives one number, and no label that holds or not."""
        return gives_one_number(config) and not has_label_set(config)

    @classmethod
    def check_head(
        cls,
        config: ConfigFile,
        tensors: Mapping[str, HasShape],
        about: ConfigFile | None,
    ) -> None:
        """Raise `HeadProblem` unless the head gives one number, and it is clear which."""
        require_number(config, tensors, about=about)

    def as_saved(self, directory: Path) -> Self:
        """Return the task with the activation of the checkpoint in `directory`."""
        _require_one_step(directory)
        require_plain_reading(directory, "scores")
        return dataclasses.replace(self, activation=_activation(directory))

    def fit_config(self, config: Any, directory: Path) -> None:
        """Let config.json say which activation is meant, as sentence-transformers reads it.

        That of the checkpoint itself, or this task's for an encoder that gets a new head.
        """
        activation = _activation(directory) if gives_one_number(read_config(directory)) else None
        if (found := activation or self.activation) is not None:
            config.sentence_transformers = {"activation_fn": ACTIVATIONS[found][0]}

    def tokens_read(self, directory: Path) -> int | None:
        """Return how many tokens sentence-transformers reads at most, where it says so."""
        return longest_read(directory)

    def fit_preprocessor(self, name: str, directory: Path, preprocessor: Any) -> None:
        """Raise where a tokenizer cannot read what sentence-transformers would."""
        require_case(name, directory, preprocessor)

    def auto_class(self, directory: Path) -> Any:  # noqa: ARG002 - config.json says it all
        """Return transformers' own."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return texts or pairs of texts, numbers, and the queries that rows belong to."""
        return ScoredColumns()

    def misfit(
        self,
        shape: tuple[int, ...],
        num_rows: int,
        num_labels: int,  # noqa: ARG002 - it is one
    ) -> str | None:
        """Return what is needed unless there is one logit for each row."""
        return None if shape == (num_rows, 1) else "one number for each"

    def collect(
        self,
        arrays: Sequence[NDArray[np.float32]],
        batches: Sequence[Batch],  # noqa: ARG002 - one row is one example
    ) -> ScoreLogits:
        """Return the logits, shape `(num_examples, 1)`."""
        return ScoreLogits(np.concatenate(arrays))

    def targets(
        self,
        batch: Batch,  # noqa: ARG002 - one row is one example
        labels: LabelArray,
    ) -> NDArray[np.float32]:
        """Return the labels, shape `(batch,)`.

        Raises `StepFailed` where they lie outside of what a sigmoid can give.
        """
        if (why := self.untrainable(labels)) is not None:
            raise StepFailed(why)
        return one_each(labels).astype(np.float32)

    def untrainable(self, labels: LabelArray) -> str | None:
        """Return why scores cannot be compared with these labels; None where they can."""
        numbers = one_each(labels)
        if self.activation != "sigmoid" or (numbers.min() >= 0 and numbers.max() <= 1):
            return None
        return (
            f"labels go from {numbers.min():g} to {numbers.max():g}, and the checkpoint's scores "
            f"(sigmoid) from 0 to 1; bring the labels into 0..1, such as by dividing them by the "
            f"largest one, or take what reads their order alone: ndcg@10 or spearman, and distill "
            f"with label_weight: 0"
        )

    def labels_of_changed(self, labels: LabelArray, partners: LabelArray) -> None:
        """Return None: nobody knows the score of a text that lost words."""

    @property
    def losses(self) -> ScoreLosses:
        """Return binary cross-entropy for a sigmoid, else squared errors."""
        from compressor.tasks.losses import NumberLosses, ProbabilityLosses  # they need torch

        return ProbabilityLosses() if self._known() == "sigmoid" else NumberLosses()

    def teacher_order(self, student: OutputForm, teacher: OutputForm) -> list[int]:
        """Return the one place there is; raises `StepFailed` where logits mean other scores."""
        own, other = (_activation_in(each.config) for each in (student, teacher))
        if own != other or len(teacher.labels) != 1:
            raise StepFailed(
                f"the student's score is the {own} of its logit, the teacher's the {other} of "
                f"{counted(len(teacher.labels), 'logit')}; they must be the same, so take another "
                f"teacher"
            )
        return [0]

    def explained(self, original: Outputs, outputs: Outputs) -> NDArray[np.float64]:  # noqa: ARG002
        """Return the logits."""
        return outputs.numbers[:, 0].astype(np.float64)

    def explained_tensor(
        self,
        original: Outputs,  # noqa: ARG002 - a number has nothing to choose
        whole: Outputs,  # noqa: ARG002
        array: Tensor,
    ) -> Tensor:
        """Return the logits."""
        return array[:, 0]

    def in_words(self, outputs: Outputs, labels: Sequence[str]) -> str:
        """Return the score."""
        [found] = self.predictions(outputs, labels)
        return f"{float(found):.4g}"

    def changed(self, before: Outputs, after: Outputs) -> None:
        """Return None: no number by itself is a prediction that stays or changes."""

    def hits(self, metric: str, outputs: Outputs, truth: Truth, positions: Positions) -> None:
        """Return None: no number is the right one."""

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score the numbers that `predictions` gives.

        Of queries whose candidates all have one label, or were all scored alike by the untouched
        checkpoint, no order is better than another; `ndcg@10`, `mrr@10` and `concordance` are means
        over the others.
        """
        scores = self.predictions(outputs, ()).astype(np.float64)
        return _score(metric, scores, truth, truth.reference)

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that labels are missing, or that there is nothing to order, or only one number."""
        if metric in _OF_ORDER:
            return _without_order(metric, truth)
        labels = truth.labels
        if metric in _OF_LABELS and labels is None:
            return (
                f"has no labels, which {metric} compares scores with; name their column in "
                f"data.label, or set budget.metric: {SCORE_AGREEMENT.name}"
            )
        if metric in _OF_LABELS and labels is not None and np.ptp(labels) == 0:
            return f"every label is {labels[0]:g}, so no score can rise with them; give it others"
        if len(np.unique(_groups(truth))) < 3:
            return "holds fewer than 3 queries or single rows; give it more"
        if metric == SPEARMAN.name and _mostly_shared(_groups(truth)):
            return (
                "most rows share their query (data.group, else the first text) with others, and "
                "spearman takes rows as independent, which would prove too much; set "
                "budget.metric: pearson, or ndcg@10 for the order within queries"
            )
        if metric == R2.name and labels is not None and (why := self.untrainable(labels)):
            return why
        return None

    def constant(
        self,
        score: Score,
        labels: Sequence[str],  # noqa: ARG002 - a number has no name
    ) -> str | None:
        """Say that every row got the same score, or every candidate of each query, where it did."""
        scores = score.kept[_SCORES]
        if np.ptp(scores) == 0:
            return "gives the same score"
        units = score.units
        if score.metric not in _OF_ORDER or units is None:
            return None
        told = differ_within(scores[units >= 0], units[units >= 0])
        return None if told.any() else "gives the candidates of each query the same score"

    def guesses(
        self,
        baseline: Score,
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - a number has no name
    ) -> tuple[Guess, ...]:
        """Return what scores reach that come without reading.

        These are one score for everything, which for `r2` is the mean label; the checkpoint's own
        scores for other rows, the best of 19 draws; and the length of the texts, both ways, which
        ruined weights often follow.
        """
        own = baseline.kept[_SCORES]
        random = np.random.RandomState(0)
        lengths = np.array([length_of(example) for example in truth.examples], dtype=np.float64)
        mean = (
            own.mean()
            if baseline.metric != R2.name or truth.labels is None
            else one_each(truth.labels).mean()
        )
        found = {
            "a model that gives everything the same score": [np.full(len(own), mean)],
            "a model that gives the checkpoint's scores, but to other rows": [
                own[random.permutation(len(own))] for _ in range(DRAWS)
            ],
        }
        if baseline.metric not in (R2.name, SCORE_AGREEMENT.name):
            found["a model that scores the length of texts alone"] = [lengths, -lengths]
        return tuple(
            Guess(
                who,
                max(
                    (_score(baseline.metric, item, truth, baseline) for item in scores),
                    key=lambda score: score.value,
                ),
            )
            for who, scores in found.items()
        )

    def flips(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - a number has no name
    ) -> list[Comparison]:
        """Return the queries with another best passage or, where metrics take rows, moved scores.

        A query stands at the row of the passage that was best; what was lost is how much better the
        first model finds it than the new one.
        """
        old, new = before.kept[_SCORES], after.kept[_SCORES]
        if before.metric not in _OF_ORDER:
            moved = np.abs(new - old)
            rows = np.flatnonzero(moved > _MOVED * np.std(old)).tolist()
            return [
                Comparison(
                    row,
                    _shown(old[row]),
                    _shown(new[row]),
                    float(old[row]),
                    float(new[row]),
                    _label(truth, row),
                    lost=float(moved[row]),
                )
                for row in rows
            ]
        groups = _groups(truth)
        firsts = best_rows(old, groups)
        # Of several that are best each has to have been so: one score for all is no best passage.
        others = np.flatnonzero((ranks_within(new, groups) == 0) & (ranks_within(old, groups) > 0))
        changed, places = np.unique(groups[others], return_index=True)
        return [
            Comparison(
                int(first),
                int(first),
                int(second),
                float(old[first]),
                float(new[second]),
                lost=float(old[first] - old[second]),
            )
            for first, second in zip(firsts[changed], others[places], strict=True)
        ]

    def samples(
        self,
        before: Score,
        after: Score,  # noqa: ARG002 - what it predicts is asked of `predict`
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - a number has no name
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        """Return the best passages of the queries with the clearest ones, or rows of all scores."""
        old = before.kept[_SCORES]
        if before.metric not in _OF_ORDER:
            order = np.argsort(old, kind="stable")
            places = np.unique(np.linspace(0, len(order) - 1, count).round().astype(np.int64))
            rows = order[places].tolist()
            found = predict([truth.examples[row] for row in rows])
            return [
                Comparison(
                    row,
                    _shown(old[row]),
                    _shown(own),
                    float(old[row]),
                    float(own),
                    _label(truth, row),
                )
                for row, own in zip(rows, found, strict=True)
            ]
        groups = _groups(truth)
        sizes = np.bincount(groups)
        firsts = best_rows(old, groups)
        fits = np.flatnonzero((sizes > 1) & (sizes <= _MOST_CANDIDATES))
        chosen = fits[np.argsort(-old[firsts[fits]], kind="stable")][:count]
        comparisons = []
        for group in chosen.tolist():
            rows = np.flatnonzero(groups == group).tolist()
            found = predict([truth.examples[row] for row in rows])
            first, best = int(firsts[group]), int(np.argmax(found))
            comparisons.append(
                Comparison(first, first, rows[best], float(old[first]), float(found[best]))
            )
        return comparisons

    def predictions(
        self,
        outputs: Outputs,
        labels: Sequence[str],  # noqa: ARG002 - a number has no name
    ) -> NDArray[np.float32]:
        """Return the scores, float32 of shape `(num_examples,)`, as CrossEncoder gives them."""
        assert isinstance(outputs, ScoreLogits), "the task collects nothing else"
        logits = outputs.values[:, 0]
        return logits if self._known() == "identity" else sigmoid(logits)

    def _known(self) -> Activation:
        if self.activation is None:
            raise ValueError("what a logit means was not read: ask `as_saved` of its checkpoint")
        return self.activation


def _score(metric: str, scores: Floats, truth: Truth, reference: Score | None) -> Score:
    groups, labels = _groups(truth), _numbers(truth)
    own = scores if reference is None else reference.kept[_SCORES]
    kept = {_SCORES: scores}
    outcomes = ranks_within(scores, groups)
    if metric in _OF_ORDER:
        values, told = _of_queries(metric, scores, own, labels, groups)
        numbers = np.where(told, np.cumsum(told) - 1, _NOWHERE)
        shares, units = values[told], numbers[groups]
        value = float(np.mean(shares)) if len(shares) else 0.0
        return Score(metric, value, len(shares), outcomes, shares=shares, units=units, kept=kept)
    if metric == SPEARMAN.name:
        assert labels is not None, "the caller asked whether it can be scored"
        ranks = _scaled_ranks(scores)
        value = rank_correlation(ranks, labels)
        return Score(metric, value, len(ranks), outcomes, shares=ranks, kept=kept)
    if metric == SCORE_AGREEMENT.name:
        sums, statistic = r2_sums(scores, own, groups), r2
    elif labels is None:
        raise ValueError(f"{metric} compares scores with labels, and there are none")
    elif metric == PEARSON.name:
        sums, statistic = pearson_sums(scores, labels, groups), pearson
    elif metric == R2.name:
        sums, statistic = r2_sums(scores, labels, groups), r2
    else:
        raise KeyError(metric)
    value = float(statistic(sums.sum(axis=0)))
    return Score(metric, value, len(sums), outcomes, sums=sums, units=groups, kept=kept)


def _numbers(truth: Truth) -> Floats | None:
    return None if truth.labels is None else one_each(truth.labels)


def _of_queries(
    metric: str, scores: Floats, own: Floats, labels: Floats | None, groups: Groups
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the metric of each query, and which of them can be ordered better and worse."""
    if metric == CONCORDANCE.name:
        return concordance(own, scores, groups), differ_within(own, groups)
    assert labels is not None, "the caller asked whether it can be scored"
    if metric == MRR.name:
        relevant = labels > 0
        return reciprocal_rank(scores, relevant, groups, k=_K), differ_within(relevant, groups)
    return ndcg(scores, labels, groups, k=_K), differ_within(labels, groups)


_IS_ONE_LABEL = (
    "; if a label of 0 or 1 says whether something holds, write problem_type: "
    "multi_label_classification into the checkpoint's config.json"
)


def _without_order(metric: str, truth: Truth) -> str | None:
    groups, labels = truth.groups, _numbers(truth)
    if groups is None or len(np.unique(groups)) == len(groups):
        holds = labels is not None and bool(np.isin(labels, (0, 1)).all())
        return (
            f"has no query with several candidates, which {metric} looks at the order of; name the "
            f"column of the query's id in data.group, or for scores of single rows set "
            f"budget.metric to spearman, pearson, r2 or {SCORE_AGREEMENT.name}"
        ) + _IS_ONE_LABEL * holds
    if metric == CONCORDANCE.name:
        told = np.bincount(groups) > 1
    elif labels is None:
        return (
            f"has no labels, which {metric} takes for the relevance of candidates; name their "
            f"column in data.label, or set budget.metric: {CONCORDANCE.name}"
        )
    elif metric == NDCG.name and labels.min() < 0:
        return f"holds the label {labels.min():g}, and ndcg@10 needs labels of 0 or more"
    else:
        told = differ_within(labels > 0 if metric == MRR.name else labels, groups)
    if told.sum() < 3:
        return (
            f"holds {counted(int(told.sum()), 'query', 'queries')} whose candidates differ in "
            f"relevance, and at least 3 are needed; give each query relevant candidates and others"
        )
    return None


def _groups(truth: Truth) -> Groups:
    return np.arange(len(truth.examples)) if truth.groups is None else truth.groups


def _mostly_shared(groups: Groups) -> bool:
    """Return whether most rows are not the only one of their group."""
    return bool(np.mean(np.bincount(groups)[groups] > 1) > 0.5)


def _scaled_ranks(scores: Floats) -> Floats:
    """Return ranks between -1 and 1, ties sharing their mean: all that a rank correlation reads."""
    from scipy import stats  # `compress validate` asks tasks for their metrics' names

    ranks = np.asarray(stats.rankdata(scores), dtype=np.float64)
    return (2 * ranks - len(ranks) - 1) / len(ranks)


def _label(truth: Truth, row: int) -> str | None:
    return None if truth.labels is None else f"{truth.labels[row]:g}"


def _shown(score: Any) -> str:
    return f"{float(score):.2f}"


def _activation(directory: Path) -> Activation:
    try:
        return read_activation(read_config(directory), read_about(directory))
    except HeadProblem as error:
        raise EnvironmentMismatch(f"{directory / 'config.json'}: {error}") from error


def _activation_in(config: Any) -> Activation:
    """Return the activation of a loaded model's configuration."""
    return read_activation(config.to_dict(), None)


def _require_one_step(directory: Path) -> None:
    """Raise `EnvironmentMismatch` for a CrossEncoder of several modules."""
    steps = read_steps(directory)
    if steps is not None and steps != STEPS:
        raise EnvironmentMismatch(
            f"{directory / MODULES}: the steps are {', '.join(steps)}, and here only a transformer "
            f"with its own head is computed; give a checkpoint whose head is part of the "
            f"transformers model"
        )
