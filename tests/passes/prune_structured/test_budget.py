from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from random_encoders import PRUNABLE
from torch import nn

from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.families.prunable import why_heads_stay
from compressor.passes.prune_structured.budget import (
    EncoderCost,
    Freedom,
    best_choices,
    check_ratio,
    encoder_cost,
    units_to_remove,
)
from compressor.passes.prune_structured.importance import UnitScores, random_scores
from compressor.passes.prune_structured.latency_table import TableCost, latency_table
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons

EncoderMaker = Callable[..., Any]


def scores(heads: list[list[float]], neurons: list[list[float]]) -> UnitScores:
    return UnitScores(
        tuple(torch.tensor(layer, dtype=torch.float64) for layer in heads),
        tuple(torch.tensor(layer, dtype=torch.float64) for layer in neurons),
    )


def count_flops(module: Any, length: float) -> float:
    """Count from the shapes alone: 2 for each weight, and 2 x 2 x length for each value feature."""
    total = 0.0
    for layer in encoder_layers(module):
        linears = [part for part in layer.module.modules() if isinstance(part, nn.Linear)]
        total += sum(2.0 * linear.weight.numel() for linear in linears)
        if layer.attention is not None:
            total += 4 * length * layer.attention.value.out_features
    return total


def count_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in find_encoder(module).layer_list.parameters())


def test_flops_of_a_head_and_a_neuron_as_computed_by_hand(make_encoder: EncoderMaker):
    cost = encoder_cost(encoder_layers(make_encoder("bert").module), "flops", mean_length=10)
    # a head: 8 features in four projections to or from 32, and 10 keys scored and 10 values summed
    assert cost.head == 2 * (4 * 8 * 32 + 2 * 8 * 10)
    assert cost.neuron == 2 * (2 * 32)
    assert cost.fixed == 0
    assert cost.total == 2 * (4 * cost.head + 64 * cost.neuron)


def test_parameters_of_a_head_and_a_neuron_as_computed_by_hand(make_encoder: EncoderMaker):
    module = make_encoder("bert").module
    cost = encoder_cost(encoder_layers(module), "parameters", mean_length=10)
    assert cost.head == 4 * 8 * 32 + 3 * 8
    assert cost.neuron == 2 * 32 + 1
    assert cost.total == count_parameters(module)
    # two output biases and two norms a layer
    assert cost.fixed == 2 * (2 * 32 + 4 * 32)


def test_the_best_split_is_that_of_an_exhaustive_search():
    given = scores([[5.0, 1.0], [2.0, 7.0]], [[1.0, 4.0, 0.5], [3.0, 2.0, 6.0]])
    cost = EncoderCost(head=3.0, neuron=2.0, heads=(2, 2), neurons=(3, 3))

    heads, neurons = units_to_remove(given, cost, 13.0, Freedom(round_to=1))

    flat = [*torch.cat(given.heads).tolist(), *torch.cat(given.neurons).tolist()]
    prices = [3.0] * 4 + [2.0] * 6
    best = max(
        sum(score for score, stays in zip(flat, choice, strict=True) if stays)
        for choice in product((0, 1), repeat=10)
        if sum(price for price, stays in zip(prices, choice, strict=True) if stays) <= 13
    )
    gone = sum(float(given.heads[layer][units].sum()) for layer, units in heads.items())
    gone += sum(float(given.neurons[layer][units].sum()) for layer, units in neurons.items())
    assert sum(flat) - gone == pytest.approx(best)
    assert heads == {0: [1], 1: [0]}
    assert neurons == {0: [0, 2], 1: [1]}


