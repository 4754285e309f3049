"""Budgets on what must not be missed: gates, proofs, messages and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compressor
from compressor.data import Dataset
from compressor.errors import BudgetExceeded, NotCertified, RecipeError
from compressor.measurements import Score
from compressor.pipeline.judge import Judge, check_held
from compressor.recipe.budget import AccuracyBudget
from compressor.tasks import load_task

LABELS = ("ham", "spam")
TRUTH = np.array([0] * 90 + [1] * 10)


def judge(labels: np.ndarray | None = TRUTH, **budget: Any) -> Judge:
    split = Dataset("search", ("a text",) * 100, labels, np.arange(100), "made up")
    task = load_task("text-classification")
    return Judge(AccuracyBudget(**{"max_drop": 0.05, **budget}), task, split, LABELS)


def score(predicted: np.ndarray, metric: str = "accuracy") -> Score:
    return Score(metric, float(np.mean(predicted == TRUTH)), 100, predicted)


def with_spam_missed(count: int) -> Score:
    predicted = TRUTH.copy()
    predicted[90 : 90 + count] = 0
    return score(predicted)


def test_a_rare_class_that_an_average_hides_stops_the_run():
    lost = with_spam_missed(3)  # 3 points of accuracy, and 30 of the recall of spam
    assert judge().holds(score(TRUTH), lost)
    strict = judge(max_missed={"spam": 0.2})
    assert not strict.holds(score(TRUTH), lost)
    with pytest.raises(
        BudgetExceeded,
        match=r"step: recall of spam fell by 30 points .* raise budget.max_missed",
    ) as caught:
        strict.require("step", score(TRUTH), lost)
    assert (caught.value.drop, caught.value.max_drop) == (pytest.approx(0.3), 0.2)
    assert strict.holds(score(TRUTH), with_spam_missed(2))


def test_one_number_is_for_every_class():
    [worst, *_] = judge(max_missed=0.05).shortfalls(score(TRUTH), with_spam_missed(3))
    assert (worst.words, worst.key) == ("recall of spam", "budget.max_missed")
    predicted = TRUTH.copy()
    predicted[:4] = 1
    [only] = judge(max_missed=0.01).shortfalls(score(TRUTH), score(predicted))
    assert only.words == "recall of ham"


def test_recall_by_labels_forgives_what_the_original_missed_too():
    before, after = with_spam_missed(5), with_spam_missed(5)
    assert judge(max_recall_drop=0.0).holds(before, after)
    assert not judge(max_recall_drop=0.0).holds(before, with_spam_missed(6))
    assert judge(max_recall_drop=0.0).holds(before, with_spam_missed(4))


def labelled_as(task: str, labels: Any) -> tuple[Any, Dataset]:
    cells = np.empty(len(labels), dtype=object)
    cells[:] = [np.array(item) for item in labels]
    return load_task(task), Dataset("certification", ("a",) * len(labels), cells, np.arange(2), "x")


@pytest.mark.parametrize(
    ("task", "truth", "labels"),
    [
        ("multi-label-classification", [[True, False], [False, False]], ("threat", "spam")),
        ("token-classification", [[1, 2, 0], [0, 0, 0]], ("O", "B-threat", "I-threat", "B-spam")),
    ],
)
def test_what_no_row_holds_is_refused_before_anything_is_done(
    task: str, truth: Any, labels: tuple[str, ...]
):
    kind, split = labelled_as(task, truth)
    kind = kind.for_labels(labels)
    check_held(AccuracyBudget(max_drop=0.1, max_recall_drop={"threat": 0.1}), kind, split, labels)
    check_held(AccuracyBudget(max_drop=0.1, max_missed={"spam": 0.1}), kind, split, labels)
    for limits in (0.1, {"threat": 0.1, "spam": 0.1}):
        with pytest.raises(RecipeError, match=r"data\.certification holds spam, .*\(threat\)"):
            check_held(AccuracyBudget(max_drop=0.1, max_recall_drop=limits), kind, split, labels)


@pytest.fixture(scope="module")
def base(bert_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a recipe over a tiny BERT that gives each label to half of the texts."""
    folder = tmp_path_factory.mktemp("balanced")
    model = compressor.load_checkpoint(bert_recipe["model"]["checkpoint"])
    lines = Path(bert_recipe["data"]["search"]["path"]).read_text().splitlines()[1:]
    texts = [line.rpartition(",")[0] for line in lines]
    logits = model.predict(model.task.encode(model.preprocessor, texts))
    with torch.no_grad():
        model.module.classifier.bias[1] -= float(np.median(logits[:, 1] - logits[:, 0]))
    model.save(folder / "checkpoint")
    return {
        **bert_recipe,
        "model": {"checkpoint": str(folder / "checkpoint")},
        "benchmark": {"providers": []},
    }


