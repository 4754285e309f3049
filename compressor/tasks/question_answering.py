"""Extractive question answering: the part of a context that answers a question, or none.

A model marks where an answer starts and ends. One question with its context is one example, however
long the context is: it is read in windows that overlap, and the best span of all of them is the
answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.measurements import FlipKind, Score
from compressor.runtime.candidates import (
    CANDIDATES,
    MOST_TOKENS,
    Answer,
    Candidate,
    answers_of,
    best_candidates,
)
from compressor.runtime.given import given_questions
from compressor.runtime.questions import (
    Question,
    QuestionBatch,
    Row,
    count_question_tokens,
    encode_questions,
    require_null_token,
)
from compressor.runtime.texts import NO_LIMIT
from compressor.runtime.windows import Window, without_padding
from compressor.tasks.answer_columns import QuestionColumns
from compressor.tasks.answers import Gold, is_exact, normalized, overlap
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
from compressor.tasks.classification import one_of_each
from compressor.tasks.columns import Columns
from compressor.tasks.examples import Example, texts_of
from compressor.tasks.head import ConfigFile, HasShape, require_span
from compressor.tasks.hiding import Hiding, Part, Piece, ReadText, chunks, hiding_id, log_softmax
from compressor.tasks.metrics import Metric, UsualDrop, first_over_second, none_of_it
from compressor.tasks.outputs import UNLABELLED, LabelArray, Outputs, Positions, told_apart
from compressor.tasks.ranking import groups_by_text
from compressor.tasks.report_words import ReportWords
from compressor.tasks.text import TextTask

if TYPE_CHECKING:
    from compressor.tasks.losses import SpanLosses

# Questions about one text are not independent of each other, so what is drawn are the texts.
_CONTEXTS: Any = {
    "bound": "sums",
    "unit": "context",
    "units": "contexts",
    "statistic": first_over_second,  # what questions add, and their number
    "lost": none_of_it,
}
ANSWER_EXACT_MATCH = Metric(
    "answer_exact_match",
    "exact match of answers",
    "the share of questions whose answer is, but for case, punctuation and articles, one of the "
    "right ones, or none where there is none",
    usual_drop=UsualDrop(0.0005, 0.005, 0.015),
    **_CONTEXTS,
)
ANSWER_F1 = Metric(
    "answer_f1",
    "F1 of answers",
    "the harmonic mean of precision and recall of an answer's words, with the right answer that "
    "fits best, averaged over questions; 1 for no answer where there is none",
    usual_drop=UsualDrop(0.0005, 0.005, 0.015),
    **_CONTEXTS,
)
ANSWER_AGREEMENT = Metric(
    "answer_agreement",
    "agreement of answers",
    "the share of questions that get the untouched checkpoint's answer, so that no labels are "
    "needed",
    label_free=True,
    usual_drop=UsualDrop(0.003, 0.02, 0.05),
    most_drop=0.15,
    most_pruned_drop=0.15,
    **_CONTEXTS,
)

_CODE = """\
import numpy as np
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
session = onnxruntime.InferenceSession("model.onnx", providers=[{provider}])
question, context = "a question", "a text that may hold the answer"
batch = tokenizer(
    [question],
    [context],
    truncation="only_second",  # longer contexts are cut here
    max_length={max_length},
    return_offsets_mapping=True,
    return_tensors="np",
)
inputs = {{node.name: batch[node.name].astype(np.int64) for node in session.get_inputs()}}
[logits] = session.run(["logits"], inputs)  # of each token: start and end
places = np.flatnonzero(np.array(batch.sequence_ids(0)) == 1)  # the tokens of the context
starts, ends = logits[0, places].T
near = np.tri(len(places), k=14) - np.tri(len(places), k=-1)  # 1 to 15 tokens
scores = np.where(near, starts[:, None] + ends, -np.inf)
first, last = np.unravel_index(scores.argmax(), scores.shape)
nothing = logits[0, batch["input_ids"][0] == tokenizer.cls_token_id][0].sum()
offsets = batch["offset_mapping"][0, places]
answer = context[offsets[first, 0] : offsets[last, 1]]
print(answer if scores.max() >= nothing else "no answer")
"""
_NOTHING = "no answer"
_HIDDEN_AT_ONCE = 16  # copies of a question with a piece hidden
_LEAST = -100.0  # what an answer counts that no window holds, as a log-probability
# What a score keeps of each question: characters and tokens of its answer, and the answer's score.
_STARTS, _ENDS, _FIRSTS, _LASTS, _SURE = "starts", "ends", "firsts", "lasts", "sure"


@dataclass(frozen=True)
class SpanLogits(Outputs):
    """Logits of starts and ends: for each of `questions` the windows of its context.

    An array of `windows` has shape `(1 + num_tokens, 2)`: "no answer", then the tokens of the
    window, which `places` has the place of.
    """

    questions: tuple[Question, ...]
    places: tuple[tuple[Window, ...], ...]
    windows: tuple[tuple[NDArray[np.float32], ...], ...]

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the questions of all parts, one after the other."""
        if not parts:
            raise ValueError("there is nothing to join")
        return cls(
            tuple(item for part in parts for item in part.questions),
            tuple(item for part in parts for item in part.places),
            tuple(item for part in parts for item in part.windows),
        )

    def select(self, positions: Positions) -> Self:
        """Return the questions at `positions`, in that order."""
        return type(self)(
            tuple(self.questions[place] for place in positions),
            tuple(self.places[place] for place in positions),
            tuple(self.windows[place] for place in positions),
        )

    def per_example(self) -> list[NDArray[np.float32]]:
        """Return the logits of each question, `(num_tokens, 2)`, its windows behind each other."""
        return [np.concatenate(parts) for parts in self.windows]

    @property
    def numbers(self) -> NDArray[np.float32]:
        """Return the logits of all tokens of all windows, shape `(num_tokens, 2)`."""
        return np.concatenate(self.per_example())

    @cached_property
    def candidates(self) -> list[list[Candidate]]:
        """Return the best answers of each question, the best first."""
        return [
            best_candidates(places, parts, CANDIDATES)
            for places, parts in zip(self.places, self.windows, strict=True)
        ]

    def answers(self) -> list[str]:
        """Return the best answer to each question, "" for none."""
        found = []
        for question, candidates in zip(self.questions, self.candidates, strict=True):
            start, end = question.span(candidates[0].first, candidates[0].last)
            found.append(question.context[start:end])
        return found