@pytest.mark.parametrize("seed", range(10))
def test_with_parts_that_always_stay_the_best_numbers_are_those_of_an_exhaustive_search(seed: int):
    random = np.random.default_rng(seed)
    given = scores(random.uniform(0, 2, (2, 3)).tolist(), random.uniform(0, 1, (2, 6)).tolist())
    cost = EncoderCost(head=3.0, neuron=1.0, heads=(3, 3), neurons=(6, 6), fixed=4.0)
    budget = random.uniform(8, cost.total)

    heads, neurons = units_to_remove(given, cost, budget, Freedom(round_to=2))

    ranked = [layer.sort(descending=True).values for layer in (*given.heads, *given.neurons)]

    def kept(counts: tuple[int, ...]) -> float:
        pairs = zip(ranked, counts, strict=True)
        return sum(float(layer[:count].sum()) for layer, count in pairs)

    every = product(*[range(4)] * 2, *[range(0, 7, 2)] * 2)
    best = max(kept(c) for c in every if 4 + 3 * (c[0] + c[1]) + c[2] + c[3] <= budget)
    found = tuple(
        present - len(gone.get(layer, []))
        for present, gone in ((3, heads), (6, neurons))
        for layer in (0, 1)
    )
    assert 4 + 3 * sum(found[:2]) + sum(found[2:]) <= budget
    assert kept(found) == pytest.approx(best)


def test_layers_keep_multiples_of_a_block_and_may_lose_everything():
    given = scores([[9.0], [0.1]], [[1.0, 2.0, 3.0, 4.0], [0.1, 0.1, 0.1, 0.1]])
    cost = EncoderCost(head=1.0, neuron=1.0, heads=(1, 1), neurons=(4, 4))
    heads, neurons = units_to_remove(given, cost, 3.5, Freedom(round_to=2))
    assert heads == {1: [0]}
    assert neurons == {0: [0, 1], 1: [0, 1, 2, 3]}


def test_heads_stay_where_only_neurons_may_go():
    given = scores([[0.0, 0.0]], [[1.0, 2.0, 3.0]])
    cost = EncoderCost(head=4.0, neuron=1.0, heads=(2,), neurons=(3,))
    assert units_to_remove(given, cost, 9.0, Freedom(1, heads=False)) == ({}, {0: [0, 1]})
    assert units_to_remove(given, cost, 7.0, Freedom(1, neurons=False)) == ({0: [1]}, {})


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "vit"])
@pytest.mark.parametrize("ratio", [0.1, 0.35, 0.5, 0.8])
def test_the_flops_that_go_meet_the_ratio_by_less_than_one_unit_more(
    make_encoder: EncoderMaker, model_type: str, ratio: float
):
    module = make_encoder(model_type).module
    cost = encoder_cost(encoder_layers(module), "flops", 7.0)
    before = count_flops(module, 7.0)
    heads, neurons = units_to_remove(
        random_scores(encoder_layers(module), 0), cost, (1 - ratio) * cost.total, Freedom(16)
    )
    prune_heads(find_encoder(module), heads)
    prune_neurons(find_encoder(module), neurons)

    removed = before - count_flops(module, 7.0)

    assert cost.total == before
    assert ratio * before - 1e-3 <= removed < ratio * before + max(cost.head, 16 * cost.neuron)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "vit"])
def test_the_parameters_that_go_meet_the_ratio(make_encoder: EncoderMaker, model_type: str):
    module = make_encoder(model_type).module
    cost = encoder_cost(encoder_layers(module), "parameters", 7.0)
    before = count_parameters(module)
    heads, neurons = units_to_remove(
        random_scores(encoder_layers(module), 0), cost, 0.5 * cost.total, Freedom(16)
    )
    prune_heads(find_encoder(module), heads)
    prune_neurons(find_encoder(module), neurons)
    removed = before - count_parameters(module)
    assert 0.5 * before <= removed < 0.5 * before + max(cost.head, 16 * cost.neuron)


def test_a_ratio_that_cannot_be_reached_is_refused():
    cost = EncoderCost(head=10.0, neuron=1.0, heads=(2, 2), neurons=(20, 20), fixed=20.0)
    check_ratio(cost, 0.7, Freedom(10))
    with pytest.raises(ValueError, match=r"ratio: 0.75 of the encoder cannot go: .* are 0.7 of it"):
        check_ratio(cost, 0.75, Freedom(10))
    with pytest.raises(ValueError, match=r"its neurons less one block .* are 0.3 of it"):
        check_ratio(cost, 0.5, Freedom(10, heads=False))


