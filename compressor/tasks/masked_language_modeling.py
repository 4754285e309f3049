"""Masked language modelling: a token for each hidden one, as encoders are pretrained.

No labels are needed, because a text says itself what was hidden. How good a compressed model is, is
how many hidden tokens it gets right and how likely it finds them; how near it is to the untouched
checkpoint, is how often both find the same token likeliest. Pseudo-perplexity is that of Salazar et
al. 2020, arXiv:1910.14659, with 15% of a text hidden at once instead of one token after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch, StepFailed
from compressor.measurements import FlipKind, Score
from compressor.runtime.filling import Filled, fill
from compressor.runtime.given import given_texts
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
from compressor.tasks.columns import Columns, UnlabelledTextColumns
from compressor.tasks.examples import Example, is_long, texts_of
from compressor.tasks.hidden_tokens import (
    Hidden,
    HiddenBatch,
    HiddenOutputs,
    MadeUp,
    ToFill,
    at_hidden,
    few_rows,
    hide,
    may_hide,
    nothing_to_hide,
    read_hidden,
)
from compressor.tasks.hiding import chunks
from compressor.tasks.metrics import (
    Floats,
    Metric,
    UsualDrop,
    first_over_second,
    none_of_it,
    ratio,
)
from compressor.tasks.outputs import LabelArray, Outputs, Positions, one_each, told_apart
from compressor.tasks.report_words import TOKENS_CODE, ReportWords
from compressor.tasks.table import BadRows
from compressor.tasks.text import TextTask
from compressor.words import counted

if TYPE_CHECKING:
    from compressor.tasks.losses import TokenLosses

_TRIED_AT_ONCE = 1024  # texts that are looked at for a token to hide
_LEAST = float(np.log(1e-6))  # a hidden token that is found less likely counts as one in a million


def _likelihood(sums: Floats) -> Floats:
    """Return the geometric mean of probabilities, of sums `(..., 2)`: logarithms, tokens."""
    found = np.exp(ratio(sums[..., 0], sums[..., 1]))
    return np.asarray(np.where(sums[..., 1] > 0, found, 0.0))


def _least_likely(units: Floats, total: Floats) -> Floats:  # noqa: ARG001 - a unit loses its own
    """Return what texts add once every hidden token is found as unlikely as counts."""
    return np.asarray(np.stack([units[..., 1] * _LEAST, units[..., 1]], axis=-1))


ACCURACY = Metric(
    "masked_accuracy",
    "masked accuracy",
    "the share of hidden tokens that the model finds likeliest, where 15% of each text are hidden",
    "sums",
    unit="text",
    units="texts",
    statistic=first_over_second,
    lost=none_of_it,
    usual_drop=UsualDrop(0.0005, 0.005, 0.03),
)
LIKELIHOOD = Metric(
    "pseudo_likelihood",
    "pseudo-likelihood",
    "1 over the pseudo-perplexity: the geometric mean of the probabilities that the model gives "
    "hidden tokens, where 15% of each text are hidden; one below a millionth counts as a millionth",
    "sums",
    unit="text",
    units="texts",
    statistic=_likelihood,
    lost=_least_likely,
    usual_drop=UsualDrop(0.0005, 0.005, 0.03),
)
AGREEMENT = Metric(
    "masked_agreement",
    "masked agreement",
    "the share of hidden tokens at whose place the model finds the same token likeliest as the "
    "untouched checkpoint; a text whose tokens are others now counts as all lost",
    "sums",
    unit="text",
    units="texts",
    statistic=first_over_second,
    lost=none_of_it,
    label_free=True,
    usual_drop=UsualDrop(0.002, 0.03, 0.15),
    most_drop=0.15,
    most_pruned_drop=0.15,
)

_CODE = f"""\
{TOKENS_CODE}\
# Write tokenizer.mask_token where a word is to be filled in.
[logits] = session.run(["logits"], inputs)  # (batch, tokens, vocabulary)
for ids, row in zip(batch["input_ids"], logits):
    best = row[ids == tokenizer.mask_token_id].argmax(axis=-1)
    print(tokenizer.convert_ids_to_tokens(best))
