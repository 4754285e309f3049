"""The budget on attributions, through whole runs: gated after each pass, and proven in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compressor
from compressor.errors import BudgetExceeded, NotCertified, RecipeError
from compressor.models.torch_model import TorchModel
from compressor.passes import PASSES, PassContext, PassEntry, TorchPass
from compressor.pipeline.attributions import check_explained
from compressor.pipeline.estimate import Pace, plan_of
from compressor.recipe.budget import AccuracyBudget
from compressor.recipe.recipe import load_recipe
from compressor.tasks import load_task

NO_TIMES = {"providers": []}


class OtherReasons(TorchPass):
    """A pass that shuffles what words mean, and leaves every prediction as it was."""

    about = PASSES["finetune"].settings.about
    kind: str = "finetune"

    def apply(self, model: TorchModel, context: PassContext) -> TorchModel:
        """Permute the rows of the table of words that are no special tokens."""
        table = model.module.get_input_embeddings().weight
        order = torch.from_numpy(np.random.RandomState(0).permutation(np.arange(5, len(table))))
        with torch.no_grad():
            table[5:] = table[order].clone()
        return model


def apply(settings: OtherReasons, model: TorchModel, context: PassContext) -> TorchModel:
    """Do the work of the pass of this file."""
    return settings.apply(model, context)


@pytest.fixture(scope="module")
def recipe(tiny_bert_dir: Path, balanced_rows: Path, tmp_path_factory: Any) -> dict[str, Any]:
    """Return a recipe whose rows the tiny BERT labels half and half."""
    folder, lines = tmp_path_factory.mktemp("halves"), balanced_rows.read_text().splitlines()
    rows = {}
    for place, name in enumerate(("search", "certification")):
        (folder / f"{name}.jsonl").write_text("\n".join(lines[place::2]) + "\n")
        rows[name] = {"path": str(folder / f"{name}.jsonl")}
    return {
        "model": {"checkpoint": str(tiny_bert_dir)},
        "data": {"text": "text", "label": "label", **rows},
        "budget": {
            "max_drop": 0.3,
            "min_attribution_agreement": 0.6,
            "slices": ["length", "label"],
            "max_slice_gap": 0.9,
        },
        "passes": [{"kind": "quantize_dynamic"}],
        "benchmark": NO_TIMES,
    }


@pytest.fixture(scope="module")
def finished(recipe: dict[str, Any], tmp_path_factory: Any) -> Path:
    output: Path = tmp_path_factory.mktemp("explained") / "run"
    compressor.run(recipe, output=output, device="cpu")
    return output


def report_in(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "report.json").read_text())
    return content


def test_a_run_proves_that_reasons_stayed(finished: Path):
    found = report_in(finished)["attributions"]
    assert found["verdict"] == "certified"
    assert 0.6 <= found["lower_bound"] < found["agreement"] <= found["upper_bound"] <= 1
    assert found["num_examples"] + found["left_out"] == 60
    assert found["uninformed_most"] < 0.6
    page = (finished / "report.html").read_text()
    assert "<h2>Attributions</h2>" in page
    assert "log-probability of the class that the original predicts" in page
    assert "## Attributions" in (finished / "report.md").read_text()


def test_groups_of_the_same_run_have_error_rates_before_and_after(finished: Path):
    length, label = report_in(finished)["gaps"]
    assert (length["column"], label["column"]) == ("length", "label")
    assert len(length["groups"]) == 3
    # The labels are the original's own predictions.
    assert {group["before"] for group in label["groups"]} == {0.0}
    assert label["difference_before"] == 0.0
    assert label["ratio_before"] is None
    assert label["lower_bound"] <= label["gap"] <= label["upper_bound"]
    assert "Fairness between groups" in (finished / "report.html").read_text()


def test_each_model_is_explained_once(finished: Path):
    names = [step["name"] for step in report_in(finished)["steps"]]
    assert [name for name in names if "attributions" in name] == [
        "baseline: attributions",
        "passes[0] (quantize_dynamic): attributions",
        "artifact: attributions",
        "certification: attributions of the baseline",
        "certification: attributions of the artifact",
    ]


def test_every_step_of_the_run_was_in_the_plan(finished: Path, recipe: dict[str, Any]):
    rows = {"search": 60, "certification": 60}
    planned = plan_of(load_recipe(recipe), rows, Pace(0.001, 8.0), threads=1)
    done = {step["name"] for step in report_in(finished)["steps"]} - {"checkpoint"}
    assert done <= planned.costs.keys()
    without = {**recipe, "budget": {"max_drop": 0.3}}
    cheaper = plan_of(load_recipe(without), rows, Pace(0.001, 8.0), threads=1)
    assert [name for name in planned.costs if name not in cheaper.costs] == [
        name for name in planned.costs if "attributions" in name
    ]
    dearer, cheap = planned.remaining(), cheaper.remaining()
    assert dearer is not None
    assert cheap is not None
    # 5 models explain 60 rows, each read with its 8 pieces hidden in turn and once as it is; two
    # are the untouched checkpoint, and a graph takes 0.4 of its time.
    assert dearer - cheap == pytest.approx((2 + 3 * 0.4) * 60 * 9 * 0.001)


def test_a_pass_that_keeps_predictions_and_changes_reasons_is_caught(
    recipe: dict[str, Any], finished: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(PASSES, "finetune", PassEntry(OtherReasons, __name__))
    budget = {"max_drop": 0.99, "min_attribution_agreement": 0.6}
    with pytest.raises(BudgetExceeded) as caught:
        compressor.run(
            {**recipe, "passes": [{"kind": "finetune"}], "budget": budget},
            output=finished,
            device="cpu",
        )
    error = caught.value
    assert (error.step, error.metric) == ("passes[0] (finetune)", "attribution agreement")
    assert error.drop > error.max_drop == pytest.approx(0.4)
    assert "or lower budget.min_attribution_agreement" in str(error)
    headline = caught.value.report.summary()
    assert "attributions agree with the original's by" in headline


def test_rows_that_prove_too_little_end_the_run_with_6(recipe: dict[str, Any], finished: Path):
    budget = {"max_drop": 0.3, "min_attribution_agreement": 0.96}
    with pytest.raises(NotCertified) as caught:
        compressor.run({**recipe, "budget": budget}, output=finished, device="cpu")
    assert caught.value.metric == "attribution agreement"
    assert "lower budget.min_attribution_agreement" in str(caught.value)
    report = report_in(finished)
    assert report["certificate"]["verdict"] == "certified"
    assert report["attributions"]["verdict"] == "inconclusive"
    assert "attributions agree with" in caught.value.report.summary()


def test_a_task_without_attributions_refuses_the_budget():
    budget = AccuracyBudget(max_drop=0.1, min_attribution_agreement=0.5)
    with pytest.raises(RecipeError, match=r"min_attribution_agreement: masked-language-modeling"):
        check_explained(budget, load_task("masked-language-modeling"))


def test_left_out_it_is_not_written(recipe: dict[str, Any]):
    without = load_recipe({**recipe, "budget": {"max_drop": 0.3}})
    assert "min_attribution_agreement" not in without.to_dict()["budget"]
