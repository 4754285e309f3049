"""Retrieval: which documents a query finds first, and how many of them are relevant to it.

A split holds queries and documents as examples, each read after its own prompt. The documents of a
split are all searched for each query. Documents that are equally near to a query are in no order: a
score is then its mean over all orders of them, so that a model which gives all texts one vector
scores what a random order does, whatever the order of the files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.runtime.prompts import Document, Query
from compressor.setting_errors import show
from compressor.tasks.outputs import LabelArray
from compressor.words import counted

DEPTH = 10  # documents that a person looks at
_QUERIES_AT_ONCE = 256

SIMILARITIES = ("cosine", "dot")  # by which queries find documents
Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Documents by their ids; of those that no query of a split calls relevant at most so many."""

    documents: Mapping[str, str] = field(repr=False)
    max_documents: int | None = None

    def chosen(self, relevant: Sequence[str]) -> list[str]:
        """Return the ids of the documents to search: the relevant ones first, without repetition.

        The others are those whose ids have the lowest checksums, so that every split and every run
        has the same. Raises `RecipeError` where the relevant ones alone are more than allowed.
        """
        needed = dict.fromkeys(relevant)
        others = [name for name in self.documents if name not in needed]
        if self.max_documents is None:
            return [*needed, *others]
        if self.max_documents < len(needed):
            raise RecipeError(
                f"max_documents: is {self.max_documents:,}, and the queries call "
                f"{counted(len(needed), 'document')} relevant; raise it, or lower max_rows"
            )
        order = sorted(others, key=lambda name: hashlib.sha256(name.encode()).digest())
        return [*needed, *order[: self.max_documents - len(needed)]]


@dataclass(frozen=True)
class Judged:
    """A query with the grades of the documents that are relevant to it, by their ids, all above 0.

    `name` tells queries apart; those of one name are one query. A document of that id, if there is
    one, is the query itself and is not searched.
    """

    text: str
    name: str
    relevant: Mapping[str, float]
    corpus: Corpus = field(repr=False)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the query."""
        return (self.text,)


@dataclass(frozen=True)
class Unfolded:
    """The examples that inputs are in the end, and of which input each one is.

    `labels`, dtype object, say of a query its id and grades by document, of a document its id.
    `grades` are those of pairs. Scores are of the first `num_judged` examples (None: of all).
    """

    examples: Sequence[Any]
    sources: Places
    labels: LabelArray | None = None
    grades: Floats | None = None
    num_judged: int | None = None


def unfold(judged: Sequence[Judged], grades: Floats | None, *, whole: bool) -> Unfolded:
    """Return queries, then documents: all that are searched, or without `whole` the relevant ones.

    `grades`, shape `(num_judged,)`, are what a label column says of pairs: of each the grade is so
    many times what it was. Labels are for the whole alone.

    Raises `RecipeError` for a query to which nothing is relevant, where it is to be judged.
    """
    first: dict[str, int] = {}
    found: dict[str, dict[str, float]] = {}
    judges: dict[str, int] = {}  # of each relevant document the first query
    factors = np.ones(len(judged)) if grades is None else grades
    for place, (item, factor) in enumerate(zip(judged, factors.tolist(), strict=True)):
        first.setdefault(item.name, place)
        own = found.setdefault(item.name, {})
        for name, grade in item.relevant.items():
            if grade * factor > 0:
                own[name] = max(grade * factor, own.get(name, 0.0))
                judges.setdefault(name, place)
    vain = [name for name, own in found.items() if not own]
    if vain and whole:
        raise RecipeError(
            f"no document is relevant to {counted(len(vain), 'query', 'queries')}, such as "
            f"{show(judged[first[vain[0]]].text)}, so no model can find one; leave such queries out"
        )
    corpus = judged[0].corpus
    names = corpus.chosen(list(judges)) if whole else list(judges)
    queries = tuple(Query(judged[place].text) for place in first.values())
    documents = tuple(Document(corpus.documents[name]) for name in names)
    sources = [*first.values(), *(judges.get(name, 0) for name in names)]
    labels = None
    if whole:
        labels = np.empty(len(sources), dtype=object)
        labels[: len(first)] = [{"id": name, "relevant": found[name]} for name in first]
        labels[len(first) :] = names
    examples = (*queries, *documents)
    return Unfolded(examples, np.array(sources, dtype=np.int64), labels, num_judged=len(queries))


def relevance_of(value: Any) -> float | None:
    """Return a grade of relevance, a number of 0 or more; None for what is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    is_grade = math.isfinite(found) and found >= 0 and not isinstance(value, bool)
    return found if is_grade else None


