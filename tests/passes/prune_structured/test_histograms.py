from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.feature_selection import mutual_info_classif

from compressor.errors import StepFailed
from compressor.passes.prune_structured.histograms import (
    Observations,
    entropies,
    mutual_information,
    num_bins,
)

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, size=100)
# Tells much of the label, nothing, and is always the same.
VALUES = np.stack([LABELS + RANDOM.normal(0, 0.3, 100), RANDOM.normal(0, 1, 100), np.ones(100)]).T


def test_entropy_is_that_of_an_equal_width_histogram():
    counts = [np.histogram(column, bins=10)[0] for column in VALUES.T[:2]]

    found = entropies(torch.from_numpy(VALUES))

    assert found[:2].tolist() == pytest.approx([entropy(each) for each in counts], abs=1e-12)
    assert found[2] == 0


def test_mutual_information_is_that_of_scikit_learn_on_bins_of_as_many_rows():
    borders = np.quantile(VALUES, np.arange(1, 10) / 10, axis=0)
    binned = np.stack(
        [np.searchsorted(edges, column) for edges, column in zip(borders.T, VALUES.T, strict=True)]
    ).T
    expected = mutual_info_classif(binned, LABELS, discrete_features=True)

    found = mutual_information(torch.from_numpy(VALUES), torch.from_numpy(LABELS))

    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-9)
    assert found[0] > 3 * found[1]
    assert found[2] == 0


def test_a_copy_of_the_label_tells_all_of_it_by_hand():
    labels = torch.tensor([0, 1] * 8)

    [found] = mutual_information(labels[:, None].float(), labels)

    assert found.item() == pytest.approx(np.log(2))


def test_many_units_are_counted_in_parts_like_few():
    many = torch.randn(40, 1500, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2

    found, told = entropies(many), mutual_information(many, labels)

    assert torch.equal(found[1400:], entropies(many[:, 1400:]))
    assert torch.equal(told[1400:], mutual_information(many[:, 1400:], labels))


@pytest.mark.parametrize(("rows", "bins"), [(2, 2), (100, 10), (256, 16), (100_000, 64)])
def test_there_are_as_many_bins_as_the_root_of_what_is_counted(rows: int, bins: int):
    assert num_bins(rows) == bins


def test_a_row_is_the_mean_over_its_tokens_without_padding():
    values = torch.tensor([[[1.0], [3.0], [9.0]]]).expand(16, 3, 1).clone()
    values[8:, 0] = 3.0  # means of 2 and of 3
    mask = torch.tensor([[True, True, False]]).expand(16, 3)
    observed = Observations("entropy", 16, seed=0)
    observed.add({0: values[:5]}, mask[:5], None)
    observed.add({0: values[5:]}, mask[5:], None)

    assert observed.scores()[0].tolist() == pytest.approx([np.log(2)])
    assert observed.words == "entropy estimated from histograms of 4 bins over 16 observations"


def test_each_labelled_token_is_an_observation_where_tokens_have_labels():
    # Only the first of three tokens of a row has a label, and is what the label is.
    labels = torch.tensor([[0, -100, -100], [1, -100, -100]] * 8)
    tokens = torch.full((16, 3, 1), 7.0)
    tokens[:, 0, 0] = labels[:, 0].float()
    of_rows = torch.zeros(16, 1, 1)
    observed = Observations("mutual_information", 16, seed=0)
    observed.add({0: tokens, 1: of_rows}, torch.ones(16, 3, dtype=torch.bool), labels)

    scores = observed.scores()

    assert scores[0].tolist() == pytest.approx([np.log(2)])
    assert scores[1].tolist() == [0.0]


def test_tokens_are_drawn_evenly_from_all_batches_and_no_more_than_a_thousand():
    observed = Observations("mutual_information", 64, seed=0)
    for _ in range(2):
        labels = torch.arange(32 * 100).view(32, 100) % 2
        observed.add({0: labels[..., None].float()}, torch.ones(32, 100), labels)

    assert observed.scores()[0].item() == pytest.approx(np.log(2), abs=0.01)
    assert observed.words.endswith("over 1,024 observations")


def test_a_layer_that_is_run_twice_counts_once():
    twice = torch.tensor([[[0.0], [2.0], [4.0], [6.0]]]).expand(16, 4, 1).clone()
    twice[8:] += 1
    observed = Observations("entropy", 16, seed=0)
    observed.add({0: twice}, torch.ones(16, 2, dtype=torch.bool), None)

    assert observed.scores()[0].tolist() == pytest.approx([np.log(2)])


@pytest.mark.parametrize(
    ("kind", "labels", "said"),
    [
        ("mutual_information", None, "the calibration split has none; name the label column"),
        ("mutual_information", torch.zeros(16, dtype=torch.int64), "are of one class"),
        ("entropy", "few", "15 calibration rows are too few; give it at least 16"),
    ],
)
def test_what_says_nothing_is_refused(kind: str, labels: object, said: str):
    rows = 15 if labels == "few" else 16
    observed = Observations(kind, rows, seed=0)
    given = None if labels == "few" else labels

    with pytest.raises(StepFailed, match=said):
        _ = observed.add({0: torch.rand(rows, 2, 3)}, torch.ones(rows, 2), given), observed.scores()
