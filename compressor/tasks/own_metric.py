"""A metric of the user's own: a function that says of each example how well a model does on it.

It is one more metric of the task: its mean is what gates compare, and a proof is taken of it as of
every mean. What a model that knows nothing would get is found by asking the function about outputs
that belong to other examples, and about outputs that are alike for all.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import OwnCodeError
from compressor.measurements import Score
from compressor.own_code import OwnFunction, shown
from compressor.tasks.base import DRAWS, Guess, Task, Truth
from compressor.tasks.columns import Columns
from compressor.tasks.metrics import Metric, UsualDrop
from compressor.tasks.outputs import Outputs, Positions, RowOutputs
from compressor.words import counted

_GUESSED = "guessed"  # numbers of the models that know nothing, shape (num_guesses, num_units)
_ROUNDING = 1e-9  # above 1 by a sum of fractions
_MOST_ALIKE = 10  # outputs of single examples that are tried for all
_MOVED = "a model that gives the checkpoint's outputs, but for other examples"
_ALIKE = "a model that gives the same output for every example"


@dataclass(frozen=True)
class MetricInputs:
    """What a metric of your own is given: what one model says of the examples of a split.

    All sequences are in the same order; arrays cannot be changed, and the rest are copies.
    `predictions` are what `load_artifact` gives for `examples`; of token classification they are
    the names of the tags of each document's words. `labels` are class ids where there is one class
    for each example, the names of tags, 0 or 1 for each of several labels, numbers, or answers; of
    pairs of vectors there is one for each pair. `outputs` are what the model computes for each
    example, such as its logits, None of token classification. `label_names` name the class ids.
    `groups` are the numbers, from 0 on, of the query that each example is a candidate of, None
    without queries.
    """

    predictions: Sequence[Any]
    labels: Sequence[Any]
    examples: Sequence[Any]
    outputs: Sequence[NDArray[np.float32]] | None
    label_names: tuple[str, ...]
    groups: NDArray[np.int64] | None = None

    @property
    def num_units(self) -> int:
        """Return how many numbers the metric must give: for examples, queries or pairs."""
        return len(self.labels) if self.groups is None else int(self.groups.max()) + 1


def own_metric(name: str) -> Metric:
    """Return how scores are treated that a function of the user's own takes."""
    file, _, function = name.rpartition(":")
    return Metric(
        name,
        function.replace("_", " "),
        f"the mean of the numbers from 0 to 1 that the function {function} in {file}, code of the "
        f"user's own, gives for each example",
        "mean",
        unit="example",
        units="examples",
        usual_drop=UsualDrop(0.001, 0.005, 0.015),
    )


