"""What a run says at its gates and on the rows kept apart."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.data import Dataset
from compressor.measurements import Certificate, Certification, Score
from compressor.pipeline.announce import certified_line, gate_line
from compressor.pipeline.judge import Judge
from compressor.recipe.budget import AccuracyBudget
from compressor.tasks import load_task


def score(metric: str, value: float, rows: int = 1200) -> Score:
    return Score(metric, value, rows, np.zeros(rows, np.int64))


def certificate(metric: str, upper_bound: float) -> Certificate:
    return Certificate(
        verdict="certified",
        metric=metric,
        drop=0.0065,
        upper_bound=upper_bound,
        lower_bound=0.001,
        max_drop=0.02,
        confidence=0.975,
        num_examples=1200,
        wins=0,
        losses=8,
        needed_examples=None,
        method="of the test",
    )


@pytest.mark.parametrize(
    ("metric", "upper_bound", "proven"),
    [
        ("cosine", 0.010611, "at most 1.07 points of cosine similarity lost"),
        ("accuracy", -0.001, "no accuracy lost"),
        ("agreement", 0.010611, "at most 1.07% of the predictions changed"),
    ],
)
def test_what_is_proven_is_never_said_to_be_more(metric: str, upper_bound: float, proven: str):
    observed = Certification(score(metric, 1.0), score(metric, 0.9935), 0.0065)
    line = certified_line(observed, certificate(metric, upper_bound))
    assert f"proven: {proven}, with 97.5% confidence (2 points allowed)" in line


def test_a_gate_that_fails_by_little_reads_like_it():
    split = Dataset("search", ("a text",) * 1200, None, np.arange(1200), "made up")
    task = load_task("text-classification")
    judge = Judge(AccuracyBudget(max_drop=0.01), task, split, ("no", "yes"))
    line = gate_line(judge, score("accuracy", 0.9), score("accuracy", 0.889996), None)
    assert line.endswith("fell by 1.0004 points, 1 point allowed, 0.0004 points too many")