def run(recipe: dict[str, Any], folder: Path, **changes: Any) -> Any:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({**recipe, **changes}))
    return compressor.run(compressor.load_recipe(path), output=folder / "run", device="cpu")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            {"max_missed": {"sspam": 0.1}},
            "budget.max_missed: the checkpoint knows no class 'sspam'",
        ),
        (
            {"max_recall_drop": {"x": 0.1}},
            "budget.max_recall_drop: the checkpoint knows no class 'x'",
        ),
    ],
)
def test_a_class_that_is_not_there_is_refused_before_anything_runs(
    base: dict[str, Any], tmp_path: Path, budget: dict[str, Any], message: str
):
    with pytest.raises(RecipeError, match=message):
        run(base, tmp_path, budget={"max_drop": 0.5, **budget})
    assert not (tmp_path / "run" / "artifact").exists()


def test_recall_by_labels_needs_labels(base: dict[str, Any], tmp_path: Path):
    rows = Path(base["data"]["search"]["path"]).read_text().replace("text,label", "text,source")
    (tmp_path / "rows.csv").write_text(rows)
    data = {"text": "text", "search": {"path": str(tmp_path / "rows.csv")}}
    budget = {"metric": "agreement", "max_drop": 0.5, "max_recall_drop": 0.1}
    with pytest.raises(RecipeError, match="no column 'label'"):
        run(base, tmp_path, data=data, budget=budget)


def test_a_class_without_rows_to_prove_its_recall_is_told_at_once(
    base: dict[str, Any], tmp_path: Path
):
    lines = Path(base["data"]["search"]["path"]).read_text().splitlines()
    label = lines[1].rpartition(",")[2]
    only = [lines[0], *(f"again {line}" for line in lines[1:] if line.endswith(f",{label}"))]
    (tmp_path / "one.csv").write_text("\n".join(only) + "\n")
    data = {**base["data"], "certification": {"path": str(tmp_path / "one.csv")}}
    budget = {"metric": "agreement", "max_drop": 0.5, "max_recall_drop": 0.1}
    with pytest.raises(
        RecipeError, match=r"budget\.max_recall_drop: no row of data\.certification"
    ):
        run(base, tmp_path, data=data, budget=budget)


@pytest.mark.parametrize("limits", [1.0, -0.1, {}, {"spam": 1}, "all", [0.1]])
def test_a_limit_that_is_none_is_refused(base: dict[str, Any], tmp_path: Path, limits: Any):
    with pytest.raises(RecipeError, match=r"budget\.max_missed"):
        run(base, tmp_path, budget={"max_drop": 0.5, "max_missed": limits})


def test_vectors_find_nothing_that_could_be_missed(tiny_encoder_dir: Path, tmp_path: Path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text\n" + "\n".join(f"a text number {place}" for place in range(12)) + "\n")
    recipe = {
        "model": {"checkpoint": str(tiny_encoder_dir)},
        "data": {"text": "text", "search": {"path": str(rows)}},
        "budget": {"metric": "cosine", "max_drop": 0.5, "max_missed": 0.1},
        "passes": [],
    }
    with pytest.raises(RecipeError, match="finds nothing that could be missed"):
        run(recipe, tmp_path)


def test_a_class_that_rows_do_not_prove_ends_the_run_without_proof(
    base: dict[str, Any], tmp_path: Path
):
    rows = Path(base["data"]["search"]["path"])
    other = tmp_path / "other.csv"
    header, *lines = rows.read_text().splitlines()
    other.write_text("\n".join([header, *(f"it is {line}" for line in lines)]) + "\n")
    data = {**base["data"], "certification": {"path": str(other)}}
    budget = {"metric": "agreement", "max_drop": 0.25, "max_missed": 0.03}
    with pytest.raises(NotCertified) as caught:
        run(base, tmp_path, data=data, budget=budget)
    assert caught.value.exit_code == 6
    assert caught.value.needed_examples is not None
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["certificate"]["verdict"] == "certified"
    found = report["recalls"]
    assert {item["kind"] for item in found} == set(report["labels"])
    assert found[0]["verdict"] == "inconclusive"
    assert all(item["after"] == item["there"] for item in found)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Missed</h2>" in page
    assert f"0 of {found[0]['there']} missed" in page
    assert "would settle it" in (tmp_path / "run" / "report.md").read_text()
