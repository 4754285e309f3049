"""Scores of retrieval by other implementations, and what models that know nothing get of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from compressor.certificate import certify_scores
from compressor.errors import RecipeError
from compressor.measurements import Certificate, Score
from compressor.runtime.prompts import Document, Query
from compressor.tasks import Truth, Vectors, load_task
from compressor.tasks.retrieval import (
    Corpus,
    Judged,
    Problem,
    Ranks,
    ndcg,
    recall,
    reciprocal_rank,
    search,
    unfold,
)
from compressor.tasks.sentence_embedding import RETRIEVAL

TASK = load_task("sentence-embedding")
NAMES = [metric.name for metric in RETRIEVAL]


def labels_of(relevant: list[dict[int, float]], num_documents: int) -> Any:
    labels = np.empty(len(relevant) + num_documents, dtype=object)
    labels[: len(relevant)] = [
        {"id": f"query {number}", "relevant": {f"d{name}": grade for name, grade in own.items()}}
        for number, own in enumerate(relevant)
    ]
    labels[len(relevant) :] = [f"d{name}" for name in range(num_documents)]
    return labels


def random_problem(
    num_queries: int, num_documents: int, *, seed: int = 0
) -> tuple[list[dict[int, float]], Any]:
    """Return 1 to 15 graded documents for each query, and the problem."""
    random = np.random.default_rng(seed)
    relevant = [
        {
            int(name): float(random.integers(1, 4))
            for name in random.choice(num_documents, random.integers(1, 16), replace=False)
        }
        for _ in range(num_queries)
    ]
    return relevant, Problem.of(labels_of(relevant, num_documents))


def random_vectors(count: int, width: int = 8, *, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def grade_rows(relevant: list[dict[int, float]], num_documents: int) -> np.ndarray:
    rows = np.zeros((len(relevant), num_documents))
    for row, own in zip(rows, relevant, strict=True):
        row[list(own)] = list(own.values())
    return rows


@pytest.mark.parametrize("places", [7, 1])  # with one, most documents tie with others
def test_ndcg_is_that_of_scikit_learn_ties_included(places: int):
    relevant, problem = random_problem(60, 80)
    queries, documents = random_vectors(60, seed=1), random_vectors(80, seed=2)
    queries, documents = queries.round(places), documents.round(places)
    ranks, _ = search(queries, documents, problem, "dot")
    similarities, grades = queries @ documents.T, grade_rows(relevant, 80)
    expected = [
        ndcg_score(own[None], row[None], k=10)
        for own, row in zip(grades, similarities, strict=True)
    ]
    np.testing.assert_allclose([ndcg(each) for each in ranks], expected, atol=1e-9)


def test_recall_and_reciprocal_rank_are_those_of_sorted_lists():
    relevant, problem = random_problem(60, 80)
    queries, documents = random_vectors(60, seed=1), random_vectors(80, seed=2)
    ranks, first = search(queries, documents, problem, "cosine")
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, documents)]
    order = np.argsort(-(unit[0] @ unit[1].T), axis=1)
    recalls = [
        len(set(row[:10]) & set(own)) / len(own)
        for row, own in zip(order.tolist(), relevant, strict=True)
    ]
    inverse = [
        next((1 / place for place, name in enumerate(row[:10], start=1) if name in own), 0.0)
        for row, own in zip(order.tolist(), relevant, strict=True)
    ]
    np.testing.assert_allclose([recall(each) for each in ranks], recalls)
    np.testing.assert_allclose([reciprocal_rank(each) for each in ranks], inverse)
    assert first.tolist() == order[:, 0].tolist()


@pytest.mark.parametrize(
    ("score", "of_order"),
    [
        (recall, lambda places: np.mean([place < 10 for place in places])),
        (reciprocal_rank, lambda places: 1 / (min(places) + 1) if min(places) < 10 else 0.0),
    ],
)
@pytest.mark.parametrize("above", [0, 7, 10])
def test_ties_count_as_the_mean_over_all_orders(
    score: Callable[[Ranks], float], of_order: Callable[[list[int]], float], above: int
):
    """Let `above` documents be nearer, then five tie: two of them are relevant, and one below."""
    ranks = Ranks(np.array([above, above, above + 5]), np.array([5, 5, 1]), np.ones(3))
    orders = [
        of_order([above + first, above + second, above + 5])
        for first, second in itertools.permutations(range(5), 2)
    ]
    assert score(ranks) == pytest.approx(np.mean(orders))


def test_a_query_that_is_itself_a_document_does_not_find_itself():
    labels = np.array([{"id": "d0", "relevant": {"d1": 1.0}}, "d0", "d1", "d2"], dtype=object)
    vectors = np.array([[1, 0], [1, 0], [0.9, 0.1], [0, 1]], np.float32)
    problem = Problem.of(labels)
    [ranks], first = search(vectors[:1], vectors[1:], problem, "cosine")
    assert (ranks.above.tolist(), first.tolist()) == ([0], [1])


def test_dot_products_and_cosines_find_other_documents():
    problem = Problem.of(labels_of([{0: 1.0}], 2))
    query, documents = np.ones((1, 2), np.float32), np.array([[1, 1], [5, 0]], np.float32)
    assert search(query, documents, problem, "cosine")[1].tolist() == [0]
    assert search(query, documents, problem, "dot")[1].tolist() == [1]


# What becomes of rows.


def judged(text: str, corpus: Corpus, **relevant: float) -> Judged:
    return Judged(text, text, relevant, corpus)


CORPUS = Corpus({name: f"text {name}" for name in "abcdefgh"})


def test_queries_come_first_and_then_all_documents_the_relevant_ones_ahead():
    found = unfold([judged("x", CORPUS, c=2.0), judged("y", CORPUS, b=1.0)], None, whole=True)
    assert found.examples[:2] == (Query("x"), Query("y"))
    assert [item.text[-1] for item in found.examples[2:]] == list("cbadefgh")
    assert all(isinstance(item, Document) for item in found.examples[2:])
    assert found.sources.tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0]
    assert found.labels is not None
    assert found.labels[0] == {"id": "x", "relevant": {"c": 2.0}}


def test_training_reads_relevant_documents_alone_without_labels():
    found = unfold([judged("x", CORPUS, c=2.0), judged("y", CORPUS)], None, whole=False)
    assert found.examples == (Query("x"), Query("y"), Document("text c"))
    assert found.labels is None


def test_pairs_with_one_query_are_one_and_grades_of_0_are_not_relevant():
    rows = [judged("x", CORPUS, a=1.0), judged("y", CORPUS, b=1.0), judged("x", CORPUS, c=1.0)]
    found = unfold([*rows, judged("x", CORPUS, d=1.0)], np.array([3.0, 1.0, 2.0, 0.0]), whole=True)
    assert found.labels is not None
    assert found.labels[:2].tolist() == [
        {"id": "x", "relevant": {"a": 3.0, "c": 2.0}},
        {"id": "y", "relevant": {"b": 1.0}},
    ]
    assert len(found.examples) == 2 + 8  # the document of grade 0 is searched all the same


def test_a_query_to_which_nothing_is_relevant_is_refused():
    with pytest.raises(RecipeError, match=r"no document is relevant to 1 query, such as 'y'"):
        unfold([judged("x", CORPUS, a=1.0), judged("y", CORPUS)], None, whole=True)


def test_fewer_documents_are_those_that_are_relevant_and_the_same_others():
    few = Corpus(CORPUS.documents, 4)
    one, other = few.chosen(["h"]), few.chosen(["a", "b"])
    assert one[0] == "h"
    assert other[:2] == ["a", "b"]
    assert (len(one), len(other)) == (4, 4)
    assert set(other[2:]) <= {*one[1:], "h"} | set(few.chosen([]))
    with pytest.raises(RecipeError, match="max_documents: is 4, and the queries call 5 documents"):
        few.chosen(list("abcde"))


# What a score is worth.


def task_problem(num_queries: int = 300, num_documents: int = 400) -> tuple[Truth, np.ndarray]:
    """Return queries, each near its one relevant document, and vectors that find many of them."""
    random = np.random.default_rng(0)
    chosen = random.integers(num_documents, size=num_queries)
    labels = labels_of([{int(name): 1.0} for name in chosen], num_documents)
    documents = random.normal(size=(num_documents, 16))
    queries = documents[chosen] + 0.7 * random.normal(size=(num_queries, 16))
    examples = [
        *(Query(f"find {number}") for number in range(num_queries)),
        *(Document(f"text {number}") for number in range(num_documents)),
    ]
    return Truth(examples, labels), np.concatenate([queries, documents]).astype(np.float32)


def scored(metric: str, vectors: np.ndarray, truth: Truth, before: Score | None = None) -> Score:
    own = Truth(truth.examples, truth.labels, None, before)
    assert TASK.unscorable(metric, own) is None
    return TASK.score(metric, Vectors(vectors), own)


def certificate(metric: str, after: np.ndarray, *, max_drop: float) -> Certificate:
    truth, vectors = task_problem()
    before = scored(metric, vectors, truth)
    assert before.value > 0.7
    return certify_scores(
        before,
        scored(metric, after, truth, before),
        truth.labels,
        guesses=TASK.guesses(before, truth, ()),
        max_drop=max_drop,
        seed=0,
        resamples=999,
    )


@pytest.mark.parametrize("metric", NAMES)
def test_a_model_that_finds_the_same_is_certified(metric: str):
    _, vectors = task_problem()
    noise = 0.05 * random_vectors(len(vectors), 16, seed=5)
    assert certificate(metric, vectors + noise, max_drop=0.05).verdict == "certified"


RUINED = {
    "zeros": np.zeros((700, 16), np.float32),
    "one vector": np.ones((700, 16), np.float32),
    "random": random_vectors(700, 16, seed=9),
}


@pytest.mark.parametrize("ruin", RUINED)
@pytest.mark.parametrize("metric", NAMES)
@pytest.mark.parametrize("max_drop", [0.05, 0.3, 0.999])
def test_a_ruined_model_is_never_certified(metric: str, ruin: str, max_drop: float):
    proof = certificate(metric, RUINED[ruin], max_drop=max_drop)
    assert proof.verdict != "certified"


@pytest.mark.parametrize("metric", NAMES)
def test_a_model_of_one_vector_scores_what_a_random_order_does(metric: str):
    truth, vectors = task_problem()
    before = scored(metric, vectors, truth)
    ruined = scored(metric, RUINED["zeros"], truth, before)
    by_chance = {
        "recall@10": 10 / 400,
        "ndcg@10": sum(1 / np.log2(place + 1) for place in range(1, 11)) / 400,
        "mrr@10": sum(1 / place for place in range(1, 11)) / 400,
    }
    assert ruined.value == pytest.approx(by_chance[metric.removesuffix("_original_index")])


@pytest.mark.parametrize("metric", NAMES[:3])
def test_the_best_same_documents_and_words_in_common_are_guessed(metric: str):
    relevant = [{number % 3 if number % 2 else number % 30: 1.0} for number in range(60)]
    labels = labels_of(relevant, 40)
    texts = [Query(f"word{number % 3 if number % 2 else number % 30}") for number in range(60)]
    documents = [Document(f"word{number}") for number in range(40)]
    truth = Truth([*texts, *documents], labels)
    before = scored(metric, random_vectors(100), truth)
    same, words = TASK.guesses(before, truth, ())
    counts = np.sort(np.bincount([next(iter(own)) for own in relevant]))[::-1][:10]
    gains = {
        "recall@10": np.ones(10),
        "ndcg@10": 1 / np.log2(np.arange(2, 12)),
        "mrr@10": 1 / np.arange(1, 11),
    }[metric]
    assert same.score.value == pytest.approx(float(counts @ gains) / 60)
    assert words.score.value > 0.9


def test_queries_search_the_vectors_of_documents_that_the_original_gave():
    truth, vectors = task_problem()
    before = scored("recall@10", vectors, truth)
    turned = np.roll(vectors, 1, axis=1)  # all vectors turn alike, so among them nothing changes
    assert scored("recall@10", turned, truth, before).value == pytest.approx(before.value)
    stored = scored("recall@10_original_index", turned, truth, before)
    assert stored.value < 0.2
    same_documents = np.concatenate([vectors[:300], RUINED["random"][300:]])
    kept = scored("recall@10_original_index", same_documents, truth, before)
    assert kept.value == pytest.approx(before.value)


def test_the_outcome_of_a_query_is_the_document_that_it_finds_first():
    truth, vectors = task_problem()
    before = scored("ndcg@10", vectors, truth)
    assert set(before.outcomes[:300].tolist()) <= set(range(300, 700))
    assert before.outcomes[300:].tolist() == list(range(300, 700))
    after = scored("ndcg@10", vectors + 0.3 * random_vectors(700, 16, seed=3), truth, before)
    flips = TASK.flips(before, after, truth, ())
    assert flips
    assert all(flip.position < 300 <= min(flip.before, flip.after) for flip in flips)


@pytest.mark.parametrize("metric", NAMES)
def test_rows_without_relevance_or_with_few_documents_are_refused(metric: str):
    why = TASK.unscorable(metric, Truth(["a", "b", "c"]))
    assert why is not None
    assert "give queries, corpus and qrels" in why
    why = TASK.unscorable(metric, Truth([Query("a")] * 21, labels_of([{0: 1.0}], 20)))
    assert why is not None
    assert "20 documents" in why


def test_a_checkpoint_that_compares_by_distance_is_refused_for_retrieval_alone():
    task = replace(TASK, similarity="euclidean")
    truth, _ = task_problem()
    why = task.unscorable("ndcg@10", truth)
    assert why is not None
    assert "similarity_fn_name: euclidean" in why
    assert task.unscorable("cosine", truth) is None
