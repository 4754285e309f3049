"""Scores of vectors: against the untouched checkpoint's, and against grades of pairs."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.models.torch_model import TorchModel
from compressor.tasks import Truth, Vectors, load_task

TASK = load_task("sentence-embedding")
TEXTS = tuple(f"text {index}" for index in range(30))


def vectors(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(30, 6)).astype(np.float32)


def test_the_untouched_model_agrees_with_itself():
    truth = Truth(TEXTS)
    assert TASK.score("cosine", Vectors(vectors(0)), truth).value == pytest.approx(1.0)
    assert TASK.score("rank_agreement", Vectors(vectors(0)), truth).value == 1.0


def test_cosine_is_the_mean_over_texts_of_the_similarity_to_the_reference():
    before = TASK.score("cosine", Vectors(vectors(0)), Truth(TEXTS))
    turned = vectors(0)
    turned[:3] *= -1  # the cosine of three of thirty becomes -1: (27 - 3) / 30
    score = TASK.score("cosine", Vectors(turned), Truth(TEXTS, reference=before))
    assert score.value == pytest.approx(0.8)
    assert score.shares is not None
    assert score.shares[:4] == pytest.approx([-1, -1, -1, 1])


def test_rank_agreement_ignores_turning_and_scaling_all_vectors():
    before = TASK.score("rank_agreement", Vectors(vectors(0)), Truth(TEXTS))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    same = (3 * vectors(0) @ rotation).astype(np.float32)
    truth = Truth(TEXTS, reference=before)
    assert TASK.score("rank_agreement", Vectors(same), truth).value == 1.0
    # Of ten neighbours, a random choice among 29 keeps 10/29 of them on average.
    assert TASK.score("rank_agreement", Vectors(vectors(2)), truth).value == pytest.approx(
        10 / 29, abs=0.1
    )


def test_spearman_compares_neighbouring_texts_with_their_grade():
    # The cosines of the three pairs are 1, 0 and -1.
    pairs = np.array([[1, 0], [2, 0], [1, 0], [0, 3], [1, 0], [-1, 0]], dtype=np.float32)
    texts = TEXTS[:6]
    rising = Truth(texts, grades=np.array([5.0, 2.5, 0.0]))
    score = TASK.score("spearman", Vectors(pairs), rising)
    assert (score.value, score.num_examples) == (pytest.approx(1.0), 3)
    assert score.shares == pytest.approx([1, 0, -1])
    falling = Truth(texts, grades=np.array([1.0, 2.0, 4.0]))
    assert TASK.score("spearman", Vectors(pairs), falling).value == pytest.approx(-1.0)


def test_the_prediction_of_a_text_is_its_nearest_neighbour():
    found = np.array([[1, 0], [0.9, 0.1], [0, 1]], dtype=np.float32)
    assert TASK.score("cosine", Vectors(found), Truth(TEXTS[:3])).outcomes.tolist() == [1, 0, 1]


def test_vectors_of_another_width_are_refused():
    before = TASK.score("cosine", Vectors(vectors(0)), Truth(TEXTS))
    with pytest.raises(ValueError, match=r"\(30, 3\) cannot be compared .* \(30, 6\)"):
        TASK.score("cosine", Vectors(vectors(0)[:, :3]), Truth(TEXTS, reference=before))


@pytest.mark.parametrize(
    ("metric", "texts", "reason"),
    [
        ("spearman", TEXTS, "no graded pairs"),
        ("rank_agreement", TEXTS[:20], "holds 20 different texts"),
        ("rank_agreement", TEXTS[:20] * 3, "holds 20 different texts"),
        ("cosine", ("a", "b", "a"), "holds 2 different texts"),
    ],
)
def test_what_cannot_be_scored_is_known_before_a_model_runs(
    metric: str, texts: tuple[str, ...], reason: str
):
    assert reason in str(TASK.unscorable(metric, Truth(texts)))


def test_what_can_be_scored_has_no_objection():
    assert TASK.unscorable("rank_agreement", Truth(TEXTS)) is None
    assert TASK.unscorable("spearman", Truth(TEXTS, grades=np.arange(15.0))) is None


def test_a_pair_is_no_input(tiny_encoder: TorchModel):
    with pytest.raises(ValueError, match="an embedding is of one text"):
        tiny_encoder.task.encode(tiny_encoder.preprocessor, [("a film", "a plot")])


def test_the_5th_percentile_is_the_cosine_that_all_but_one_in_twenty_reach():
    before = np.tile([[1.0, 0.0]], (40, 1)).astype(np.float32)
    angles = np.linspace(0.0, 1.0, 40)
    after = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    texts = tuple(f"text {row}" for row in range(40))
    reference = TASK.score("cosine_p5", Vectors(before), Truth(texts))
    score = TASK.score("cosine_p5", Vectors(after), Truth(texts, reference=reference))
    assert reference.value == pytest.approx(1.0)
    assert score.value == pytest.approx(np.cos(angles[38]))  # two of forty are one in twenty