"""
# What is kept of a score, of the hidden places of all texts one after the other:
_TOP = "top"  # the likeliest token, by a number of its name
_TRUTH = "truth"  # the hidden token, likewise
_LOGS = "log_probabilities"  # of the hidden tokens
_LENGTHS = "lengths"  # how many each text has
_NUMBERS, _WORDS = "numbers", "words"  # of names, and what they read like: UTF-8, with NUL between
_MOST_SHOWN = 4  # tokens of a text in a report


class MaskedLanguageModeling(TextTask):
    """A base model: tokens of a text are hidden, and the model says which they were."""

    name: ClassVar[str] = "masked-language-modeling"
    head: ClassVar[str] = "ForMaskedLM"
    names_labels: ClassVar[bool] = False
    output: ClassVar[str] = "logits"
    output_words: ClassVar[str] = "logits"
    metrics: ClassVar[tuple[Metric, ...]] = (ACCURACY, LIKELIHOOD, AGREEMENT)
    abilities: ClassVar[frozenset[Ability]] = frozenset({"labels", "logits", "own_width"})
    per_token: ClassVar[bool] = True
    draws_inputs: ClassVar[bool] = True
    unexplained: ClassVar[str] = (
        "what is predicted are hidden tokens, and hiding more of them asks another question"
    )
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        hub_task="fill-mask",
        row="text",
        axes="batch, tokens",
        last_axis="vocabulary",
        gives="the likeliest tokens for each mask token",
        predictions_title="Hidden tokens",
        predictions_shown="search texts in which the original is right most often",
        score="",
        flips_title="Texts in which hidden tokens changed",
        another="other tokens",
        changed=("text", "got other tokens at hidden places", "got other tokens at hidden places"),
        flips_order="Those come first that lost most right tokens.",
        flips_worst="Those come first that lost most right tokens.",
        prediction_is_text=True,
        flips_header=" hidden tokens",
        flips_sure="",
    )

    @classmethod
    def metric_of_any_rows(
        cls,
        *,
        labelled: bool,  # noqa: ARG003 - texts are all it reads
        searches: bool = False,  # noqa: ARG003
    ) -> str:
        """Return the first metric: texts are all that any of them reads."""
        return ACCURACY.name

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return single texts."""
        return UnlabelledTextColumns()

    def auto_class(self, directory: Path) -> Any:  # noqa: ARG002 - config.json says it all
        """Return transformers' own."""
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    def fit_preprocessor(self, name: str, directory: Path, preprocessor: Any) -> None:
        """Raise `EnvironmentMismatch` where the tokenizer has no mask token."""
        if preprocessor.mask_token_id is None:
            raise EnvironmentMismatch(
                f"{name}: its tokenizer has no mask token, so nothing can be hidden; write "
                f"mask_token into {directory / 'tokenizer_config.json'}"
            )

    def misfit(
        self,
        shape: tuple[int, ...],
        num_rows: int,
        num_labels: int,  # noqa: ARG002 - it has none
    ) -> str | None:
        """Return what is needed unless there is a row of logits for each token."""
        fits = len(shape) == 3 and shape[0] == num_rows
        return None if fits else "a logit of every token of the vocabulary for each token"

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:  # noqa: ARG002
        """Return texts with mask tokens in them."""
        if isinstance(value, list) and value and all(isinstance(item, Hidden) for item in value):
            return value
        texts = given_texts(value, pairs=False)
        return [ToFill(str(text)) for text in texts]

    def dummy_example(self, length: int) -> Example:
        """Return a text of about `length` tokens, which need not be known to a vocabulary."""
        return MadeUp(str(super().dummy_example(length)))

    def repeated(self, example: Example, times: int) -> Example:
        """Return a text that is so many times as long."""
        return " ".join([str(texts_of(example)[0])] * times)

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> HiddenBatch:
        """Tokenize texts and hide 15% of their tokens, or none where mask tokens are there.

        Which ones follows from the text. Arrays are int64 of shape `(batch, sequence)`.
        """
        return hide(preprocessor, examples, self._encoded(preprocessor, examples))

    def require_readable(
        self, preprocessor: Any, examples: Sequence[Example], place: Callable[[int], str]
    ) -> None:
        """Raise `RecipeError` for texts without a token to hide, such as those of unknown words."""
        bad = BadRows()
        for part in chunks(len(examples), _TRIED_AT_ONCE):
            some = [examples[position] for position in part]
            ids = self._encoded(preprocessor, some)["input_ids"]
            for row in np.flatnonzero(~may_hide(preprocessor, ids).any(axis=1)).tolist():
                text = str(texts_of(some[row])[0])
                bad.add(f"{place(part.start + row)}: {nothing_to_hide(text)}")
        bad.check()

    def encode_to_train(
        self, preprocessor: Any, examples: Sequence[Example], drawn: tuple[int, ...]
    ) -> HiddenBatch:
        """Tokenize texts and hide other tokens in every epoch (Liu et al. 2019, arXiv:1907.11692).

        What becomes of them is said by `hide`.
        """
        encoded = self._encoded(preprocessor, examples)
        return hide(preprocessor, examples, encoded, drawn=drawn)

    def _encoded(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        texts = [str(texts_of(example)[0]) for example in examples]
        return super().encode(preprocessor, texts)

    def parts(self, batch: Batch) -> Sequence[Batch]:
        """Return so few rows at a time that the logits of a large vocabulary fit into memory."""
        own = _hidden(batch)
        return list(few_rows(own, len(own.tokenizer)))

    def collect(
        self, arrays: Sequence[NDArray[np.float32]], batches: Sequence[Batch]
    ) -> HiddenOutputs:
        """Return what stands at hidden places; raises `ValueError` without batches."""
        return HiddenOutputs.joined(
            [
                read_hidden(_hidden(batch), array)
                for batch, array in zip(batches, arrays, strict=True)
            ]
        )

    def without_padding(
        self, array: NDArray[np.float32], batch: Batch
    ) -> list[NDArray[np.float32]]:
        """Return the logits where mask tokens stand."""
        return at_hidden(_hidden(batch), array)

    def targets(
        self,
        batch: Batch,
        labels: LabelArray,  # noqa: ARG002 - a text says itself what was hidden
    ) -> NDArray[np.int64]:
        """Return the hidden tokens, shape `(batch, tokens)`, -100 elsewhere."""
        return _hidden(batch).targets

    def labels_of_changed(self, labels: LabelArray, partners: LabelArray) -> NDArray[Any]:  # noqa: ARG002
        """Return the labels as they are: whatever the text, it says itself what was hidden."""
        return one_each(labels)

    @property
    def losses(self) -> TokenLosses:
        """Return cross-entropy and the KL divergence from a teacher, token by token."""
        from compressor.tasks.losses import TokenLosses  # torch, which an artifact has not

        return TokenLosses()

    def teacher_order(self, student: OutputForm, teacher: OutputForm) -> list[int]:
        """Leave the tokens in their places; raises `StepFailed` for another vocabulary."""
        own, other = (int(each.config.vocab_size) for each in (student, teacher))
        if own != other:
            raise StepFailed(
                f"the student's vocabulary has {counted(own, 'token')}, the teacher's {other:,}; "
                f"they must be the same, so take a teacher with the student's tokenizer, and "
                f"distill before the vocabulary is trimmed"
            )
        return list(range(own))

    def changed(self, before: Outputs, after: Outputs) -> NDArray[np.bool_]:
        """Return for which texts another token is likeliest at a hidden place."""
        first, second = (_outcomes(_outputs(item)) for item in (before, after))
        return np.asarray(first != second)

    def hits(self, metric: str, outputs: Outputs, truth: Truth, positions: Positions) -> None:
        """Return None: a text has several hidden tokens."""

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score what is said at hidden places, text by text."""
        own = _outputs(outputs)
        words = own.words(np.union1d(own.top[:, 0], own.truth))
        kept: dict[str, NDArray[Any]] = {
            _TOP: own.names(own.top[:, 0]),
            _TRUTH: own.names(own.truth),
            _LOGS: own.log_probabilities,
            _LENGTHS: own.lengths,
            _NUMBERS: np.array(list(words), dtype=np.int64),
            _WORDS: np.frombuffer("\0".join(words.values()).encode(), dtype=np.uint8).copy(),
        }
        return _score(metric, kept, _outcomes(own), truth.reference)

    def unscorable(self, metric: str, truth: Truth) -> str | None:  # noqa: ARG002
        """Return None: every text has a token to hide."""
        return None

    def constant(self, score: Score, labels: Sequence[str]) -> str | None:  # noqa: ARG002
        """Say the one token that was likeliest at every hidden place, where it was one."""
        top = score.kept[_TOP]
        if not np.all(top == top[0]):
            return None
        return f"finds '{_words_in(score)[int(top[0])]}' likeliest at every hidden place,"

    def guesses(
        self,
        baseline: Score,
        truth: Truth,  # noqa: ARG002 - the score knows what was hidden
        labels: Sequence[str],  # noqa: ARG002
    ) -> tuple[Guess, ...]:
        """Return models that say the same at every place, and the best of 19 that guess.

        The first gives each token the probability with which it comes, so that no other constant
        is likelier; the others give the checkpoint's tokens, but for other places. One in twenty
        such models does better than the best of 19.
        """
        top, right, lengths = (baseline.kept[name] for name in (_TOP, _TRUTH, _LENGTHS))
        known = top if baseline.metric == AGREEMENT.name else right
        values, places, counts = np.unique(known, return_inverse=True, return_counts=True)
        often = values[counts.argmax()]
        shares = np.log(counts / len(known))[places]  # of each place's own token

        def guessed(tokens: NDArray[np.int64], logs: NDArray[np.float64]) -> Score:
            kept = {**baseline.kept, _TOP: tokens, _LOGS: logs}
            outcomes = told_apart(item.tobytes() for item in _split(tokens, lengths))
            return _score(baseline.metric, kept, outcomes, baseline)

        constant = guessed(np.full_like(top, often), shares)
        random = np.random.RandomState(0)
        found = [Guess("a model that gives each token as often as it comes", constant)]
        if baseline.metric != LIKELIHOOD.name:
            moves = random.randint(1, max(2, len(top)), size=DRAWS).tolist()
            moved = [guessed(np.roll(top, move), shares) for move in moves]
            best = max(moved, key=lambda score: score.value)
            found.append(Guess("a model that gives the checkpoint's tokens at other places", best))
        return tuple(found)

    def flips(
        self,
        before: Score,
        after: Score,
        truth: Truth,  # noqa: ARG002 - the scores know what was hidden
        labels: Sequence[str],  # noqa: ARG002
    ) -> list[Comparison]:
        """Return the texts in which more or fewer hidden tokens are right than before.

        One in which both models get as many right does not matter.
        """
        found = []
        words = {**_words_in(before), **_words_in(after)}
        parts = [
            _split(score.kept[name], score.kept[_LENGTHS])
            for name in (_TOP, _TRUTH)
            for score in (before, after)
        ]
        for row, (old, new, right, right_now) in enumerate(zip(*parts, strict=True)):
            lost = float(np.mean(old == right) - np.mean(new == right_now))
            if lost == 0:
                continue
            kind: FlipKind = "lost" if lost > 0 else "won"
            same = len(old) == len(new) and np.array_equal(right, right_now)
            shown = np.flatnonzero(old != new) if same else slice(None)
            texts = [_joined(words, tokens[shown]) for tokens in (old, new, right)]
            found.append(Comparison(row, texts[0], texts[1], None, None, texts[2], kind, lost))
        return found

    def samples(
        self,
        before: Score,
        after: Score,  # noqa: ARG002 - what it predicts is asked of `predict`
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        """Return texts in which the first model is right most often, short ones first."""
        words = _words_in(before)
        top, right = (_split(before.kept[name], before.kept[_LENGTHS]) for name in (_TOP, _TRUTH))
        shares = [float(np.mean(own == wanted)) for own, wanted in zip(top, right, strict=True)]
        rows = sorted(
            range(len(shares)), key=lambda row: (is_long(truth.examples[row]), -shares[row])
        )[:count]
        found = predict([Hidden(str(texts_of(truth.examples[row])[0])) for row in rows])
        return [
            Comparison(
                row,
                _joined(words, top[row]),
                ", ".join(
                    item[0]["token_str"].strip() for item in _each_place(places)[:_MOST_SHOWN]
                ),
                None,
                None,
                _joined(words, right[row]),
            )
            for row, places in zip(rows, found, strict=True)
        ]

    def predictions(
        self,
        outputs: Outputs,
        labels: Sequence[str],  # noqa: ARG002 - tokens are in the tokenizer
    ) -> list[list[Filled] | list[list[Filled]]]:
        """Return the five likeliest tokens of each text's mask token, of several a list for each.

        As transformers' pipeline gives them.
        """
        own = _outputs(outputs)
        ends = np.cumsum(own.lengths).tolist()
        found: list[list[Filled] | list[list[Filled]]] = []
        for ids, end, size in zip(own.ids, ends, own.lengths.tolist(), strict=True):
            masks = np.flatnonzero(ids == own.tokenizer.mask_token_id)
            rows = slice(end - size, end)
            filled = fill(own.tokenizer, ids, masks, own.top[rows], own.top_scores[rows])
            found.append(filled[0] if size == 1 else filled)
        return found


def _score(
    metric: str,
    kept: Mapping[str, NDArray[Any]],
    outcomes: NDArray[np.int64],
    reference: Score | None,
) -> Score:
    top, right, lengths = kept[_TOP], kept[_TRUTH], kept[_LENGTHS]
    statistic: Callable[[Floats], Floats] = first_over_second
    if metric == ACCURACY.name:
        met = _sum_of_each((top == right).astype(np.float64), lengths)
    elif metric == LIKELIHOOD.name:
        statistic = _likelihood
        met = _sum_of_each(np.maximum(kept[_LOGS], _LEAST), lengths)
    elif metric == AGREEMENT.name:
        before = kept if reference is None else reference.kept
        met = np.array(
            [
                float(np.sum(own == other)) if len(own) == len(other) else 0.0
                for own, other in zip(
                    _split(top, lengths), _split(before[_TOP], before[_LENGTHS]), strict=True
                )
            ]
        )
        lengths = before[_LENGTHS]
    else:
        raise KeyError(metric)
    sums = np.stack([met, lengths.astype(np.float64)], axis=1)
    value = float(statistic(sums.sum(axis=0)))
    return Score(metric, value, len(lengths), outcomes, sums=sums, kept=kept)


def _sum_of_each(values: NDArray[np.float64], lengths: NDArray[np.int64]) -> Floats:
    return np.array([float(part.sum()) for part in _split(values, lengths)])


def _split(values: NDArray[Any], lengths: NDArray[np.int64]) -> list[NDArray[Any]]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _outcomes(outputs: HiddenOutputs) -> NDArray[np.int64]:
    """Return a number for each text that is the same only where all its tokens are."""
    names = outputs.names(outputs.top[:, 0])
    return told_apart(part.tobytes() for part in _split(names, outputs.lengths))


def _words_in(score: Score) -> dict[int, str]:
    words = score.kept[_WORDS].tobytes().decode().split("\0")
    return dict(zip(score.kept[_NUMBERS].tolist(), words, strict=True))


def _joined(words: Mapping[int, str], tokens: NDArray[np.int64]) -> str:
    shown = [words[token] for token in tokens.tolist()]
    more = len(shown) - _MOST_SHOWN
    return ", ".join(shown[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _each_place(places: Any) -> list[list[Filled]]:
    """Return the tokens of each place, also where there is one place alone."""
    found: list[list[Filled]] = [places] if isinstance(places[0], dict) else places
    return found


def _hidden(batch: Batch) -> HiddenBatch:
    assert isinstance(batch, HiddenBatch), "the task encodes nothing else"
    return batch


def _outputs(outputs: Outputs) -> HiddenOutputs:
    assert isinstance(outputs, HiddenOutputs), "the task collects nothing else"
    return outputs
