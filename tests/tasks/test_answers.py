"""Answers against formulas that are written here anew: SQuAD's script, the pipeline's choice."""

from __future__ import annotations

import collections
import re
import string

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.runtime.candidates import Candidate, best_candidates
from compressor.runtime.windows import Window
from compressor.tasks.answers import Gold, GoldAnswer, is_exact, normalized, overlap

WORDS = ["The", "the", "a", "An", "Paris", "paris,", "U.S.", "new-york", "42", "é", ".", "and"]


def squad_normalize(text: str) -> str:
    """Normalize in the four steps of the evaluation script of SQuAD 2, in its order."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    text = re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", text)
    return " ".join(text.split())


def squad_f1(gold: str, answer: str) -> float:
    gold_words, words = squad_normalize(gold).split(), squad_normalize(answer).split()
    same = sum((collections.Counter(gold_words) & collections.Counter(words)).values())
    if len(gold_words) == 0 or len(words) == 0:
        return float(gold_words == words)
    if same == 0:
        return 0.0
    precision, recall = same / len(words), same / len(gold_words)
    return (2 * precision * recall) / (precision + recall)


def squad_scores(answer: str, gold: Gold) -> tuple[float, float]:
    texts = [item.text for item in gold if squad_normalize(item.text)]
    if not texts:
        texts = [""]
    exact = max(int(squad_normalize(text) == squad_normalize(answer)) for text in texts)
    return exact, max(squad_f1(text, answer) for text in texts)


def drawn(random: np.random.Generator) -> str:
    return " ".join(random.choice(WORDS, int(random.integers(0, 5))))


def test_scores_are_those_of_the_script_of_squad_on_random_answers():
    random = np.random.default_rng(0)
    seen = []
    for _ in range(3000):
        gold = tuple(GoldAnswer(drawn(random), 0) for _ in range(int(random.integers(0, 4))))
        answer = drawn(random)
        exact, f1 = squad_scores(answer, gold)
        assert is_exact(answer, gold) == bool(exact)
        assert overlap(answer, gold) == pytest.approx(f1, abs=1e-12)
        seen.append((exact, f1))
    exacts, f1s = np.array(seen).T
    assert 0.05 < exacts.mean() < f1s.mean() < 0.9


def test_case_punctuation_articles_and_spaces_do_not_count():
    assert normalized("The  U.S. -- and\tan Isle.") == "us and isle"
    assert is_exact("the Eiffel Tower!", (GoldAnswer("eiffel tower", 3),))
    assert overlap("a big red dog", (GoldAnswer("red dog", 3),)) == pytest.approx(0.8)


def test_no_answer_is_right_only_where_there_is_none():
    gold = (GoldAnswer("Paris", 0),)
    assert is_exact("", ())
    assert overlap("", ()) == 1.0
    assert not is_exact("Paris", ())
    assert overlap("Paris", ()) == 0.0
    assert overlap("", gold) == 0.0


def softmax(values: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(values.astype(np.float64) - values.max())
    return shifted / shifted.sum()


def pipelines_choice(
    windows: list[Window], logits: list[NDArray[np.float32]], top: int
) -> list[tuple[float, int, int]]:
    """Choose as the pipeline: outer product, `tril(triu(...), max_answer_len - 1)`, the best."""
    least, found = 1e6, []
    for window, values in zip(windows, logits, strict=True):
        starts, ends = softmax(values[:, 0]), softmax(values[:, 1])
        least = min(least, starts[0] * ends[0])
        starts[0] = ends[0] = 0.0
        outer = np.matmul(np.expand_dims(starts, -1), np.expand_dims(ends, 0))
        candidates = np.tril(np.triu(outer), 15 - 1)
        for place in np.argsort(-candidates.flatten()):
            first, last = np.unravel_index(place, candidates.shape)
            if candidates[first, last] > 0:
                token = window.start - 1
                found.append((candidates[first, last], token + first, token + last))
    best: dict[tuple[int, int], float] = {}
    for score, first, last in found:
        best[first, last] = max(best.get((first, last), 0.0), score)
    ranked = [(score, *place) for place, score in best.items()]
    ranked.append((least, -1, -1))
    return sorted(ranked, reverse=True)[:top]


@pytest.mark.parametrize("sizes", [(1,), (7,), (40,), (20, 20, 20), (3, 3)])
def test_answers_are_chosen_as_the_pipeline_does(sizes: tuple[int, ...]):
    random = np.random.default_rng(len(sizes) + sizes[0])
    windows = [Window(at * (size // 2), at * (size // 2) + size) for at, size in enumerate(sizes)]
    for _ in range(40):
        logits = [random.normal(0, 3, (size + 1, 2)).astype(np.float32) for size in sizes]
        found = best_candidates(windows, logits, 5)
        expected = pipelines_choice(windows, logits, 5)
        assert [(item.first, item.last) for item in found] == [item[1:] for item in expected]
        np.testing.assert_allclose(
            [item.score for item in found], [item[0] for item in expected], rtol=1e-12
        )


def test_no_answer_needs_every_window_to_say_so():
    def logits(nothing: float, token: float) -> NDArray[np.float32]:
        return np.array([[nothing, nothing], [token, token]], dtype=np.float32)

    windows = [Window(0, 1), Window(1, 2)]
    assert best_candidates(windows, [logits(9, 0), logits(9, 0)], 1)[0].first == -1
    assert best_candidates(windows, [logits(9, 0), logits(0, 9)], 1)[0].first == 1


def test_an_empty_context_has_no_answer():
    nothing = np.zeros((1, 2), dtype=np.float32)
    assert best_candidates([Window(0, 0)], [nothing], 5) == [Candidate(1.0, -1, -1)]


def test_an_answer_has_at_most_15_tokens():
    values = np.zeros((31, 2), dtype=np.float32)
    values[1, 0] = values[30, 1] = 50  # the surest start and end are too far apart
    found = best_candidates([Window(0, 30)], [values], 5)
    assert all(item.last - item.first < 15 for item in found)