class _WithOwnMetric(Task):
    """A task with one more metric, over one of the tasks of the package."""

    usual: ClassVar[type[Task]]
    own: ClassVar[OwnFunction]
    label_names: ClassVar[tuple[str, ...]]

    def without_own_code(self) -> Task:
        """Return the task that this one is over."""
        return self.usual(**{item.name: getattr(self, item.name) for item in fields(self)})

    def columns(self, metric: str) -> Columns:
        """Return what the task reads where it is scored by labels."""
        if metric == self.own.reference:
            metric = next(item.name for item in self.usual.metrics if not item.label_free)
        return self.usual.columns(self, metric)

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that there are no labels, where the user's metric would read them."""
        if metric != self.own.reference:
            return self.usual.unscorable(self, metric, truth)
        if self.draws_inputs:
            return (
                f"has no labels that {metric} could be given, as a text says itself what was "
                f"hidden; take one of {', '.join(self.usual.metric_names())}"
            )
        if truth.labels is None and truth.grades is None:
            return f"has no labels, which {metric} is given; name their column in data.label"
        return None

    def hits(
        self, metric: str, outputs: Outputs, truth: Truth, positions: Positions
    ) -> NDArray[np.bool_] | None:
        """Return None of the user's metric, whose numbers are asked for all at once."""
        if metric == self.own.reference:
            return None
        return self.usual.hits(self, metric, outputs, truth, positions)

    def for_score(self, metric: str, outputs: Outputs) -> Outputs:
        """Return all outputs for the user's function."""
        if metric == self.own.reference:
            return outputs
        return self.usual.for_score(self, metric, outputs)

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score by the user's function; what else is kept is that of the task's own metrics."""
        if metric != self.own.reference:
            return self.usual.score(self, metric, outputs, truth)
        names = (item.name for item in self.usual.metrics)
        known = next(name for name in names if self.usual.unscorable(self, name, truth) is None)
        base = self.usual.score(self, known, outputs, truth)
        given = self._inputs(self.own_predictions(outputs, self.label_names), outputs, truth)
        numbers = self._numbers(given)
        kept = dict(base.kept)
        if truth.reference is None:
            self._require_same(given, numbers)
            guessed = self._guessed(given, outputs, base.outcomes, truth)
            kept[_GUESSED] = np.array([self._guess(item) for item in guessed])
        units = truth.groups
        if truth.grades is not None:
            units = np.arange(len(truth.examples)) // 2
        return Score(
            metric,
            float(np.mean(numbers)),
            len(numbers),
            base.outcomes,
            shares=numbers,
            units=units,
            kept=kept,
        )

    def constant(self, score: Score, labels: Sequence[str]) -> str | None:
        """Say what a model gave alike for every example, whatever the metric."""
        return self.usual.constant(self, score, labels)

    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        """Return what the user's function gave for models that know nothing."""
        if baseline.metric != self.own.reference:
            return self.usual.guesses(self, baseline, truth, labels)
        found = baseline.kept[_GUESSED]
        scores = [
            replace(baseline, value=float(np.mean(numbers)), shares=numbers, kept={})
            for numbers in found
        ]
        who = [_MOVED] * DRAWS + [_ALIKE] * (len(scores) - DRAWS)
        best: dict[str, Score] = {}
        for name, score in zip(who, scores, strict=True):
            if name not in best or score.value > best[name].value:
                best[name] = score
        return tuple(Guess(name, score) for name, score in best.items())

    def _inputs(
        self, predictions: Sequence[Any], outputs: Outputs | None, truth: Truth
    ) -> MetricInputs:
        labels = truth.labels if truth.grades is None else truth.grades
        assert labels is not None, "the caller asked whether it can be scored"
        return MetricInputs(
            tuple(predictions),
            tuple(self.own_labels(labels, self.label_names)),
            tuple(
                _fixed(item) if isinstance(item, np.ndarray) else item for item in truth.examples
            ),
            None
            if outputs is None or self.tags_words
            else tuple(map(_fixed, outputs.per_example())),
            self.label_names,
            None if truth.groups is None else _fixed(truth.groups),
        )

    def _guessed(
        self, given: MetricInputs, outputs: Outputs, outcomes: NDArray[np.int64], truth: Truth
    ) -> Iterator[MetricInputs]:
        """Yield what is asked of models that know nothing: first `DRAWS` of `_MOVED`, then others.

        Alike are the mean of all outputs, where they are numbers in rows, and those of one example
        each; of tags of words, each tag that the checkpoint gives.
        """
        random = np.random.RandomState(0)
        if self.tags_words:
            for predictions in _other_words(given.predictions, random):
                yield self._inputs(predictions, None, truth)
            return
        alike = _first_of_each(outcomes)
        moved = [outputs.select(random.permutation(len(outputs))) for _ in range(DRAWS)]
        same = [outputs.select(np.full(len(outputs), row)) for row in alike]
        if isinstance(outputs, RowOutputs):
            mean = outputs.values.mean(axis=0, keepdims=True)
            same.append(replace(outputs, values=np.repeat(mean, len(outputs), axis=0)))
        for item in (*moved, *same):
            yield self._inputs(self.own_predictions(item, self.label_names), item, truth)

    def _guess(self, given: MetricInputs) -> NDArray[np.float64]:
        try:
            return self._numbers(given)
        except OwnCodeError as error:
            head, newline, trace = error.mistakes[0].partition("\n")
            raise OwnCodeError(
                f"{head}; it was asked what a model that knows nothing would get, whose "
                f"predictions are those of other examples{newline}{trace}"
            ) from error

    def _numbers(self, given: MetricInputs) -> NDArray[np.float64]:
        """Return what the user's function gives, shape `(num_units,)`; raises `OwnCodeError`."""
        own = {name: copy.deepcopy(getattr(given, name)) for name in ("predictions", "labels")}
        found = self.own(replace(given, **own))
        count = given.num_units
        if isinstance(found, np.ndarray) or hasattr(found, "__array__"):
            found = np.asarray(found).tolist()
        if not isinstance(found, list | tuple):
            raise self.own.wrong(
                f"must return a list or an array of {counted(count, 'number')}, one for each "
                f"{_unit(given)}, and gave {shown(found)}; their mean is taken for you"
            )
        if len(found) != count:
            raise self.own.wrong(
                f"must return {counted(count, 'number')}, one for each {_unit(given)}, and gave "
                f"{len(found):,}"
            )
        for place, value in enumerate(found):
            is_number = isinstance(value, int | float | np.integer | np.floating | np.bool_)
            if not is_number or not 0 <= value <= 1 + _ROUNDING:
                raise self.own.wrong(
                    f"must return numbers from 0 to 1, the higher the better, and gave "
                    f"{shown(value)} for {_unit(given)} {place} (the first is 0)"
                )
        return np.minimum(np.array(found, dtype=np.float64), 1.0)

    def _require_same(self, given: MetricInputs, numbers: NDArray[np.float64]) -> None:
        """Raise `OwnCodeError` where the user's function gives other numbers when asked again."""
        again = self._numbers(given)
        if differing := np.flatnonzero(again != numbers).tolist():
            row = differing[0]
            raise self.own.wrong(
                f"gave {numbers[row]:g} for {_unit(given)} {row}, and {again[row]:g} when it was "
                f"asked again; make it depend on its inputs alone, and seed what it draws"
            )