def test_uniform_layers_keep_equal_numbers_and_the_best_pair_of_them():
    given = scores([[5.0, 1.0], [2.0, 7.0]], [[1.0, 4.0, 0.5, 2.0], [3.0, 2.0, 6.0, 0.0]])
    cost = EncoderCost(head=3.0, neuron=2.0, heads=(2, 2), neurons=(4, 4), fixed=1.0)
    freedom = Freedom(round_to=1, uniform=True)

    heads, neurons = units_to_remove(given, cost, 19.0, freedom)

    # Room for two of: a head more in each layer (6), a neuron more in each layer (4), with one of
    # each staying (10): (1, 3) costs 1 + 6 + 12 and (2, 1) costs 1 + 12 + 4 = 17.
    # (1, 3): 5 + 7 + (4 + 2 + 1) + (6 + 3 + 2) = 30; (2, 1): 15 + 4 + 6 = 25.
    assert heads == {0: [1], 1: [0]}
    assert neurons == {0: [2], 1: [3]}


def test_uniform_layers_keep_at_least_a_head_and_a_block():
    cost = EncoderCost(head=10.0, neuron=1.0, heads=(2, 2), neurons=(20, 20), fixed=20.0)
    # Of 100, 2 x (10 + 10) + 20 have to stay.
    check_ratio(cost, 0.4, Freedom(10, uniform=True))
    with pytest.raises(ValueError, match=r"left in every layer, .* 0\.4 of it are gone"):
        check_ratio(cost, 0.41, Freedom(10, uniform=True))
    check_ratio(cost, 0.2, Freedom(10, heads=False, uniform=True))
    with pytest.raises(ValueError, match=r"0\.2 of it are gone"):
        check_ratio(cost, 0.21, Freedom(10, heads=False, uniform=True))


def test_a_uniform_width_that_is_no_multiple_may_stay_whole():
    given = scores([[9.0, 8.0]], [[1.0, 2.0, 3.0, 4.0, 5.0]])
    cost = EncoderCost(head=5.0, neuron=1.0, heads=(2,), neurons=(5,))
    freedom = Freedom(2, uniform=True)
    assert units_to_remove(given, cost, 15.0, freedom) == ({}, {})
    assert units_to_remove(given, cost, 14.0, freedom) == ({}, {0: [0]})


# A head is dear until the second, which is nearly free; neurons cost in steps of two.
STEPPED = latency_table({0: 1.0, 1: 5.0, 2: 5.5}, {0: 0.5, 1: 2.5, 2: 2.5, 3: 4.5, 4: 4.5})


def test_by_a_table_the_best_numbers_are_those_of_an_exhaustive_search():
    random = torch.Generator().manual_seed(3)
    given = UnitScores(
        tuple(torch.rand(2, generator=random, dtype=torch.float64) for _ in range(2)),
        tuple(torch.rand(4, generator=random, dtype=torch.float64) / 2 for _ in range(2)),
    )
    cost = TableCost((STEPPED, STEPPED), heads=(2, 2), neurons=(4, 4))

    def kept_score(counts: tuple[int, ...]) -> float:
        layers = (given.heads[0], given.neurons[0], given.heads[1], given.neurons[1])
        return sum(
            float(layer.sort(descending=True).values[:count].sum())
            for layer, count in zip(layers, counts, strict=True)
        )

    for budget in (5.0, 9.0, 12.0, 15.5):
        fitting = [
            counts
            for counts in product(range(3), range(5), range(3), range(5))
            if cost.of_layer(0, *counts[:2]) + cost.of_layer(1, *counts[2:]) <= budget
        ]
        heads, neurons = units_to_remove(given, cost, budget, Freedom(round_to=1))
        kept = tuple(
            present - len(gone.get(layer, []))
            for layer in (0, 1)
            for present, gone in ((2, heads), (4, neurons))
        )
        assert kept in fitting
        assert kept_score(kept) == pytest.approx(max(map(kept_score, fitting)))