@dataclass(frozen=True)
class QuestionAnswering(TextTask):
    """A pair of texts, a question and its context, in; a part of the context out."""

    name: ClassVar[str] = "question-answering"
    head: ClassVar[str] = "ForQuestionAnswering"
    output: ClassVar[str] = "logits"
    output_parts: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")
    output_words: ClassVar[str] = "logits"
    metrics: ClassVar[tuple[Metric, ...]] = (
        ANSWER_F1,
        ANSWER_EXACT_MATCH,
        ANSWER_AGREEMENT,
    )
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        row="question",
        axes="batch, sequence",
        gives="answers",
        predictions_title="Answers",
        predictions_shown="search questions, with an answer and without one in turn",
        score="score",
        flips_title="Questions with another answer",
        another="another answer",
        changed=("question", "has another answer", "have another answer"),
        flips_order="The surest of the old answers first.",
        flips_worst="Those come first whose answer lost most F1.",
        prediction_is_text=True,
        flips_header=" answer",
        flips_sure="and its score",
    )
    abilities: ClassVar[frozenset[Ability]] = frozenset({"labels", "logits", "own_width"})
    per_token: ClassVar[bool] = True
    cuts_texts: ClassVar[bool] = False
    explains: ClassVar[str] = "log-probability of the answer that the original gives"

    @classmethod
    def check_head(
        cls,
        config: ConfigFile,
        tensors: Mapping[str, HasShape],
        about: ConfigFile | None,  # noqa: ARG003 - no file of sentence-transformers' matters
    ) -> None:
        """Raise `HeadProblem` unless the head gives a start and an end."""
        require_span(config, tensors)

    @classmethod
    def about_labels(cls, labels: Sequence[str]) -> str | None:
        """Return what the two numbers of a token are."""
        if len(labels) != 2:  # of a report of a checkpoint that was refused
            return None
        return f"{labels[0]} says where an answer starts, {labels[1]} where it ends"

    def auto_class(self, directory: Path) -> Any:  # noqa: ARG002 - config.json says it all
        """Return what stacks the two outputs of transformers' own."""
        from compressor.tasks.span_model import AutoSpanModel

        return AutoSpanModel()

    def misfit(
        self,
        shape: tuple[int, ...],
        num_rows: int,
        num_labels: int,  # noqa: ARG002 - checked before
    ) -> str | None:
        """Return what is needed unless there is a start and an end for each token.

        Long contexts take several rows.
        """
        fits = len(shape) == 3 and shape[0] >= num_rows and shape[2] == 2
        return None if fits else "a start and an end for each token"

    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the tokenizer; raises `EnvironmentMismatch` where answers would have no place."""
        tokenizer = super().load_preprocessor(directory)
        require_null_token(tokenizer, str(directory))
        return tokenizer

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return questions with their contexts, and the right answers."""
        return QuestionColumns()

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:  # noqa: ARG002
        """Return pairs of a question and its context as a list."""
        return given_questions(value)

    def repeated(self, example: Example, times: int) -> Example:
        """Return the question with a context that is so many times as long."""
        question, context = texts_of(example)
        return question, " ".join([context] * times)

    def dummy_example(self, length: int) -> Example:
        """Return a question of one word with a context, of about `length` tokens together."""
        return "the", " ".join(["the"] * max(1, length - 4))

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> QuestionBatch:
        """Tokenize questions; arrays are int64 of shape `(rows, tokens)`, one row or more each."""
        limit = min(self.max_length or NO_LIMIT, int(preprocessor.model_max_length))
        return encode_questions(preprocessor, examples, None if limit >= NO_LIMIT else limit)

    def read_text(self, preprocessor: Any, example: Example) -> ReadText:
        """Return the tokens of a question, text 0, with its whole context, text 1."""
        if preprocessor.padding_side == "right":
            return super().read_text(preprocessor, example)
        # Then models read the context first.
        question, context = texts_of(example)
        read = super().read_text(preprocessor, (context, question))
        return dataclasses.replace(read, texts=np.where(read.texts < 0, -1, 1 - read.texts))

    def with_hidden(
        self, preprocessor: Any, example: Example, pieces: Sequence[Part], hiding: Hiding
    ) -> Iterator[QuestionBatch]:
        """Yield copies of the question in whose windows the tokens of one piece are replaced."""
        hidden = [None, *(piece for piece in pieces if isinstance(piece, Piece))]
        token, read = hiding_id(preprocessor, hiding), self.read_text(preprocessor, example)
        begin = int(np.argmax(read.texts == 1))  # the first token of the context
        for part in chunks(len(hidden), _HIDDEN_AT_ONCE):
            batch = self.encode(preprocessor, [example] * len(part))
            for place, row in enumerate(batch.rows):
                piece = hidden[part[row.question]]
                if piece is None:
                    continue
                kept = read.texts != 1
                kept[begin + row.window.start : begin + row.window.end] = True
                there = np.flatnonzero(read.tokens_of(piece)[kept])
                batch["input_ids"][place, row.column - begin + there] = token
            yield batch

    def explained(self, original: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """Return the log-probability of the untouched checkpoint's best answer, or of none.

        That of a span is its start's plus its end's, in the best window that holds it; of no
        answer, which is one only where no window holds one, in the worst.
        """
        before = _logits(original)
        [question], [[best, *_]] = before.questions, before.candidates
        characters = None if best.first < 0 else question.span(best.first, best.last)
        found = _logits(outputs)
        parts = zip(found.questions, found.places, found.windows, strict=True)
        return np.array([_log_probability(characters, *part) for part in parts])

    def in_words(self, outputs: Outputs, labels: Sequence[str]) -> str:  # noqa: ARG002 - it has none
        """Return the best answer."""
        [found] = _logits(outputs).answers()
        return found or _NOTHING

    def counted_at_once(self, preprocessor: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return how many tokens each question has with its whole context."""
        return count_question_tokens(preprocessor, examples)

    def collect(
        self, arrays: Sequence[NDArray[np.float32]], batches: Sequence[Batch]
    ) -> SpanLogits:
        """Return the logits of each question's context, window by window."""
        if not batches:
            raise ValueError("there are no batches")
        parts = []
        for batch, array in zip(map(_questions_in, batches), arrays, strict=True):
            rows: list[list[tuple[Row, NDArray[np.float32]]]] = [[] for _ in batch.questions]
            for row, values in zip(batch.rows, array, strict=True):
                rows[row.question].append((row, values[row.columns]))
            parts.append(
                SpanLogits(
                    batch.questions,
                    tuple(tuple(row.window for row, _ in own) for own in rows),
                    tuple(tuple(values for _, values in own) for own in rows),
                )
            )
        return SpanLogits.joined(parts)

    def without_padding(
        self, array: NDArray[np.float32], batch: Batch
    ) -> list[NDArray[np.float32]]:
        """Return the outputs of all tokens of each question's rows, special tokens included."""
        read = _questions_in(batch)
        owners = [row.question for row in read.rows]
        return without_padding(array, batch["attention_mask"], owners, len(read.questions))

    def targets(self, batch: Batch, labels: LabelArray) -> NDArray[np.int64]:
        """Return 1 at start and end of the first right answer, 0 elsewhere and -100 at padding.

        The shape is `(rows, tokens, 2)`. A window that does not hold the whole answer has none, as
        a context without answers: there the token that stands for that is start and end.
        """
        read = _questions_in(batch)
        found = np.zeros((*batch["input_ids"].shape, 2), dtype=np.int64)
        for place, row in enumerate(read.rows):
            columns = [row.nothing, row.nothing]
            if gold := labels[row.question]:
                answer = gold[0]
                question = read.questions[row.question]
                first, last = question.tokens(answer.start, answer.start + len(answer.text))
                if row.window.start <= first and last < row.window.end:
                    columns = [row.column + token - row.window.start for token in (first, last)]
            found[place, columns, [0, 1]] = 1
        found[batch["attention_mask"] == 0] = UNLABELLED
        return found

    def labels_of_changed(
        self,
        labels: LabelArray,
        partners: LabelArray,
    ) -> None:
        """Return None: whether a text that lost words still holds its answer is not known."""

    @property
    def losses(self) -> SpanLosses:
        """Return cross-entropy and the KL divergence from a teacher, of start and end."""
        from compressor.tasks.losses import SpanLosses  # torch, which an artifact has not

        return SpanLosses()

    def teacher_order(
        self,
        student: OutputForm,  # noqa: ARG002 - a head has two outputs, whatever they are called
        teacher: OutputForm,  # noqa: ARG002
    ) -> list[int]:
        """Return start and end in their order."""
        return [0, 1]

    def changed(self, before: Outputs, after: Outputs) -> NDArray[np.bool_]:
        """Return for which questions the answer is another text."""
        pairs = zip(_logits(before).answers(), _logits(after).answers(), strict=True)
        return np.array([first != second for first, second in pairs], dtype=bool)

    def hits(
        self, metric: str, outputs: Outputs, truth: Truth, positions: Positions
    ) -> NDArray[np.bool_] | None:
        """Return which answers are exactly right or, for `agreement`, the untouched checkpoint's.

        None for F1, of which an answer may have a part.
        """
        answers = _logits(outputs).answers()
        if metric == ANSWER_AGREEMENT.name and truth.reference is not None:
            return np.asarray(_digests(answers) == truth.reference.outcomes[positions])
        if metric != ANSWER_EXACT_MATCH.name or truth.labels is None:
            return None
        gold = truth.labels[np.asarray(positions, dtype=np.int64)]
        return np.array([is_exact(*pair) for pair in zip(answers, gold, strict=True)], dtype=bool)

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score the best answer to each question."""
        logits = _logits(outputs)
        best = [candidates[0] for candidates in logits.candidates]
        spans = [
            question.span(item.first, item.last)
            for question, item in zip(logits.questions, best, strict=True)
        ]
        kept = {
            _STARTS: np.array([start for start, _ in spans], dtype=np.int64),
            _ENDS: np.array([end for _, end in spans], dtype=np.int64),
            _FIRSTS: np.array([item.first for item in best], dtype=np.int64),
            _LASTS: np.array([item.last for item in best], dtype=np.int64),
            _SURE: np.array([item.score for item in best], dtype=np.float64),
        }
        return _score(metric, logits.answers(), truth, truth.reference, kept)

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that answers are missing or all the same, where they are."""
        if metric == ANSWER_AGREEMENT.name:
            return None
        if truth.labels is None:
            return "has no answers, so nothing but agreement can be scored on it"
        right = (sorted({normalized(item.text) for item in gold}) for gold in truth.labels)
        first = next(right, [])
        if all(item == first for item in right):
            always = f"{' / '.join(first)!r}" if first else _NOTHING
            return (
                f"the right answer to every question is {always}, so a model that always gives it "
                f"is never wrong; give it rows with other answers too"
            )
        return None

    def constant(
        self,
        score: Score,
        labels: Sequence[str],  # noqa: ARG002 - answers have no names
    ) -> str | None:
        """Say the one answer that every question got, or where it always stands."""
        firsts, lasts = score.kept[_FIRSTS], score.kept[_LASTS]
        if np.all(firsts < 0):
            return "finds no answer to any question"
        if np.all(score.outcomes == score.outcomes[0]):
            return "gives every question the same answer"
        if np.all(firsts == firsts[0]) and np.all(lasts == lasts[0]):
            return f"marks tokens {firsts[0]} to {lasts[0]} of every context (the first is 0)"
        return None

    def guesses(
        self,
        baseline: Score,
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - answers have no names
    ) -> tuple[Guess, ...]:
        """Return models that read no question: of each the best of several.

        They never answer, or give the first words of the context, as many as do best; or they give
        the checkpoint's answers to other questions, in 19 draws: one in twenty does better than the
        best of them. Where contexts have several questions, those answers are also taken from the
        same context.
        """
        contexts = [texts_of(example)[1] for example in truth.examples]
        own = _answers_in(baseline, truth)
        words = [context.split() for context in contexts]
        random = np.random.RandomState(0)
        moved = [[own[at] for at in random.permutation(len(own))] for _ in range(DRAWS)]
        found = {
            "a model that finds no answer to any question": [[""] * len(own)],
            "a model that answers with the first words of the context": [
                [" ".join(item[:count]) for item in words] for count in range(1, MOST_TOKENS + 1)
            ],
            "a model that gives the checkpoint's answers, but to other questions": moved,
        }
        if len(set(contexts)) < len(contexts):
            found["a model that gives the checkpoint's answers, but to others of the context"] = [
                _within(own, contexts, random) for _ in range(DRAWS)
            ]
        return tuple(
            Guess(
                who,
                max(
                    (_score(baseline.metric, item, truth, baseline, {}) for item in items),
                    key=lambda score: score.value,
                ),
            )
            for who, items in found.items()
        )

    def flips(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - answers have no names
    ) -> list[Comparison]:
        """Return the questions whose answer got better or worse by F1; else all that changed.

        What was lost is F1. Another answer that is as good does not matter.
        """
        found = []
        both = zip(_answers_in(before, truth), _answers_in(after, truth), strict=True)
        for row, (old, new) in enumerate(both):
            if old == new:
                continue
            kind: FlipKind = "changed"
            lost, shown = None, None
            if truth.labels is not None:
                gold = truth.labels[row]
                lost = overlap(old, gold) - overlap(new, gold)
                if lost == 0:
                    continue
                kind, shown = ("lost" if lost > 0 else "won"), _in_words(gold)
            found.append(
                Comparison(
                    row,
                    old or _NOTHING,
                    new or _NOTHING,
                    float(before.kept[_SURE][row]),
                    float(after.kept[_SURE][row]),
                    shown,
                    kind,
                    lost,
                )
            )
        return found

    def samples(
        self,
        before: Score,
        after: Score,  # noqa: ARG002 - what it predicts is asked of `predict`
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - answers have no names
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        """Return questions with an answer and without one in turn, as far as there are any."""
        own = _answers_in(before, truth)
        has_answer = np.array([bool(answer) for answer in own], dtype=np.int64)
        rows = one_of_each(has_answer, truth.examples, count)
        found: Sequence[Sequence[Answer]] = predict([truth.examples[row] for row in rows])
        return [
            Comparison(
                row,
                own[row] or _NOTHING,
                answers[0]["answer"] or _NOTHING,
                float(before.kept[_SURE][row]),
                answers[0]["score"],
                None if truth.labels is None else _in_words(truth.labels[row]),
            )
            for row, answers in zip(rows, found, strict=True)
        ]

    def predictions(
        self,
        outputs: Outputs,
        labels: Sequence[str],  # noqa: ARG002 - answers have no names
    ) -> list[list[Answer]]:
        """Return the best answers to each question, at most 5, the best first."""
        logits = _logits(outputs)
        return [
            answers_of(question, candidates)
            for question, candidates in zip(logits.questions, logits.candidates, strict=True)
        ]


def _log_probability(
    characters: tuple[int, int] | None,
    question: Question,
    places: Sequence[Window],
    windows: Sequence[NDArray[np.float32]],
) -> float:
    """Return how likely the answer of these characters is, None for no answer."""
    logs = [log_softmax(values, axis=0) for values in windows]  # (1 + num_tokens, 2) each
    if characters is None:
        return float(min(values[0].sum() for values in logs))
    first, last = question.tokens(*characters)
    held = [
        float(values[1 + first - place.start, 0] + values[1 + last - place.start, 1])
        for place, values in zip(places, logs, strict=True)
        if first >= 0 and place.start <= first and last < place.end
    ]
    return max(held, default=_LEAST)


def _logits(outputs: Outputs) -> SpanLogits:
    assert isinstance(outputs, SpanLogits), "the task collects nothing else"
    return outputs


def _questions_in(batch: Batch) -> QuestionBatch:
    assert isinstance(batch, QuestionBatch), "the task encodes nothing else"
    return batch


def _answers_in(score: Score, truth: Truth) -> list[str]:
    """Return the answers that a score was taken of, "" for none."""
    spans = zip(score.kept[_STARTS].tolist(), score.kept[_ENDS].tolist(), strict=True)
    return [
        texts_of(example)[1][start:end]
        for example, (start, end) in zip(truth.examples, spans, strict=True)
    ]


def _score(
    metric: str,
    answers: Sequence[str],
    truth: Truth,
    reference: Score | None,
    kept: Mapping[str, NDArray[Any]],
) -> Score:
    outcomes = _digests(answers)
    if metric == ANSWER_AGREEMENT.name:
        same = outcomes == (outcomes if reference is None else reference.outcomes)
        shares = same.astype(np.float64)
    else:
        assert truth.labels is not None, "the caller asked whether it can be scored"
        right = {ANSWER_EXACT_MATCH.name: is_exact, ANSWER_F1.name: overlap}[metric]
        pairs = zip(answers, truth.labels, strict=True)
        shares = np.array([right(answer, gold) for answer, gold in pairs], dtype=np.float64)
    units = groups_by_text([texts_of(example)[1] for example in truth.examples])
    sums = np.stack([np.bincount(units, shares), np.bincount(units)], axis=-1).astype(np.float64)
    value = float(shares.mean())
    return Score(metric, value, len(sums), outcomes, sums=sums, units=units, kept=kept)


def _digests(answers: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each answer that is the same only where its text is."""
    return told_apart(answer.encode() for answer in answers)


def _within(
    answers: Sequence[str], contexts: Sequence[str], random: np.random.RandomState
) -> list[str]:
    """Return answers to other questions of the same context, of any where it has one question."""
    rows: dict[str, list[int]] = {}
    for row, context in enumerate(contexts):
        rows.setdefault(context, []).append(row)
    found = [answers[at] for at in random.permutation(len(answers))]
    for own in rows.values():
        if len(own) > 1:
            shift = int(random.randint(1, len(own)))
            for row, other in zip(own, own[shift:] + own[:shift], strict=True):
                found[row] = answers[other]
    return found


def _in_words(gold: Gold) -> str:
    return " / ".join(dict.fromkeys(item.text for item in gold)) or _NOTHING