@dataclass(frozen=True)
class Problem:
    """Queries and documents by their positions in a split, and what is relevant to which.

    `relevant` and `grades` have an array for each query: places among `documents`, and numbers
    above 0. `own` is the place of the document that a query itself is, -1 where it is none.
    """

    queries: Places
    documents: Places
    relevant: tuple[Places, ...]
    grades: tuple[Floats, ...]
    own: Places

    @classmethod
    def of(cls, labels: LabelArray) -> Problem:
        """Return the problem that the labels of a split pose."""
        is_query = np.array([isinstance(label, dict) for label in labels])
        queries, documents = np.flatnonzero(is_query), np.flatnonzero(~is_query)
        place = {str(labels[row]): number for number, row in enumerate(documents.tolist())}
        found = [labels[row] for row in queries.tolist()]
        return cls(
            queries,
            documents,
            tuple(np.array([place[name] for name in each["relevant"]]) for each in found),
            tuple(np.array(list(each["relevant"].values()), np.float64) for each in found),
            np.array([place.get(each["id"], -1) for each in found]),
        )

    def of_queries(self, rows: Sequence[int]) -> Problem:
        """Return the problem of the queries at these positions alone, in that order."""
        numbers = {row: number for number, row in enumerate(self.queries.tolist())}
        chosen = [numbers[row] for row in rows]
        return Problem(
            self.queries[chosen],
            self.documents,
            tuple(self.relevant[number] for number in chosen),
            tuple(self.grades[number] for number in chosen),
            self.own[chosen],
        )

    def units(self, num_examples: int) -> Places:
        """Return the number of the query that each example belongs to; documents to the first."""
        units = np.zeros(num_examples, dtype=np.int64)
        units[self.queries] = np.arange(len(self.queries))
        return units


@dataclass(frozen=True)
class Ranks:
    """Where the relevant documents of one query stand, arrays of shape `(num_relevant,)`.

    `above` documents are nearer to the query, and `tied` are as near, the document among them.
    """

    above: Places
    tied: Places
    grades: Floats


def search(
    queries: Vectors, documents: Vectors, problem: Problem, similarity: str
) -> tuple[list[Ranks], Places]:
    """Return the ranks of what is relevant to each query, and the place of its first document.

    `queries` has shape `(num_queries, width)`, `documents` `(num_documents, width)`, and
    `similarity` is one of `SIMILARITIES`.
    """
    if similarity == "cosine":
        queries, documents = _unit(queries), _unit(documents)
    found: list[Ranks] = []
    first: list[int] = []
    for number, row in enumerate(_similarities(queries, documents)):
        if problem.own[number] >= 0:
            row[problem.own[number]] = -np.inf
        near = row[problem.relevant[number], None]  # (num_relevant, 1)
        above, tied = (row > near).sum(axis=1), (row == near).sum(axis=1)
        found.append(Ranks(above, tied, problem.grades[number]))
        first.append(int(row.argmax()))
    return found, np.array(first)


def recall(ranks: Ranks) -> float:
    """Return the share of the relevant documents that are among the first ten (as trec_eval).

    >>> recall(Ranks(np.array([0, 12]), np.array([1, 1]), np.array([1.0, 1.0])))
    0.5
    """
    within = np.clip((DEPTH - ranks.above) / ranks.tied, 0.0, 1.0)
    return float(within.mean())


def ndcg(ranks: Ranks) -> float:
    """Return NDCG@10 with grades as gains (linear, as in trec_eval and scikit-learn).

    Ref: Järvelin & Kekäläinen 2002, ACM TOIS 20:422; ties: McSherry & Najork 2008, ECIR, eq. 4.

    >>> ndcg(Ranks(np.array([0]), np.array([1]), np.array([3.0])))
    1.0
    """
    below = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(DEPTH) + 2))])
    ends = np.minimum(ranks.above + ranks.tied, DEPTH)
    starts = np.minimum(ranks.above, DEPTH)
    gained = np.sum(ranks.grades * (below[ends] - below[starts]) / ranks.tied)
    ideal = np.sort(ranks.grades)[::-1][:DEPTH]
    return float(gained / np.sum(ideal / np.log2(np.arange(len(ideal)) + 2)))


def reciprocal_rank(ranks: Ranks) -> float:
    """Return 1 / the place of the first relevant document, 0 beyond place ten.

    Of t documents that tie, r of them relevant, the first relevant one is at place j of them in
    C(t - j, r - 1) of C(t, r) orders.

    >>> reciprocal_rank(Ranks(np.array([3, 1]), np.array([1, 1]), np.array([1.0, 1.0])))
    0.5
    """
    best = int(ranks.above.argmin())
    above, tied = int(ranks.above[best]), int(ranks.tied[best])
    hits = int(np.sum(ranks.above == above))
    orders = math.comb(tied, hits)
    last = min(tied - hits + 1, DEPTH - above)
    return sum(math.comb(tied - j, hits - 1) / orders / (above + j) for j in range(1, last + 1))


def usual_documents(problem: Problem) -> Vectors:
    """Return a vector of one number for each document, by which the best same order is found.

    The higher the number the more is gained by finding the document for every query.
    """
    gains = np.zeros(len(problem.documents))
    for relevant, grades in zip(problem.relevant, problem.grades, strict=True):
        gains[relevant] += grades / grades.sum()
    ranks = np.empty(len(gains))
    ranks[np.argsort(-gains, kind="stable")] = np.arange(len(gains), 0, -1)
    return ranks[:, None].astype(np.float32)


def _similarities(queries: Vectors, documents: Vectors) -> Iterator[NDArray[np.float32]]:
    """Yield what each query is like each document, shape `(num_documents,)`."""
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        yield from queries[start : start + _QUERIES_AT_ONCE] @ documents.T


def _unit(vectors: Vectors) -> Vectors:
    """Return the vectors with length 1; one of zeros, which has no direction, stays."""
    precise = vectors.astype(np.float64)
    lengths = np.linalg.norm(precise, axis=1, keepdims=True)
    return (precise / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
