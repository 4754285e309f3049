"""A metric of the user's own is one more metric of a task, and no model that guesses passes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.certificate import certify_scores
from compressor.errors import OwnCodeError
from compressor.measurements import Score
from compressor.own_code import load_function
from compressor.tasks import Task, Truth, find_metric, load_task, with_own_metric
from compressor.tasks.outputs import ClassLogits
from compressor.tasks.text_scoring import ScoreLogits

LABELS = ("bad", "good")
GUIDE = Path(__file__).parents[2] / "docs/guides/your-own-metric.md"
RIGHT = "return [float(p['label_id'] == k) for p, k in zip(inputs.predictions, inputs.labels)]"
COUNT = 200


def task_with(folder: Path, body: str, name: str = "text-classification") -> Task:
    (folder / "mine.py").write_text(f"import math, random\ndef own(inputs):\n    {body}\n")
    own = load_function("budget.metric", f"{folder}/mine.py:own", takes="inputs")
    return with_own_metric(load_task(name), own, LABELS)


def rows(count: int = COUNT) -> tuple[ClassLogits, Truth]:
    """Return logits that are right for nine of ten examples, and what is right."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, count)
    sure = np.where(random.random(count) < 0.9, 1, -1) * (2 * labels - 1)
    logits = np.stack([-sure, sure], axis=1).astype(np.float32)
    return ClassLogits(logits), Truth(tuple(f"text {row}" for row in range(count)), labels)


def scored(task: Task, outputs: ClassLogits, truth: Truth, **more: Any) -> Score:
    return task.score("mine.py:own", outputs, Truth(truth.examples, truth.labels, **more))


def test_the_score_is_the_mean_of_what_the_function_says(tmp_path: Path):
    outputs, truth = rows()
    task = task_with(tmp_path, RIGHT)
    score = scored(task, outputs, truth)
    usual = task.score("accuracy", outputs, truth)
    assert score.value == pytest.approx(usual.value)
    assert score.outcomes.tolist() == usual.outcomes.tolist()
    assert score.shares is not None
    assert score.shares.tolist() == (usual.outcomes == truth.labels).tolist()


def test_the_task_stays_what_it_is_but_for_the_metric(tmp_path: Path):
    task, usual = task_with(tmp_path, RIGHT), load_task("text-classification")
    assert isinstance(task, type(usual))
    assert task.metric_names() == (*usual.metric_names(), "mine.py:own")
    assert task.for_labels(LABELS).metric_names() == task.metric_names()
    assert find_metric("mine.py:own").bound == "mean"


def test_a_model_that_knows_nothing_is_never_certified(tmp_path: Path):
    outputs, truth = rows()
    task = task_with(tmp_path, RIGHT)
    before = scored(task, outputs, truth)
    moved = outputs.select(np.random.default_rng(1).permutation(COUNT))
    alike = ClassLogits(np.tile(np.float32([0, 1]), (COUNT, 1)))
    for ruined in (moved, alike):
        after = scored(task, ruined, truth, reference=before)
        guesses = task.guesses(before, truth, LABELS)
        for budget in (0.3, 0.6, 0.9):
            proof = certify_scores(before, after, None, guesses=guesses, max_drop=budget, seed=0)
            assert proof.verdict != "certified"
    whole = certify_scores(before, before, None, guesses=guesses, max_drop=0.1, seed=0)
    assert whole.verdict == "certified"


def test_a_metric_that_every_model_satisfies_certifies_nothing(tmp_path: Path):
    outputs, truth = rows()
    task = task_with(tmp_path, "return [1.0] * len(inputs.labels)")
    score = scored(task, outputs, truth)
    guesses = task.guesses(score, truth, LABELS)
    proof = certify_scores(score, score, None, guesses=guesses, max_drop=0.1, seed=0)
    assert proof.verdict == "inconclusive"


