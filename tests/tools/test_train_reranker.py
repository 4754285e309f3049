"""The lists of candidates that a reranker is trained and judged on give nothing away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

WORDS = ["river", "bank", "money", "water", "tall", "tree", "house", "road", "green", "fast"]


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("train_reranker")


@pytest.fixture(scope="module")
def glosses() -> list[str]:
    random = np.random.default_rng(0)
    return [f"{' '.join(random.choice(WORDS, size=6))} {number}" for number in range(200)]


def queries(tool: ModuleType, count: int) -> list[object]:
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(WORDS, size=3)) for _ in range(count)]
    return [tool.Query(f"q{number}", text, number // 2) for number, text in enumerate(texts)]


def test_each_query_has_its_right_gloss_once_and_others_that_match(
    tool: ModuleType, glosses: list[str]
):
    index, random = tool.Bm25(glosses), np.random.default_rng(2)
    own = queries(tool, 40)
    rows = tool.candidates(own, glosses, index, random, hard=7, easy=2)
    lists = [rows[start : start + 10] for start in range(0, len(rows), 10)]
    assert len(lists) == 40
    assert all(sum(row.relevance for row in found) == 1 for found in lists)
    assert all(len({row.passage for row in found}) == 10 for found in lists)
    places = [[row.relevance for row in found].index(1) for found in lists]
    assert len(set(places)) > 5  # in any place
    best = {glosses[place] for place in index.best(own[0].text, 8)}
    assert len(best & {row.passage for row in lists[0]}) >= 7


def test_no_gloss_of_those_held_out_is_a_candidate(tool: ModuleType, glosses: list[str]):
    held = np.arange(100, 200)
    rows = tool.candidates(
        queries(tool, 20),
        glosses,
        tool.Bm25(glosses),
        np.random.default_rng(3),
        hard=3,
        easy=1,
        pool=10,
        without=held,
    )
    assert {row.passage for row in rows}.isdisjoint(glosses[100:])


def test_the_halves_share_no_right_gloss(tool: ModuleType):
    first, second = tool.halves(queries(tool, 60), 20)
    assert (len(first), len(second)) == (20, 40)
    assert {query.right for query in first}.isdisjoint(query.right for query in second)


def test_bm25_of_a_word_that_all_texts_have_is_less_than_of_a_rare_one(tool: ModuleType):
    texts = ["common rare", "common other", "common third", "common fourth"]
    index = tool.Bm25(texts)
    assert index.best("rare", 1).tolist() == [0]
    common, rare = index.scores(["common", "rare"], ["common rare", "common rare"])
    assert 0 < common < rare
    # Equation 3.15 by hand: both texts have the mean length, so the norm is k1.
    assert rare == pytest.approx(np.log1p((4 - 1 + 0.5) / (1 + 0.5)) * 2.2 / (1 + 1.2))


def test_a_query_that_stands_in_both_splits_is_left_out(tool: ModuleType, tmp_path: Path):
    (tmp_path / "queries-dev.tsv").write_text("query_id\ttext\na\tone\nb\ttwo\nc\tone\n")
    (tmp_path / "qrels-dev.tsv").write_text("q\tc\tscore\na\tx\t1\nb\ty\t1\nc\ty\t1\n")
    found = tool.read_queries(tmp_path, "dev", {"x": 0, "y": 1}, without={"two"})
    assert found == [tool.Query("a", "one", 0)]
