"""What models that know nothing score, by hand or by other formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import f1_score

from compressor.measurements import Score
from compressor.tasks import Truth, load_task
from compressor.tasks.similarity import to_the_mean, word_counts

TEXT, VECTORS = load_task("text-classification"), load_task("sentence-embedding")
NAMES = ("no", "yes", "maybe")


def predicted(metric: str, outcomes: list[int]) -> Score:
    return Score(metric, 0.0, len(outcomes), np.array(outcomes))


def best(metric: str, outcomes: list[int], labels: list[int] | None) -> dict[str, float]:
    truth = Truth(["text"] * len(outcomes), None if labels is None else np.array(labels))
    found = TEXT.guesses(predicted(metric, outcomes), truth, NAMES)
    return {guess.who: guess.score.value for guess in found}


def test_accuracy_is_guessed_by_the_most_frequent_label():
    found = best("accuracy", [0, 1, 1, 1, 1], [0, 0, 0, 1, 2])
    assert found == {"a model that predicts 'no' for everything": 0.6}


def test_agreement_is_guessed_by_the_most_frequent_prediction_whatever_the_labels():
    found = best("agreement", [0, 1, 1, 1, 1], [0, 0, 0, 1, 2])
    assert found == {"a model that predicts 'yes' for everything": 0.8}


def test_macro_f1_is_guessed_by_drawing_labels_as_often_as_they_come():
    """With one label in ten, drawn ones reach 1/2 on the average, constant ones 0.9 / 1.9."""
    labels = [0] * 360 + [1] * 40
    found = best("f1_macro", labels, labels)
    constant = found.pop("a model that predicts 'no' for everything")
    assert constant == pytest.approx(f1_score(labels, [0] * 400, average="macro"))
    assert constant == pytest.approx(0.9 / 1.9, abs=1e-6)
    assert all(0.5 < value < 0.6 for value in found.values())


def test_matthews_correlation_of_a_guess_is_near_0():
    labels = [0, 1] * 200
    found = best("matthews_correlation", labels, labels)
    assert found.pop("a model that predicts 'no' for everything") == 0.0
    assert all(0 < value < 3 / np.sqrt(400) for value in found.values())


def test_one_prediction_for_everything_is_said_by_its_name():
    assert TEXT.constant(predicted("accuracy", [1, 1]), NAMES) == "predicts 'yes'"
    assert TEXT.constant(predicted("accuracy", [1, 0]), NAMES) is None


def encoded(metric: str, vectors: np.ndarray, shares: np.ndarray) -> Score:
    outcomes = np.zeros(len(vectors), dtype=np.int64)
    return Score(metric, 1.0, len(shares), outcomes, shares=shares, kept={"vectors": vectors})


def test_no_single_vector_is_nearer_to_all_than_the_mean():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(50, 4)).astype(np.float32)
    vectors[:, 0] += 1
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    others = random.normal(size=(2000, 4))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    best_of_others = (unit @ others.T).mean(axis=0).max()
    found = to_the_mean(vectors).mean()
    assert found == pytest.approx(np.linalg.norm(unit.mean(axis=0)), abs=1e-6)
    assert best_of_others <= found < best_of_others + 0.05
    truth = Truth([f"text {index}" for index in range(50)])
    [guess] = VECTORS.guesses(encoded("cosine", vectors, np.ones(50)), truth, ())
    assert guess.score.value == pytest.approx(found)


def test_neighbours_are_guessed_by_words_in_common():
    words = ["good", "bad", "film", "plot", "very"]
    texts = [" ".join(chosen) for chosen in itertools.permutations(words, 3)]
    vectors = word_counts(texts)
    found = VECTORS.guesses(encoded("rank_agreement", vectors, np.ones(60)), Truth(texts), ())
    values = {guess.who: guess.score.value for guess in found}
    assert values["a model that only counts the words that texts share"] == 1.0
    assert 10 / 59 <= values["a model that finds the same neighbours for every text"] < 1.0


def test_similarities_are_guessed_by_words_in_common():
    texts = ["a b", "a b", "a b", "b c", "a b", "c d"]
    shares = np.array([0.9, 0.5, 0.1])
    truth = Truth(texts, grades=np.array([5.0, 3.0, 1.0]))
    vectors = np.ones((6, 2), dtype=np.float32)
    found = VECTORS.guesses(encoded("spearman", vectors, shares), truth, ())
    assert [guess.score.value for guess in found] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1, 2], [2, 4], [3, 6]], "gives the same vector"),
        ([[0, 0], [0, 0], [0, 0]], "gives the same vector"),
        ([[1, 2], [2, 4.000001], [3, 6]], "gives the same vector"),
        ([[1, 2], [2, 4.01], [3, 6]], None),
    ],
)
def test_vectors_that_point_one_way_are_all_the_same(vectors: list[list[float]], said: str | None):
    score = encoded("cosine", np.array(vectors, dtype=np.float32), np.ones(3))
    assert VECTORS.constant(score, ()) == said
