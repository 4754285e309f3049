from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from compressor.passes.prune_structured.knapsack import best_choices


def arrays(*groups: list[float]) -> list[np.ndarray]:
    return [np.array(group) for group in groups]


@pytest.mark.parametrize("seed", range(5))
def test_choices_are_those_of_an_exhaustive_search(seed: int):
    random = np.random.default_rng(seed)
    costs = [np.sort(random.uniform(0, 1, size)) for size in (4, 5, 3, 6)]
    values = [np.sort(random.uniform(0, 1, size)) for size in (4, 5, 3, 6)]
    budget = sum(group[0] for group in costs) + 0.8

    def total(options: tuple[int, ...], of: list[np.ndarray]) -> float:
        return sum(float(group[option]) for group, option in zip(of, options, strict=True))

    every = product(*(range(len(group)) for group in costs))
    best = max(total(choice, values) for choice in every if total(choice, costs) <= budget)

    found = tuple(best_choices(costs, values, budget))

    assert total(found, costs) <= budget
    assert total(found, values) == pytest.approx(best)


def test_a_choice_that_meets_the_budget_exactly_is_found():
    costs, values = arrays([0.1, 0.3], [0.2, 0.4]), arrays([0.0, 1.0], [0.0, 1.0])
    assert best_choices(costs, values, 0.1 + 0.2 + 0.2 + 0.2) == [1, 1]
    assert best_choices(costs, values, 0.6) == [1, 0]
    assert best_choices(costs, values, 0.1 + 0.2) == [0, 0]


def test_what_costs_nothing_more_is_taken_and_what_brings_nothing_is_not():
    # A step of the table: the second and third option take the same time.
    assert best_choices(arrays([0.0, 1.0, 1.0]), arrays([0.0, 2.0, 3.0]), 1.0) == [2]
    assert best_choices(arrays([0.0, 1.0, 2.0]), arrays([0.0, 2.0, 2.0]), 2.0) == [1]


def test_one_budget_holds_for_all_groups_in_any_order():
    costs = arrays([0.0, 5.0], [0.0, 3.0], [0.0, 4.0])
    values = arrays([0.0, 5.0], [0.0, 4.0], [0.0, 4.0])
    # 3 + 4 fit into 7 and bring 8; a search that takes the most valuable first ends with 5.
    assert best_choices(costs, values, 7.0) == [0, 1, 1]
    assert best_choices(costs[::-1], values[::-1], 7.0) == [1, 1, 0]


def test_a_budget_below_the_cheapest_options_is_refused():
    with pytest.raises(ValueError, match=r"the cheapest options cost 3 together, above 2\.5"):
        best_choices(arrays([1.0, 2.0], [2.0]), arrays([0.0, 1.0], [0.0]), 2.5)
