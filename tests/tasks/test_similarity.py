"""Neighbours and cosines of vectors whose geometry is plain to see."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from compressor.tasks.similarity import (
    MAX_CANDIDATES,
    _largest,
    candidates,
    cosines,
    kept_neighbours,
    nearest,
    rank_correlation,
)


def on_a_circle(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_similarity_is_that_of_angles_whatever_the_lengths():
    first, second = on_a_circle(0, 0, 90), on_a_circle(60, 180, 90)
    assert cosines(5 * first, 0.1 * second) == pytest.approx([0.5, -1.0, 1.0], abs=1e-6)


def test_the_nearest_come_first_and_no_text_is_near_to_itself():
    found = nearest(on_a_circle(0, 10, 25, 90), ["a", "b", "c", "d"], 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_a_text_that_occurs_twice_is_no_neighbour_of_itself():
    found = nearest(on_a_circle(0, 0, 30, 90), ["a", "a", "b", "c"], 1)
    assert found.tolist() == [[2], [2], [0], [2]]


def test_neighbours_are_those_of_an_independent_distance():
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    distances = cdist(vectors, vectors, "cosine") + 9 * np.eye(60)
    expected = distances.argsort(axis=1)[:, :5]
    assert nearest(vectors, [str(index) for index in range(60)], 5).tolist() == expected.tolist()


def test_more_texts_than_candidates_still_find_neighbours_among_them():
    texts = [str(index) for index in range(MAX_CANDIDATES + 500)]
    places = candidates(texts)
    assert len(set(places.tolist())) == MAX_CANDIDATES
    assert (places[0], places[-1]) == (0, len(texts) - 1)


def test_kept_neighbours_count_whatever_their_order():
    before = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    after = np.array([[4, 3, 2, 1], [5, 6, 1, 2]])
    assert kept_neighbours(before, after).tolist() == [1.0, 0.5]


def test_rank_correlation_of_ranks_and_of_constants():
    # Ranks 1 2 3 4 against 2 1 3 4: 1 - 6 * 2 / (4 * 15) = 0.8.
    assert rank_correlation(np.array([0.1, 0.2, 0.3, 0.9]), np.array([2.0, 1, 3, 4])) == (
        pytest.approx(0.8)
    )
    assert rank_correlation(np.full(4, 0.3), np.arange(4.0)) == 0.0


@pytest.mark.parametrize("count", [1, 3, 10])
def test_of_texts_as_near_as_each_other_the_first_ones_are_taken(count: int):
    similarities = np.random.default_rng(0).integers(0, 4, (50, 200)).astype(np.float32)
    expected = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(_largest(similarities, count), expected)
