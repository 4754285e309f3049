"""A training that is steered by scores on the search split, in a whole run."""

import json
from pathlib import Path
from typing import Any

import pytest

import compressor
from compressor.measurements import RunReport


def run(recipe: dict[str, Any], output: Path) -> RunReport:
    return compressor.run(compressor.Recipe.model_validate(recipe), output=output, device="cpu")


@pytest.fixture(scope="module")
def recipe(bert_recipe: dict[str, Any]) -> dict[str, Any]:
    search = bert_recipe["data"]["search"]
    training = {
        "kind": "finetune", "epochs": 2, "batch_size": 12, "learning_rate": 3e-2,
        "evaluations": 4, "keep_best": True,
    }  # fmt: skip
    data = {**bert_recipe["data"], "train": search}
    return {**bert_recipe, "data": data, "passes": [training], "benchmark": {"providers": []}}


def test_the_weights_with_the_best_score_on_the_search_split_go_on(
    recipe: dict[str, Any], tmp_path: Path
):
    report = run(recipe, tmp_path)

    [trained] = report.passes
    [note] = trained.notes
    assert f"scored 4 times on the search split, best {trained.score_after:.4f} after" in note
    assert trained.settings["keep_best"]

    records = [json.loads(path.read_text()) for path in tmp_path.rglob("step.json")]
    keys = [record["depends_on"].get("scorer") for record in records]
    assert len(keys) > 1
    assert len([key for key in keys if key is not None]) == 1  # of the pass alone


def test_a_training_scored_by_code_that_has_changed_is_done_again(
    recipe: dict[str, Any], tmp_path: Path
):
    code = tmp_path / "mine.py"
    code.write_text(
        "def own(inputs):\n"
        "    return [p['label_id'] == k for p, k in zip(inputs.predictions, inputs.labels)]\n"
    )
    budget = {"metric": f"{code}:own", "max_drop": 0.9}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**recipe, "budget": budget, "output": "run"}))
    compressor.run(path, device="cpu", allow_code=True)

    code.write_text(code.read_text().replace("==", "!="))
    again = compressor.run(path, device="cpu", allow_code=True)

    [trained] = again.passes
    assert not trained.reused