def test_the_mean_of_all_outputs_is_among_the_guesses(tmp_path: Path):
    # With the labels' own frequency for every example this proper score is best.
    outputs, truth = rows()
    task = task_with(
        tmp_path,
        "return [1 - (1 / (1 + math.exp(o[0] - o[1])) - k) ** 2 "
        "for o, k in zip(inputs.outputs, inputs.labels)]",
    )
    best = max(guess.score.value for guess in task.guesses(scored(task, outputs, truth), truth, ()))
    assert best == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 0.9", "must return a list or an array of 200 numbers, one for each example"),
        ("return None", "and gave None (NoneType)"),
        ("return [1.0]", "must return 200 numbers, one for each example, and gave 1"),
        ("return [math.nan] * 200", "gave nan (float) for example 0 (the first is 0)"),
        ("return [2] * 200", "must return numbers from 0 to 1, the higher the better, and gave 2"),
        ("return [-0.1] * 200", "gave -0.1 (float)"),
        ("return ['1'] * 200", "gave '1' (str)"),
        ("import numpy; return [numpy.complex64(1)] * 200", "must return numbers from 0 to 1"),
        ("return [[1.0]] * 200", "gave [1.0] (list)"),
        ("return {i: 1.0 for i in range(200)}", "must return a list or an array"),
        ("return [random.random()] * 200", "when it was asked again; make it depend on its inputs"),
        ("inputs.outputs[0][0] = 3", "own raised ValueError: assignment destination is read-only"),
        ("inputs.predictions.sort()", "raised AttributeError: 'tuple' object has no attribute"),
        ("inputs.labels = []", "raised FrozenInstanceError"),
    ],
)
def test_what_no_metric_may_give_is_told(tmp_path: Path, body: str, told: str):
    outputs, truth = rows()
    with pytest.raises(OwnCodeError) as caught:
        scored(task_with(tmp_path, body), outputs, truth)
    assert str(caught.value).startswith(f"budget.metric: {tmp_path}/mine.py:")
    assert told in str(caught.value)


def test_what_it_changes_is_a_copy_of_its_own(tmp_path: Path):
    outputs, truth = rows()
    clear = "[p.clear() for p in inputs.predictions]"
    task = task_with(tmp_path, f"found = {RIGHT[7:]}; {clear}; return found")
    assert scored(task, outputs, truth).value == task.score("accuracy", outputs, truth).value


def test_arrays_and_numbers_of_numpy_are_numbers(tmp_path: Path):
    outputs, truth = rows()
    body = "import numpy; return numpy.full(len(inputs.labels), True)"
    assert scored(task_with(tmp_path, body), outputs, truth).value == 1.0


def test_labels_are_needed(tmp_path: Path):
    task = task_with(tmp_path, RIGHT)
    assert task.unscorable("mine.py:own", Truth(("a",))) == (
        "has no labels, which mine.py:own is given; name their column in data.label"
    )


def test_candidates_of_a_query_are_judged_as_one(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def own(inputs):\n"
        "    found = [0.0] * inputs.num_units\n"
        "    best = [-9.0] * inputs.num_units\n"
        "    for group, score, label in zip(inputs.groups, inputs.predictions, inputs.labels):\n"
        "        if score > best[group]:\n"
        "            best[group], found[group] = score, label\n"
        "    return found\n"
    )
    own = load_function("budget.metric", f"{tmp_path}/mine.py:own", takes="inputs")
    task = with_own_metric(load_task("text-scoring"), own, ())
    object.__setattr__(task, "activation", "identity")
    groups = np.repeat(np.arange(30), 3)
    labels = np.tile([0.0, 0.0, 1.0], 30)
    logits = (labels + np.random.default_rng(0).normal(0, 0.5, 90))[:, None].astype(np.float32)
    truth = Truth(tuple(("q", str(row)) for row in range(90)), labels, None, None, groups)
    score = task.score("mine.py:own", ScoreLogits(logits), truth)
    won = [logits[3 * query : 3 * query + 3, 0].argmax() == 2 for query in range(30)]
    assert score.shares is not None
    assert score.shares.tolist() == won
    assert score.units is not None
    assert score.units.tolist() == groups.tolist()
    assert max(g.score.value for g in task.guesses(score, truth, ())) < score.value


def test_the_files_of_the_guide_do_what_it_says(tmp_path: Path):
    text = GUIDE.read_text(encoding="utf-8")
    blocks = dict(re.findall(r'```python title="(\w+\.py)"\n(.*?)```', text, re.DOTALL))
    for name, code in blocks.items():
        (tmp_path / name).write_text(code)
    own = load_function("budget.metric", f"{tmp_path}/my_metric.py:spared_cost", takes="inputs")
    task = with_own_metric(load_task("text-classification"), own, ("negative", "positive"))
    logits = np.float32([[0, 1], [1, 0], [0, 1], [1, 0]])
    truth = Truth(("a", "b", "c", "d"), np.array([1, 1, 0, 0]))
    score = task.score("my_metric.py:spared_cost", ClassLogits(logits), truth)
    assert score.shares is not None
    assert score.shares.tolist() == [1.0, 0.0, 0.8, 1.0]
    clean = load_function("data.preprocess", f"{tmp_path}/my_rows.py:clean", takes="a row")
    assert clean({"title": "A", "body": "b", "stars": "4"}) == {"text": "A. b", "label": "positive"}
    assert clean({"title": "A", "body": " ", "stars": "4"}) is None
