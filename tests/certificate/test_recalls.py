"""Bounds on what must not be missed, of classes and of entities in documents."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from compressor.certificate import (
    Limited,
    certify_agreement,
    certify_paired,
    certify_recalls,
    limits_of,
)
from compressor.tasks import Findings

Ints = NDArray[np.int64]


def single(there: int, missed: int, absent: int = 0) -> Findings:
    """Return findings of one class in examples; `missed` of those there are not found any more."""
    was = np.concatenate([np.ones(there, np.int64), np.zeros(absent, np.int64)])
    after = was.copy()
    after[:missed] = 0
    return Findings(was, was, after)


def documents(seed: int, count: int, rate: float) -> Findings:
    """Return findings in documents of several entities, all of which a document loses at once."""
    random = np.random.default_rng(seed)
    there = random.poisson(1.5, count)
    gone = random.random(count) < rate
    return Findings(there, there, np.where(gone, 0, there))


def test_one_class_is_bounded_exactly():
    proof = certify_recalls({"spam": Limited(single(400, 1, 900), 0.02, True)}, seed=0)["spam"]
    flips = np.arange(400) < 1
    assert proof == certify_agreement(flips, max_drop=0.02)
    assert proof is not None
    assert proof.upper_bound == pytest.approx(stats.beta.ppf(0.95, 2, 399))


def test_recall_by_labels_counts_what_was_won():
    before, after = np.array([1] * 90 + [0] * 10), np.array([0] * 3 + [1] * 97)
    findings = Findings(np.ones(100, np.int64), before, after)
    proof = certify_recalls({"spam": Limited(findings, 0.05, False)}, seed=0)["spam"]
    assert proof == certify_paired(before > 0, after > 0, max_drop=0.05)
    assert proof is not None
    assert (proof.losses, proof.wins) == (3, 10)


def test_kinds_are_tested_at_their_share_of_the_error():
    kinds = {name: Limited(single(600, 0), 0.02, True) for name in ("a", "b", "c")}
    proofs = certify_recalls(kinds, seed=0)
    found = sorted(item.confidence for item in proofs.values() if item is not None)
    assert found == pytest.approx([0.95, 0.975, 1 - 0.05 / 3])
    assert all(item is not None and item.verdict == "certified" for item in proofs.values())


def test_nothing_is_proven_of_a_kind_that_never_occurs():
    kinds = {
        "rare": Limited(single(0, 0, 50), 0.1, True),
        "often": Limited(single(50, 0), 0.1, True),
    }
    proofs = certify_recalls(kinds, seed=0)
    assert proofs["rare"] is None
    assert proofs["often"] is not None
    assert proofs["often"].confidence == pytest.approx(0.95)  # a kind without any takes no share


def test_entities_are_bounded_by_documents():
    findings = documents(0, 2000, 0.005)
    proof = certify_recalls({"PER": Limited(findings, 0.02, True)}, seed=0, resamples=999)["PER"]
    assert proof is not None
    assert proof.verdict == "certified"
    assert proof.num_examples == int((findings.there > 0).sum())
    lost = int(findings.there.sum() - findings.after.sum())
    assert proof.drop == pytest.approx(lost / findings.there.sum())
    # Entities taken one by one would seem more than they are.
    alone = stats.beta.ppf(0.95, lost + 1, findings.there.sum() - lost)
    assert proof.upper_bound > alone


def test_a_model_that_finds_nothing_is_refuted():
    there = documents(1, 300, 0.0).there
    kinds = {"PER": Limited(Findings(there, there, np.zeros_like(there)), 0.1, True)}
    proof = certify_recalls(kinds, seed=0, resamples=499)["PER"]
    assert proof is not None
    assert (proof.verdict, proof.drop, proof.upper_bound) == ("refuted", 1.0, 1.0)


@pytest.mark.parametrize("rate", [0.01, 0.04])
def test_among_several_types_a_false_certificate_is_as_rare_as_promised(rate: float):
    """Three types lose exactly what is allowed; one of them is certified in at most 5% of draws."""
    wrong = 0
    for seed in range(150):
        kinds = {
            name: Limited(documents(1000 * place + seed, 400, rate), rate, True)
            for place, name in enumerate(("PER", "LOC", "ORG"))
        }
        proofs = certify_recalls(kinds, seed=seed, resamples=399)
        wrong += any(item is not None and item.verdict == "certified" for item in proofs.values())
    assert wrong <= 14  # of 150 at 5%, 14 or fewer come in 99.3% of all draws


def test_limits_are_one_number_or_one_for_each():
    assert limits_of(0.01, ["a", "b"]) == {"a": 0.01, "b": 0.01}
    assert limits_of({"b": 0.0}, ["a", "b"]) == {"b": 0.0}


def test_a_limit_out_of_range_is_refused():
    with pytest.raises(ValueError, match="max_drop: must be at least 0"):
        certify_recalls({"a": Limited(single(5, 0), 1.0, True)}, seed=0)
    with pytest.raises(ValueError, match="kinds: must name at least one"):
        certify_recalls({}, seed=0)