def test_by_a_table_the_ratio_is_what_goes_not_what_stays():
    given = scores([[3.0, 3.0], [3.0, 3.0]], [[1.0] * 4, [1.0] * 4])
    cost = TableCost((STEPPED, STEPPED), heads=(2, 2), neurons=(4, 4))
    assert cost.total == 20.0
    heads, neurons = units_to_remove(given, cost, (1 - 0.2) * cost.total, Freedom(2))
    gone_heads, gone_neurons = (sum(map(len, units.values())) for units in (heads, neurons))
    # Two blocks of two neurons take 2 ms each and leave 16 of 20; so would both heads of a layer
    # (4.5 ms), but they score 6 and the neurons 4.
    assert (gone_heads, gone_neurons) == (0, 4)


def test_by_a_table_layers_stay_uniform_or_keep_a_kind_where_that_is_asked():
    given = scores([[1.0, 9.0], [8.0, 1.0]], [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    cost = TableCost((STEPPED, STEPPED), heads=(2, 2), neurons=(4, 4))
    uniform = units_to_remove(given, cost, 16.0, Freedom(2, uniform=True))
    assert uniform == ({}, {0: [0, 1], 1: [2, 3]})
    heads, neurons = units_to_remove(given, cost, 13.0, Freedom(2, heads=False))
    assert heads == {}
    assert sum(map(len, neurons.values())) == 8
    heads, neurons = units_to_remove(given, cost, 16.0, Freedom(2, neurons=False))
    assert neurons == {}
    assert heads == {1: [0, 1]} or heads == {0: [0, 1]}


def test_by_a_table_a_ratio_out_of_reach_is_refused():
    cost = TableCost((STEPPED, STEPPED), heads=(2, 2), neurons=(4, 4))
    # Without units 3 of 20 are left, and the cheapest block of two neurons takes 2.
    check_ratio(cost, 0.75, Freedom(2))
    with pytest.raises(ValueError, match=r"ratio: 0\.76 of the encoder cannot go: .* 0\.75 of it"):
        check_ratio(cost, 0.76, Freedom(2))
    # Uniform layers keep a head and two neurons: 7.5 of 10 each.
    check_ratio(cost, 0.25, Freedom(2, uniform=True))
    with pytest.raises(ValueError, match=r"0\.25 of it are gone"):
        check_ratio(cost, 0.26, Freedom(2, uniform=True))


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


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_a_unit_costs_the_parameters_that_go_with_it(make_encoder: EncoderMaker, model_type: str):
    module = make_encoder(model_type).module
    cost = encoder_cost(encoder_layers(module), "parameters", 7.0)
    before = count_parameters(module)
    prune_neurons(find_encoder(module), {0: [3]})
    assert before - count_parameters(module) == cost.neuron
    before = count_parameters(module)
    if why_heads_stay(module.config) is None:
        prune_heads(find_encoder(module), {1: [2]})
        assert before - count_parameters(module) == cost.head


def test_flops_of_gates_and_of_relative_positions_as_computed_by_hand(make_encoder: EncoderMaker):
    modernbert, v2, v1 = (
        encoder_cost(encoder_layers(make_encoder(name).module), "flops", mean_length=10)
        for name in ("modernbert", "deberta-v2", "deberta")
    )
    assert modernbert.head == 2 * (4 * 8 * 32 + 2 * 8 * 10)
    assert modernbert.neuron == 2 * (3 * 32)
    # A query meets 2 x 8 projected positions, and a key as many; in the first DeBERTa 2 x 10.
    assert v2.head == modernbert.head + 2 * (2 * 16 * 8)
    assert v1.head == modernbert.head + 2 * (2 * 20 * 8)
