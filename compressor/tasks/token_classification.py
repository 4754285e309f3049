"""Token classification: a tag for each word, such as entities, personal data, or parts of speech.

Words are what is scored, and tags what a model says at the first token of each, as it was trained.
One document is one example, however long: it is read in windows that overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.errors import StepFailed
from compressor.measurements import FlipKind, Score
from compressor.runtime.given import given_documents
from compressor.runtime.pieces import (
    DocumentBatch,
    count_tokens,
    encode_documents,
    of_documents,
    require_words,
)
from compressor.runtime.spans import AGGREGATIONS, Aggregation, Span, kinds_of_words, spans_of
from compressor.runtime.tags import NO_TAG, OUTSIDE, Entity, SchemeProblem, Tags, read_tags
from compressor.runtime.texts import NO_LIMIT
from compressor.runtime.windows import without_padding
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
from compressor.tasks.classification import one_of_each
from compressor.tasks.columns import Columns
from compressor.tasks.entities import entity_counts, f1, macro_f1, micro_counts, precision, recall
from compressor.tasks.examples import Example, Words, texts_of
from compressor.tasks.head import ConfigFile, HasShape, HeadProblem, require_tags
from compressor.tasks.hiding import (
    Hiding,
    Part,
    Piece,
    chunks,
    hiding_id,
    joined,
    log_probabilities,
    without_overlap,
)
from compressor.tasks.label_lists import joined as joined_labels
from compressor.tasks.metrics import (
    AGREEMENT,
    Floats,
    Metric,
    UsualDrop,
    first_over_second,
    none_of_it,
)
from compressor.tasks.outputs import UNLABELLED, LabelArray, Outputs, Positions, told_apart
from compressor.tasks.report_words import TOKENS_CODE, ReportWords
from compressor.tasks.text import TextTask
from compressor.tasks.word_columns import WordColumns
from compressor.tasks.word_tags import DOCUMENTS_AT_ONCE, DocumentTags, TokenLogits, WordTags

if TYPE_CHECKING:
    from compressor.tasks.losses import TokenLosses


def _missed(units: Floats, total: Floats) -> Floats:  # noqa: ARG001 - whatever the rest holds
    """Return what documents add once none of their entities is found: the right ones are gone."""
    return np.asarray(units * np.tile([0.0, 1.0, 1.0], units.shape[-1] // 3))


_DOCUMENTS: Any = {"bound": "sums", "unit": "document", "units": "documents"}
_ENTITY_DROP = UsualDrop(0.0005, 0.005, 0.015)
ENTITY_F1 = Metric(
    "entity_f1",
    "entity F1",
    "the harmonic mean of precision and recall of entities, all kinds together; an entity is right "
    "where its first word, its last one and its kind are",
    statistic=f1,
    lost=_missed,
    usual_drop=_ENTITY_DROP,
    **_DOCUMENTS,
)
TOKEN_ACCURACY = Metric(
    "token_accuracy",
    "token accuracy",
    "the share of words that get their tag, O among the tags",
    statistic=first_over_second,
    lost=none_of_it,
    **_DOCUMENTS,
)
ENTITY_PRECISION = Metric(
    "entity_precision",
    "entity precision",
    "the share of the entities that the model finds that are right",
    statistic=precision,
    lost=_missed,
    usual_drop=_ENTITY_DROP,
    **_DOCUMENTS,
)
ENTITY_RECALL = Metric(
    "entity_recall",
    "entity recall",
    "the share of the labelled entities that the model finds",
    statistic=recall,
    lost=_missed,
    usual_drop=_ENTITY_DROP,
    **_DOCUMENTS,
)
ENTITY_F1_MACRO = Metric(
    "entity_f1_macro",
    "macro entity F1",
    "the entity F1 of each kind by itself, averaged over the kinds",
    statistic=macro_f1,
    lost=_missed,
    usual_drop=UsualDrop(0.001, 0.008, 0.025),
    **_DOCUMENTS,
)

_CODE = f"""\
{TOKENS_CODE}\
[logits] = session.run(["logits"], inputs)  # of each token; longer texts are cut here
labels = {{labels}}
for row, ids in enumerate(batch["input_ids"]):
    tokens = tokenizer.convert_ids_to_tokens(ids)
    print([(token, labels[k]) for token, k in zip(tokens, logits[row].argmax(axis=-1))])