def with_own_metric(task: Task, function: OwnFunction, labels: Sequence[str]) -> Task:
    """Return the task with a metric of the user's own besides its others; `labels` are its names.

    It is the task in all else, and has the same place in the keys of steps: what the metric reads
    changes no model.
    """
    usual = type(task)
    declared = {
        "usual": usual,
        "own": function,
        "label_names": tuple(labels),
        "metrics": (*usual.metrics, own_metric(function.reference)),
        "__doc__": usual.__doc__,
    }
    kind: Any = type(usual.__name__, (_WithOwnMetric, usual), declared)
    options = {item.name: getattr(task, item.name) for item in fields(task)}
    found: Task = kind(**options)
    return found


def _unit(given: MetricInputs) -> str:
    if given.groups is not None:
        return "query"
    return "example" if len(given.labels) == len(given.examples) else "pair"


def _fixed(array: NDArray[Any]) -> NDArray[Any]:
    """Return the same array, which cannot be changed by way of this one."""
    own = array.view()
    own.setflags(write=False)
    return own


def _first_of_each(outcomes: NDArray[np.int64]) -> list[int]:
    """Return the first example of each of the most frequent outcomes."""
    _, first, counts = np.unique(outcomes, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_ALIKE]
    rows: list[int] = first[order].tolist()
    return rows


def _other_words(
    predictions: Sequence[Sequence[Any]], random: np.random.RandomState
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the tags of documents, moved by as many words, and then each tag for every word."""
    words = [tag for document in predictions for tag in document]
    lengths = [len(document) for document in predictions]
    ends = np.cumsum(lengths).tolist()
    for move in random.randint(1, max(2, len(words)), size=DRAWS).tolist():
        moved = words[-move:] + words[:-move]
        yield [tuple(moved[end - size : end]) for end, size in zip(ends, lengths, strict=True)]
    for tag in [word for word, _ in Counter(words).most_common(_MOST_ALIKE)]:
        yield [(tag,) * size for size in lengths]
