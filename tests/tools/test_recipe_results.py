"""Results that the documentation quotes are those of the recipes as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.recipe.recipe import load_recipe

ROOT = Path(__file__).parents[2]
MEASURED = (
    "ner-pii",
    "reranker",
    "minilm-embeddings",
    "minilm-embeddings-distilled",
    "minilm-embeddings-smallest",
)


@pytest.mark.parametrize("name", MEASURED)
def test_the_results_are_of_this_recipe(name: str):
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    results = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    rows = results["rows"]
    assert results["about"]["recipe"] == f"{name}.yaml"
    assert {row["metric"] for row in rows} == {recipe.budget.metric_name}
    assert {len(row["tries"]) for row in rows} == {len(recipe.passes)}
    assert len({row["seed"] for row in rows}) == len(rows)
    shapes = {
        f"batch {size}, {length} tokens"
        for size in recipe.benchmark.batch_sizes
        for length in recipe.benchmark.sequence_lengths or ()
    }
    assert {shape for row in rows for shape in row["speeds"]} == shapes


@pytest.mark.parametrize("name", MEASURED)
def test_no_run_lost_more_than_the_recipe_allows(name: str):
    budget = load_recipe(ROOT / "recipes" / f"{name}.yaml").budget
    results = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    for row in results["rows"]:
        assert row["verdict"] == "passed"
        for split in ("search", "certification"):
            assert row[split]["points_lost"] <= 100 * budget.max_drop
        proven = row["certification"]["points_lost_at_most"] <= 100 * budget.max_drop
        assert (row["certification"]["verdict"] == "certified") == proven