"""
_TAGS = "tags"  # class ids of the words of all documents, one after the other, shape (num_words,)
_LENGTHS = "lengths"  # number of words of each document, shape (num_documents,)
_NOTHING = "no entity"
_HIDDEN_AT_ONCE = 16  # copies of a document with a piece hidden


@dataclass(frozen=True)
class TokenClassification(TextTask):
    """One tag for each word of a document, which is given as a text or as a list of words.

    `labels` are the checkpoint's tags in the order of its logits; their prefixes say where entities
    begin and end. `aggregation` says how predictions for tokens become those for spans of a text.
    """

    labels: tuple[str, ...] = ()
    aggregation: Aggregation = "first"

    name: ClassVar[str] = "token-classification"
    head: ClassVar[str] = "ForTokenClassification"
    output: ClassVar[str] = "logits"
    output_words: ClassVar[str] = "logits"
    metrics: ClassVar[tuple[Metric, ...]] = (
        ENTITY_F1,
        TOKEN_ACCURACY,
        ENTITY_PRECISION,
        ENTITY_RECALL,
        ENTITY_F1_MACRO,
        AGREEMENT,
    )
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        row="document",
        axes="batch, sequence",
        gives="spans of a text",
        predictions_title="Entities",
        predictions_shown="search documents with entities of different kinds",
        score="",
        flips_title="Documents whose entities changed",
        another="other entities",
        changed=("document", "has other entities", "have other entities"),
        flips_order="Those come first where most entities changed.",
        flips_worst="Those come first that lost most entities.",
        prediction_is_text=True,
        flips_header=" what differs",
        flips_sure="",
    )
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {"labels", "logits", "own_width", "classes"}
    )
    finds: ClassVar[str | None] = "kind of entity"
    per_token: ClassVar[bool] = True
    aligns_words: ClassVar[bool] = True
    tags_words: ClassVar[bool] = True
    cuts_texts: ClassVar[bool] = False
    explains: ClassVar[str] = "log-probability of the tags that the original gives"

    @classmethod
    def check_head(
        cls,
        config: ConfigFile,
        tensors: Mapping[str, HasShape],
        about: ConfigFile | None,  # noqa: ARG003 - no file of sentence-transformers' matters
    ) -> None:
        """Raise `HeadProblem` unless the head chooses one of several tags of a known scheme."""
        try:
            read_tags(require_tags(config, tensors))
        except SchemeProblem as error:
            raise HeadProblem(str(error)) from error

    @classmethod
    def about_labels(cls, labels: Sequence[str]) -> str | None:
        """Return how entities are read off the tags."""
        try:
            return str(read_tags(labels)) if labels else None
        except SchemeProblem:  # of a report of a checkpoint that was refused
            return None

    def for_labels(self, labels: Sequence[str]) -> Self:
        """Return the task that reads entities off these tags."""
        return replace(self, labels=tuple(labels))

    def aggregated(self, strategy: str) -> Self:
        """Return the task that puts tokens together by `strategy`, one of `AGGREGATIONS`."""
        for known in AGGREGATIONS:
            if known == strategy:
                return replace(self, aggregation=known)
        raise ValueError(f"aggregation: must be one of {', '.join(AGGREGATIONS)}, got {strategy!r}")

    @cached_property
    def tags(self) -> Tags:
        """Return what the labels say of entities."""
        assert self.labels, "the task is told the labels when its checkpoint is known"
        return read_tags(self.labels)

    def auto_class(self, directory: Path) -> Any:  # noqa: ARG002 - config.json says it all
        """Return transformers' own."""
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def misfit(self, shape: tuple[int, ...], num_rows: int, num_labels: int) -> str | None:
        """Return what is needed unless there is a logit for each label of each token.

        Long documents take several rows.
        """
        fits = len(shape) == 3 and shape[0] >= num_rows and shape[2] == num_labels
        return None if fits else "a row of logits for each token"

    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the tokenizer; raises `EnvironmentMismatch` where it does not tell words apart."""
        tokenizer = super().load_preprocessor(directory)
        require_words(tokenizer, str(directory))
        return tokenizer

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return lists of words, and lists of tags."""
        return WordColumns()

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:  # noqa: ARG002
        """Return texts, or lists of words, as a list."""
        return given_documents(value)

    def repeated(self, example: Example, times: int) -> Example:
        """Return a document that is so many times as long."""
        if isinstance(example, Words):
            return Words(example.words * times)
        return super().repeated(example, times)

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> DocumentBatch:
        """Tokenize documents; arrays are int64 of shape `(rows, tokens)`, one row or more each."""
        limit = min(self.max_length or NO_LIMIT, int(preprocessor.model_max_length))
        return encode_documents(preprocessor, examples, None if limit >= NO_LIMIT else limit)

    def pieces(self, preprocessor: Any, example: Example, most: int) -> tuple[Part, ...]:
        """Return the characters of the tokens of a document, however many windows it takes."""
        [document] = self.encode(preprocessor, [example]).documents
        spans = [Piece(0, start, end) for start, end in document.offsets.tolist() if start < end]
        return joined(without_overlap(spans), most)

    def with_hidden(
        self, preprocessor: Any, example: Example, pieces: Sequence[Part], hiding: Hiding
    ) -> Iterator[DocumentBatch]:
        """Yield copies of the document in whose windows the tokens of one piece are replaced."""
        hidden = [None, *(piece for piece in pieces if isinstance(piece, Piece))]
        token = hiding_id(preprocessor, hiding)
        for part in chunks(len(hidden), _HIDDEN_AT_ONCE):
            batch = self.encode(preprocessor, [example] * len(part))
            for place, row in enumerate(batch.rows):
                piece = hidden[part[row.document]]
                if piece is None:
                    continue
                inside = slice(row.window.start, row.window.end)
                start, end = batch.documents[row.document].offsets[inside].T
                there = np.flatnonzero((start < piece.end) & (end > piece.start))
                batch["input_ids"][place, row.column + there] = token
            yield batch

    def explained(self, original: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """Return the log-probability of all tags that the untouched checkpoint gives a document.

        It is the sum over words, of those that it gives a tag at all.
        """
        [tags] = _logits(original).tags
        places = np.flatnonzero(tags != NO_TAG)
        rows = _logits(outputs).per_example()
        return np.array([log_probabilities(row[places], tags[places]).sum() for row in rows])

    def counted_at_once(self, preprocessor: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return how many tokens each whole document has, special tokens included."""
        return count_tokens(preprocessor, examples)

    def collect(
        self, arrays: Sequence[NDArray[np.float32]], batches: Sequence[Batch]
    ) -> TokenLogits:
        """Return the logits of each document's tokens, its windows put together."""
        if not batches:
            raise ValueError("there are no batches")
        read = list(map(_documents_in, batches))
        return TokenLogits(
            tuple(document for batch in read for document in batch.documents),
            tuple(
                logits
                for batch, array in zip(read, arrays, strict=True)
                for logits in of_documents(batch, array)
            ),
        )

    def without_padding(self, array: NDArray[Any], batch: Batch) -> list[NDArray[Any]]:
        """Return the outputs of all tokens of each document's rows, special tokens included."""
        read = _documents_in(batch)
        owners = [row.document for row in read.rows]
        return without_padding(array, batch["attention_mask"], owners, len(read.documents))

    def on_own_tokens(
        self, array: NDArray[np.float32], batch: Batch, own: Batch
    ) -> list[NDArray[np.float32]]:
        """Return what the first token of each word got in `batch`, at its first token in `own`.

        NaN stands at all other tokens, and where a word gave `batch` no token. Raises `StepFailed`
        where the two tell words apart otherwise.
        """
        theirs, ours = _documents_in(batch), _documents_in(own)
        words = []
        for document, mine, logits in zip(
            theirs.documents, ours.documents, of_documents(theirs, array), strict=True
        ):
            first = document.first_pieces
            if len(first) != len(mine.first_pieces):
                raise StepFailed(
                    f"one tokenizer tells {len(mine.first_pieces)} words of an example apart and "
                    f"the other {len(first)}, so what one model says of words cannot be told the "
                    f"other; give rows of lists of words"
                )
            answers = np.full((len(first), logits.shape[1]), np.nan, np.float32)
            answers[first >= 0] = logits[first[first >= 0]]
            words.append(answers)
        numbers = np.empty(len(words), dtype=object)
        numbers[:] = [np.arange(len(answers)) for answers in words]
        places = self.without_padding(self.targets(own, numbers), own)
        found = []
        for answers, place in zip(words, places, strict=True):
            known = place != UNLABELLED
            tokens = np.full((len(place), answers.shape[1]), np.nan, np.float32)
            tokens[known] = answers[place[known]]
            found.append(tokens)
        return found

    def targets(self, batch: Batch, labels: LabelArray) -> NDArray[np.int64]:
        """Return the class id at the first token of each word, in one window, -100 elsewhere."""
        read = _documents_in(batch)
        found = np.full(batch["input_ids"].shape, UNLABELLED, dtype=np.int64)
        for place, row in enumerate(read.rows):
            first = read.documents[row.document].first_pieces
            here = np.flatnonzero((first >= row.taken.start) & (first < row.taken.end))
            columns = row.column + first[here] - row.window.start
            found[place, columns] = labels[row.document][here]
        return found

    def labels_of_changed(
        self,
        labels: LabelArray,
        partners: LabelArray,
    ) -> None:
        """Return None: which words a text lost is not known."""

    @property
    def losses(self) -> TokenLosses:
        """Return cross-entropy and the KL divergence from a teacher, token by token."""
        from compressor.tasks.losses import TokenLosses  # torch, which an artifact has not

        return TokenLosses()

    def changed(self, before: Outputs, after: Outputs) -> NDArray[np.bool_]:
        """Return for which documents an entity came, went or changed."""
        first, second = (_digests(self._found(_logits(item).tags)) for item in (before, after))
        return np.asarray(first != second)

    def hits(
        self, metric: str, outputs: Outputs, truth: Truth, positions: Positions
    ) -> NDArray[np.bool_] | None:
        """Return which documents keep the untouched checkpoint's entities, for `agreement`."""
        if metric != AGREEMENT.name or truth.reference is None:
            return None
        own = _digests(self._found(_logits(outputs).tags))
        return np.asarray(own == truth.reference.outcomes[positions])

    def for_score(self, metric: str, outputs: Outputs) -> Outputs:  # noqa: ARG002 - of any
        """Return the tags of words."""
        return _logits(outputs).without_logits()

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score the tags of words; of entities strictly, by the scheme of the labels."""
        tags = outputs.tags if isinstance(outputs, WordTags) else _logits(outputs).tags
        own = tags if isinstance(tags, DocumentTags) else DocumentTags.of(tags)
        return self._score(metric, own, truth, truth.reference)

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that tags or entities are missing, or all tags the same, where they are."""
        if metric == AGREEMENT.name:
            return None
        if truth.labels is None:
            return "has no tags, so nothing but agreement can be scored on it"
        ends = ((tags.min(), tags.max()) for tags in truth.labels)
        if (
            metric == TOKEN_ACCURACY.name
            and len(only := {tag for both in ends for tag in both}) == 1
        ):
            return (
                f"every tag is '{self.tags.labels[only.pop()]}', so a model that always gives it "
                f"is never wrong; give it rows with other tags too"
            )
        if metric != TOKEN_ACCURACY.name and not any(
            self.tags.entities(document.tolist()) for document in truth.labels
        ):
            return (
                f"no word belongs to an entity, so there is none to find ({self.tags}); give it "
                f"rows with entities, or score token_accuracy or agreement"
            )
        return None

    def constant(self, score: Score, labels: Sequence[str]) -> str | None:
        """Say the one tag that every word got, where it was one."""
        tags = score.kept[_TAGS]
        tags = tags[tags != NO_TAG]
        if len(tags) == 0:
            return "gives no tag, as no word has a token,"
        return f"tags every word '{labels[tags[0]]}'" if np.all(tags == tags[0]) else None

    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        """Return models that tag every word alike, and the best of 19 that guess.

        Guesses are the checkpoint's own tags, or the labels, but for other words: all are moved by
        as many words, so that entities stay whole. One in twenty does better than the best of 19.
        """
        tags, lengths = baseline.kept[_TAGS], baseline.kept[_LENGTHS]
        is_agreement = baseline.metric == AGREEMENT.name or truth.labels is None
        right = tags
        if truth.labels is not None and not is_agreement:
            right = joined_labels(truth.labels, np.int64)
        random = np.random.RandomState(0)
        moves = random.randint(1, max(2, len(tags)), size=DRAWS).tolist()
        found = {
            f"a model that tags every word '{labels[tag]}'": [np.full(len(tags), tag)]
            for tag in self._usual(right)
        }
        found["a model that gives the checkpoint's tags, but for other words"] = [
            np.roll(tags, move) for move in moves
        ]
        if not is_agreement:
            found["a model that guesses each tag as often as it comes"] = [
                np.roll(right, move) for move in moves
            ]
        return tuple(
            Guess(
                who,
                max(
                    (
                        self._score(baseline.metric, DocumentTags(item, lengths), truth, baseline)
                        for item in items
                    ),
                    key=lambda score: score.value,
                ),
            )
            for who, items in found.items()
        )

    def kinds(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the kinds of entities, such as `PER`."""
        return read_tags(labels).kinds

    def held(self, truth: Truth, labels: Sequence[str]) -> dict[str, int]:
        """Return in how many documents there is an entity of each kind."""
        assert truth.labels is not None, "the caller asked whether there are labels"
        kinds = [{entity.kind for entity in found} for found in self._found(truth.labels)]
        return {
            kind: sum(place in found for found in kinds)
            for place, kind in enumerate(read_tags(labels).kinds)
        }

    def findings(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> dict[str, Findings]:
        """Return how many entities of each kind a document has, and how many of them were found."""
        tags = read_tags(labels)
        own, other = (self._found(_tags_in(score)) for score in (before, after))
        there = own
        if labelled:
            assert truth.labels is not None, "the caller asked whether there are labels"
            there = self._found(truth.labels)

        def count(found: Sequence[Sequence[Entity]]) -> NDArray[np.int64]:
            counts = np.zeros((len(there), len(tags.kinds)), dtype=np.int64)
            for row, (right, given) in enumerate(zip(there, found, strict=True)):
                for entity in set(right) & set(given):
                    counts[row, entity.kind] += 1
            return counts

        counts = [count(found) for found in (there, own, other)]
        return {
            kind: Findings(*(item[:, place] for item in counts))
            for place, kind in enumerate(tags.kinds)
        }

    def flips(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - the task knows them
    ) -> list[Comparison]:
        """Return the documents in which an entity came or went; with labels, what is right of it.

        One where both models find as many right and as many wrong entities does not matter.
        """
        found = []
        both = (self._found(_tags_in(score)) for score in (before, after))
        for row, (old, new) in enumerate(zip(*both, strict=True)):
            if set(old) == set(new):
                continue
            kind: FlipKind = "changed"
            lost, shown = float(len(set(old) ^ set(new))), None
            if truth.labels is not None:
                right = self.tags.entities(truth.labels[row])
                lost = float(_worth(old, right) - _worth(new, right))
                if lost == 0:
                    continue
                kind = "lost" if lost > 0 else "won"
                differ = [item for item in right if item not in old or item not in new]
                shown = self._shown(truth.examples[row], differ)
            gone = [item for item in old if item not in new]
            came = [item for item in new if item not in old]
            was, is_now = (self._shown(truth.examples[row], items) for items in (gone, came))
            found.append(Comparison(row, was, is_now, None, None, shown, kind, lost))
        return found

    def samples(
        self,
        before: Score,
        after: Score,  # noqa: ARG002 - what it predicts is asked of `predict`
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - the task knows them
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        """Return documents with entities, of different kinds in turn as far as there are any."""
        tags = _tags_in(before)
        kinds = np.array([item[0].kind if item else -1 for item in self._found(tags)])
        with_some = np.flatnonzero(kinds >= 0)
        rows = with_some if len(with_some) else np.arange(len(kinds))
        examples = [truth.examples[row] for row in rows.tolist()]
        chosen = [int(rows[place]) for place in one_of_each(kinds[rows], examples, count)]
        found: Sequence[Sequence[Span]] = predict([truth.examples[row] for row in chosen])
        return [
            Comparison(
                row,
                self._in_words(truth.examples[row], tags[row]),
                _joined(_in_text(truth.examples[row], spans)),
                None,
                None,
                None
                if truth.labels is None
                else self._in_words(truth.examples[row], truth.labels[row]),
            )
            for row, spans in zip(chosen, found, strict=True)
        ]

    def predictions(self, outputs: Outputs, labels: Sequence[str]) -> list[list[Span]]:
        """Return the spans of each document, as the pipeline of transformers gives them."""
        logits, tags = _logits(outputs), read_tags(labels)
        return [
            spans_of(document, values, tags, self.aggregation)
            for document, values in zip(logits.documents, logits.tokens, strict=True)
        ]

    def own_predictions(
        self,
        outputs: Outputs,
        labels: Sequence[str],
    ) -> list[tuple[str | None, ...]]:
        """Return the names of the tags of each document's words, None of one without a token."""
        return [_named(tags, labels) for tags in _logits(outputs).tags]

    def own_labels(self, found: LabelArray, labels: Sequence[str]) -> list[tuple[str | None, ...]]:
        """Return the names of the tags that each document's words have."""
        return [_named(tags, labels) for tags in found]

    def _found(self, tags: Sequence[NDArray[np.int64]] | NDArray[Any]) -> list[list[Entity]]:
        return [self.tags.entities(document.tolist()) for document in tags]

    def _score(
        self,
        metric: str,
        tags: DocumentTags,
        truth: Truth,
        reference: Score | None,
    ) -> Score:
        digests, counts = [], []
        for start in range(0, len(tags), DOCUMENTS_AT_ONCE):
            some = slice(start, start + DOCUMENTS_AT_ONCE)
            entities = self._found(tags[some])
            digests.append(_digests(entities))
            if metric != AGREEMENT.name:
                assert truth.labels is not None, "the caller asked whether it can be scored"
                counts.append(self._sums(metric, tags[some], entities, truth.labels[some]))
        outcomes = np.concatenate(digests)
        kept = {_TAGS: tags.flat, _LENGTHS: tags.lengths}
        if metric == AGREEMENT.name:
            same = outcomes == (outcomes if reference is None else reference.outcomes)
            return Score(metric, float(np.mean(same)), len(tags), outcomes, kept=kept)
        sums = np.concatenate(counts)
        statistic = next(item.statistic for item in self.metrics if item.name == metric)
        assert statistic is not None, "each but agreement is one of sums"
        value = float(statistic(sums.sum(axis=0)))
        return Score(metric, value, len(tags), outcomes, sums=sums, kept=kept)

    def _sums(
        self,
        metric: str,
        tags: Sequence[NDArray[Any]],
        entities: Sequence[Sequence[Entity]],
        labels: LabelArray,
    ) -> Floats:
        """Return what each document adds, shape `(num_documents, num_sums)`."""
        if metric == TOKEN_ACCURACY.name:
            pairs = zip(tags, labels, strict=True)
            return np.array([[np.sum(own == right), len(right)] for own, right in pairs], float)
        counts = entity_counts(self.tags, entities, self._found(labels))
        return counts if metric == ENTITY_F1_MACRO.name else micro_counts(counts)

    def _usual(self, right: NDArray[np.int64]) -> Iterator[int]:
        """Yield the most frequent tag, and that of those which are an entity by themselves."""
        counts = np.bincount(right[right != NO_TAG], minlength=len(self.tags.labels))
        most = int(counts.argmax())
        yield most
        alone = [len(self.tags.entities([tag])) == 1 for tag in range(len(counts))]
        counts = np.where(alone, counts, 0)
        if counts.any() and (other := int(counts.argmax())) != most:
            yield other

    def _shown(self, example: Example, entities: Sequence[Entity]) -> str:
        """Return entities in words, such as `PER Barack Obama`."""
        assert isinstance(example, Words), "a split holds nothing else"
        return _joined(
            f"{self.tags.kinds[kind]} {' '.join(example.words[start:end])}"
            for kind, start, end in entities
        )

    def _in_words(self, example: Example, tags: NDArray[np.int64]) -> str:
        """Return the spans of a document's tags as an artifact gives them."""
        assert isinstance(example, Words), "a split holds nothing else"
        text = texts_of(example)[0]
        spans = kinds_of_words(example.words, tags.tolist(), self.tags)
        return _joined(f"{kind} {text[start:end]}" for kind, start, end in spans)


def _joined(shown: Iterator[str] | Sequence[str]) -> str:
    return "; ".join(shown) or _NOTHING


def _in_text(example: Example, spans: Sequence[Span]) -> Iterator[str]:
    text = texts_of(example)[0]
    for span in spans:
        kind = span.get("entity_group", span.get("entity", OUTSIDE))
        yield f"{kind} {text[span['start'] : span['end']]}"


def _named(tags: NDArray[np.int64], labels: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(None if tag < 0 else labels[tag] for tag in tags.tolist())


def _logits(outputs: Outputs) -> TokenLogits:
    assert isinstance(outputs, TokenLogits), "the task collects nothing else"
    return outputs


def _documents_in(batch: Batch) -> DocumentBatch:
    assert isinstance(batch, DocumentBatch), "the task encodes nothing else"
    return batch


def _tags_in(score: Score) -> DocumentTags:
    return DocumentTags(score.kept[_TAGS], score.kept[_LENGTHS])


def _digests(entities: Sequence[Sequence[Entity]]) -> NDArray[np.int64]:
    """Return a number for each document that is the same only where all its entities are."""
    return told_apart(np.array(document, dtype="<i8").tobytes() for document in entities)


def _worth(found: Sequence[Entity], right: Sequence[Entity]) -> int:
    """Return how many entities are right, less those that are wrong."""
    good = len(set(found) & set(right))
    return 2 * good - len(found)
