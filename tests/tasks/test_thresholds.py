"""Thresholds of labels: which are best, how a recipe asks for them, and what they change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import f1_score

from compressor.artifact import read_manifest, seal_artifact
from compressor.certificate import certify_scores
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.settings import ModelSettings
from compressor.tasks import Truth, load_task
from compressor.tasks.multi_label import LabelLogits, MultiLabelClassification
from compressor.tasks.thresholds import best_thresholds, cuts_of

NAME = "multi-label-classification"
LABELS = ("a", "b", "c")


def truth_of(sets: np.ndarray) -> Truth:
    labels = np.empty(len(sets), dtype=object)
    for row, item in enumerate(sets):
        labels[row] = np.asarray(item, dtype=bool)
    return Truth(("a text",) * len(sets), labels)


def made_up(seed: int, size: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sets = random.random((size, 3)) < [0.5, 0.2, 0.1]
    logits = (sets * 2 - 2 + random.normal(0, 1.5, sets.shape)).astype(np.float32).round(1)
    return logits, sets


@pytest.mark.parametrize("seed", range(4))
def test_no_other_threshold_finds_a_label_better(seed: int):
    logits, sets = made_up(seed)
    cuts = cuts_of(best_thresholds(logits, sets))
    own = [f1_score(sets[:, k], logits[:, k] >= cuts[k]) for k in range(3)]  # type: ignore[index]
    every = [
        max(f1_score(sets[:, k], logits[:, k] >= cut - 0.01) for cut in np.unique(logits[:, k]))
        for k in range(3)
    ]
    assert own == pytest.approx(every)


def test_of_thresholds_that_are_as_good_the_one_nearest_to_one_half_is_taken():
    logits = np.float32([[3.0, -4.0], [-3.0, -2.0], [2.0, -3.0]])
    sets = np.array([[1, 0], [0, 1], [1, 0]], dtype=bool)
    first, second = best_thresholds(logits, sets)
    assert first == 0.5  # every one between -3 and 2 tells them apart
    assert second == pytest.approx(1 / (1 + np.exp(2.5)))


def test_a_label_that_never_or_always_holds_keeps_one_half():
    logits = np.float32([[-1.0, 3.0], [-2.0, -5.0]])
    assert best_thresholds(logits, np.array([[0, 1], [0, 1]], dtype=bool)) == (0.5, 0.5)


def test_logits_far_out_give_thresholds_between_0_and_1():
    logits = np.float32([[500.0], [400.0], [-500.0]])
    [found] = best_thresholds(logits, np.array([[1], [0], [0]], dtype=bool))
    assert 0 < found < 1


def test_a_task_predicts_from_its_thresholds_on():
    task = load_task(NAME, thresholds={"b": 0.9, "c": 0.1}).for_labels(LABELS)
    logits = LabelLogits(np.float32([[0.0, 2.0, -2.0], [-0.1, 2.3, -2.3]]))
    predicted = [[item["predicted"] for item in row] for row in task.predictions(logits, LABELS)]
    assert predicted == [[True, False, True], [False, True, False]]
    assert task.label_thresholds(LABELS) == {"a": 0.5, "b": 0.9, "c": 0.1}


def test_scores_and_findings_go_by_the_thresholds():
    logits, sets = made_up(5)
    task = load_task(NAME, thresholds=0.3).for_labels(LABELS)
    score = task.score("f1_micro", LabelLogits(logits), truth_of(sets))
    predicted = 1 / (1 + np.exp(-logits.astype(np.float64))) >= 0.3
    assert score.value == pytest.approx(f1_score(sets, predicted, average="micro"))
    found = task.findings(score, score, truth_of(sets), LABELS, labelled=True)
    assert found["b"].after.sum() == (sets & predicted)[:, 1].sum()


def test_chosen_thresholds_are_those_of_the_baseline():
    logits, sets = made_up(6)
    task = load_task(NAME, thresholds="chosen").for_labels(LABELS)
    plain = load_task(NAME).for_labels(LABELS)
    before, truth = task.score("f1_per_label", LabelLogits(logits), truth_of(sets)), truth_of(sets)
    assert before.value == plain.score("f1_per_label", LabelLogits(logits), truth).value
    tuned = task.tuned(before, truth)
    assert tuned.label_thresholds(LABELS) == dict(
        zip(LABELS, best_thresholds(logits, sets), strict=True)
    )
    assert tuned.score("f1_per_label", LabelLogits(logits), truth).value > before.value
    assert task.untunable(Truth(("a text",))) is not None
    assert plain.untunable(Truth(("a text",))) is None


@pytest.mark.parametrize("metric", ["f1_micro", "f1_per_label", "exact_match", "agreement"])
@pytest.mark.parametrize("ruin", ["zero", "random", "shuffled", "far"])
def test_a_ruined_model_is_never_certified_by_thresholds_that_were_chosen(metric: str, ruin: str):
    random = np.random.default_rng(2)
    (own, chosen_on), (logits, sets) = made_up(3, 300), made_up(4, 300)
    chooser = load_task(NAME, thresholds="chosen")
    scored = chooser.score("f1_micro", LabelLogits(own), truth_of(chosen_on))
    task = chooser.tuned(scored, truth_of(chosen_on))
    ruined = {
        "zero": np.zeros_like(logits),
        "random": random.normal(size=logits.shape).astype(np.float32),
        "shuffled": logits[random.permutation(len(logits))],
        "far": np.broadcast_to(np.float32([9, -9, -9]), logits.shape).copy(),
    }[ruin]
    truth = truth_of(sets)
    before = task.score(metric, LabelLogits(logits), truth)
    after = task.score(metric, LabelLogits(ruined), dataclasses.replace(truth, reference=before))
    guesses = task.guesses(before, truth, LABELS)
    for max_drop in (0.02, 0.9):
        proof = certify_scores(
            before, after, truth.labels, guesses=guesses, max_drop=max_drop, seed=0, resamples=499
        )
        assert proof.verdict != "certified"


def test_results_of_one_half_are_named_as_before_there_were_thresholds():
    assert load_task(NAME).facts() == {"max_length": None}
    assert load_task(NAME, thresholds=0.5).for_labels(LABELS).facts() == {"max_length": None}
    own = load_task(NAME, thresholds=0.4).for_labels(LABELS).facts()
    assert own == {"max_length": None, "thresholds": (0.4, 0.4, 0.4)}
    assert repr(load_task(NAME)) == "MultiLabelClassification(max_length=None)"
    assert "thresholds" not in ModelSettings(checkpoint="a").model_dump()


def test_thresholds_that_are_none_are_refused():
    with pytest.raises(RecipeError, match=r"model\.thresholds: .* knows no label 'd'"):
        load_task(NAME, thresholds={"d": 0.3}).for_labels(LABELS)
    with pytest.raises(RecipeError, match=r"model\.thresholds: .* predicts no sets of labels"):
        load_task("text-classification", thresholds=0.3)
    for wrong in (0.0, 1.0, -0.1, "best", {}, {"a": 2}):
        with pytest.raises(ValidationError):
            ModelSettings(checkpoint="a", thresholds=wrong)


def test_a_manifest_says_the_thresholds_and_needs_one_for_each_label(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"")
    plain = seal_artifact(tmp_path, task=load_task(NAME), labels=LABELS, facts={})
    assert "thresholds" not in plain
    task = MultiLabelClassification(thresholds=(0.5, 0.2, 0.3))
    assert seal_artifact(tmp_path, task=task, labels=LABELS, facts={})["thresholds"] == [
        0.5, 0.2, 0.3,
    ]  # fmt: skip
    seal_artifact(tmp_path, task=load_task(NAME), labels=LABELS, facts={"thresholds": [0.5]})
    with pytest.raises(EnvironmentMismatch, match="one number for each of its labels, has 1 for 3"):
        read_manifest(tmp_path)
