from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.errors import RecipeError
from compressor.models.families.layers import encoder_layers, find_encoder
from compressor.models.families.prunable import UnsupportedArchitecture
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.base import NothingToRemove
from compressor.passes.prune_structured import apply as _work
from compressor.passes.prune_structured.few_rows import store_inputs
from compressor.passes.prune_structured.importance import layer_losses
from compressor.passes.prune_structured.settings import (
    PruneByReconstruction,
    PruneByScores,
    PruneStructured,
)
from compressor.recipe.recipe import parse_recipe

ContextMaker = Callable[..., PassContext]


def units(model: TorchModel) -> list[tuple[int, int]]:
    return [(layer.num_heads, layer.num_neurons) for layer in encoder_layers(model.module)]


def logits(model: TorchModel, dataset: Dataset) -> Any:
    return model.predict(model.task.encode(model.preprocessor, dataset.examples))


def test_half_of_the_heads_and_neurons_go_by_gradients(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    pruned = apply_pass(PruneByScores(ratio=0.5), tiny_bert, make_context(calibration=text_dataset))

    (first_heads, first_neurons), (second_heads, second_neurons) = units(pruned)
    assert first_heads + second_heads == 4
    assert first_neurons + second_neurons == 64
    assert first_neurons % 8 == second_neurons % 8 == 0
    assert notes == [
        f"attention heads 8 -> 4 (by layer: {first_heads}, {second_heads})",
        f"FFN neurons 128 -> 64 (by layer: {first_neurons}, {second_neurons})",
    ]


@pytest.mark.parametrize("importance", ["random", "magnitude", "magnitude_l1"])
def test_the_other_kinds_of_importance_read_no_data(
    tiny_vit: TorchModel, make_context: ContextMaker, importance: Any
):
    settings = PruneByScores(ratio=0.5, importance=importance, scope="layer")
    assert settings.required_splits() == frozenset()
    assert units(apply_pass(settings, tiny_vit, make_context())) == [(2, 32), (2, 32)]


def test_the_units_that_matter_least_go(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    before = logits(tiny_bert, text_dataset)
    for layer in encoder_layers(tiny_bert.module):
        assert layer.attention is not None
        assert layer.feed_forward is not None
        layer.attention.output.weight.data[:, 8:24] = 0  # heads 1 and 2
        layer.feed_forward.ffn_out.weight.data[:, ::2] = 0
    expected = logits(tiny_bert, text_dataset)

    settings = PruneByScores(ratio=0.5, scope="layer")
    pruned = apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))

    np.testing.assert_allclose(logits(pruned, text_dataset), expected, atol=1e-5)
    assert abs(before - expected).max() > 0.01


def test_heads_and_neurons_have_ratios_of_their_own(
    tiny_vit: TorchModel, image_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    settings = PruneByScores(ratio=0.5, head_ratio=0, scope="layer")
    pruned = apply_pass(settings, tiny_vit, make_context(calibration=image_dataset))
    assert units(pruned) == [(4, 32), (4, 32)]
    assert notes == ["FFN neurons 128 -> 64 (by layer: 32, 32)"]


def test_steps_reach_the_same_ratio_with_recovery_in_between(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    settings = PruneStructured.of(
        {
            "ratio": 0.5,
            "scope": "layer",
            "steps": 2,
            "recovery": {"kind": "finetune", "max_steps": 2, "batch_size": 8},
        }
    )
    assert settings.required_splits() == {"calibration", "train"}

    pruned = apply_pass(
        settings, tiny_bert, make_context(calibration=text_dataset, train=text_dataset)
    )

    assert units(pruned) == [(2, 32), (2, 32)]
    assert [note.partition(" step in")[0].partition(" (by")[0] for note in notes] == [
        "recovery after step 1 of 2: 1",  # of the two optimizer steps
        "attention heads 8 -> 4",
        "FFN neurons 128 -> 64",
        "recovery after step 2 of 2: 1",
    ]


def test_distillation_brings_the_pruned_model_back_towards_the_baseline(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    baseline = logits(tiny_bert, text_dataset)
    context = make_context(tiny_bert_dir, calibration=text_dataset, train=text_dataset)
    raw = apply_pass(PruneByScores(ratio=0.5), tiny_bert.clone(), context)
    recovery = {"kind": "distill", "epochs": 5, "batch_size": 8, "learning_rate": 1e-3}
    settings = PruneStructured.of({"ratio": 0.5, "recovery": recovery})

    recovered = apply_pass(settings, tiny_bert, context)

    def distance(model: TorchModel) -> float:
        return float(abs(logits(model, text_dataset) - baseline).mean())

    assert units(recovered) == units(raw)
    assert distance(recovered) < distance(raw)


def reconstruction(**settings: Any) -> PruneByReconstruction:
    return PruneByReconstruction.model_validate(settings)


def encoder_flops(model: TorchModel, length: float) -> float:
    """Count 2 for each weight of a linear layer and 4 x length for each value feature."""
    total = 0.0
    for layer in encoder_layers(model.module):
        linears = [part for part in layer.module.modules() if isinstance(part, torch.nn.Linear)]
        total += sum(2.0 * linear.weight.numel() for linear in linears)
        if layer.attention is not None:
            total += 4 * length * layer.attention.value.out_features
    return total


def test_long_rows_are_read_more_often_than_short_ones(
    tiny_bert: TorchModel, text_dataset: Dataset, tmp_path: Path
):
    texts = ("good",) * 50 + ("good film " * 10,) * 50
    dataset = replace(text_dataset, examples=texts, labels=None, rows=np.arange(100))
    found = store_inputs(tiny_bert, find_encoder(tiny_bert.module), dataset, 20, 0, tmp_path)
    long = int(tiny_bert.task.encode(tiny_bert.preprocessor, texts[-1:])["attention_mask"].sum())
    assert found.num_rows == 20
    assert found.num_tokens > 15 * long  # an even draw would give half of each


def test_reconstruction_removes_the_flops_without_reading_labels(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    encoded = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    length = float(encoded["attention_mask"].sum() / len(text_dataset))
    before = encoder_flops(tiny_bert, length)
    settings = reconstruction(ratio=0.5)
    assert settings.required_splits() == {"calibration"}

    pruned = apply_pass(
        settings, tiny_bert, make_context(calibration=replace(text_dataset, labels=None))
    )

    left = encoder_flops(pruned, length) / before
    one_unit = 2 * (4 * 8 * 32 + 2 * 8 * length) / before  # a head; 16 neurons cost as much
    assert 0.5 - one_unit < left <= 0.5
    assert all(neurons % 16 == 0 for _, neurons in units(pruned))
    assert notes[0] == (
        f"encoder FLOPs left: {100 * left:.1f}%; least squares on 48 calibration rows without "
        f"labels, {length:.1f} tokens each on average"
    )


def test_reconstruction_stays_closer_to_the_baseline_than_scores(
    tiny_vit: TorchModel, image_dataset: Dataset, make_context: ContextMaker
):
    baseline = logits(tiny_vit, image_dataset)
    context = make_context(calibration=image_dataset)
    fitted = apply_pass(reconstruction(ratio=0.5, round_to=8), tiny_vit.clone(), context)
    plain = apply_pass(PruneByScores(ratio=0.5), tiny_vit.clone(), context)
    assert encoder_flops(fitted, 17) <= encoder_flops(plain, 17) * 1.02

    def distance(model: TorchModel) -> float:
        return float(abs(logits(model, image_dataset) - baseline).mean())

    assert distance(fitted) < 0.8 * distance(plain)


def test_reconstruction_can_aim_at_parameters_and_keep_all_heads(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    def parameters(model: TorchModel) -> int:
        return sum(value.numel() for value in model.module.bert.encoder.parameters())

    before = parameters(tiny_bert)
    settings = reconstruction(ratio=0.3, target="parameters", head_ratio=0)
    pruned = apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))
    assert [heads for heads, _ in units(pruned)] == [4, 4]
    assert 0.7 * before - 16 * 65 < parameters(pruned) <= 0.7 * before
    assert notes[0].startswith("encoder parameters left: ")


def test_reconstruction_may_empty_layers_and_the_result_loads_again(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, tmp_path: Path
):
    pruned = apply_pass(
        reconstruction(ratio=0.85), tiny_bert, make_context(calibration=text_dataset)
    )
    assert 0 in {count for layer in units(pruned) for count in layer}
    pruned.save(tmp_path / "pruned")
    loaded = load_checkpoint(tmp_path / "pruned")
    np.testing.assert_array_equal(logits(loaded, text_dataset), logits(pruned, text_dataset))


def test_reconstruction_in_steps_with_recovery_reaches_the_same_budget(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
):
    recovery = {"kind": "distill", "max_steps": 2, "batch_size": 8}
    settings = reconstruction(ratio=0.5, steps=2, recovery=recovery)
    context = make_context(tiny_bert_dir, calibration=text_dataset, train=text_dataset)
    before = encoder_flops(tiny_bert, 9.0)
    pruned = apply_pass(settings, tiny_bert, context)
    assert 0.4 < encoder_flops(pruned, 9.0) / before <= 0.51
    assert [note.partition(":")[0] for note in notes] == [
        "encoder FLOPs left",
        "recovery after step 1 of 2",
        "encoder FLOPs left",
        "attention heads 8 -> " + notes[3].split()[4] + " (by layer",
        "FFN neurons 128 -> " + notes[4].split()[4] + " (by layer",
        "recovery after step 2 of 2",
    ]


def test_reconstruction_goes_on_from_the_layers_that_are_left(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    settings = reconstruction(ratio=0.5, drop_layers=[0])
    pruned = apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))
    assert len(units(pruned)) == 1
    assert units(pruned) != [(4, 64)]


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 20])
def test_however_few_the_rows_reconstruction_is_no_worse_on_others_than_without_a_fit(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
    notes: list[str],
    rows: int,
):
    few = replace(text_dataset, examples=text_dataset.examples[:rows], labels=None)
    others = replace(text_dataset, examples=text_dataset.examples[20:], labels=None)
    baseline = logits(tiny_bert, others)
    context = make_context(calibration=few)

    fitted = apply_pass(reconstruction(ratio=0.5), tiny_bert.clone(), context)
    monkeypatch.setattr(_work, "reconstruct", lambda *_, **__: {})
    plain = apply_pass(reconstruction(ratio=0.5), tiny_bert.clone(), make_context(calibration=few))

    assert units(fitted) == units(plain)
    errors = [abs(logits(model, others) - baseline).mean() for model in (fitted, plain)]
    assert errors[0] <= errors[1]
    recorded = context.facts["reconstruction"]
    assert (recorded["rows"], recorded["tokens_needed"]) == (rows, 4 * 65)
    assert recorded["reason"] in notes


def test_few_rows_are_filled_up_from_the_train_split(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    whole = replace(text_dataset, labels=None)
    parts = [
        replace(whole, examples=text_dataset.examples[part], rows=text_dataset.rows[part])
        for part in (slice(0, 2), slice(2, 48))
    ]
    few = replace(parts[0], spare=parts[1])
    context, of_whole = make_context(calibration=few), make_context(calibration=whole)

    filled = apply_pass(reconstruction(ratio=0.5), tiny_bert.clone(), context)
    expected = apply_pass(reconstruction(ratio=0.5), tiny_bert.clone(), of_whole)

    np.testing.assert_array_equal(logits(filled, whole), logits(expected, whole))
    assert "46 rows of the train split were read too, without labels" in notes[0]
    recorded = context.facts["reconstruction"]
    assert (recorded["method"], recorded["rows_of_train"]) == ("least squares", 46)
    assert of_whole.facts["reconstruction"]["rows_of_train"] == 0


def test_where_rows_are_enough_none_of_train_is_read(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    whole = replace(text_dataset, labels=None)
    context = make_context(calibration=replace(whole, spare=whole))
    with_spare = apply_pass(reconstruction(ratio=0.5), tiny_bert.clone(), context)
    notes_with_spare, notes[:] = list(notes), []
    plain = apply_pass(
        reconstruction(ratio=0.5), tiny_bert.clone(), make_context(calibration=whole)
    )
    np.testing.assert_array_equal(logits(with_spare, whole), logits(plain, whole))
    assert notes_with_spare == notes


@pytest.mark.parametrize("examples", [("a good film",) * 48, ("good",) * 3])
def test_of_rows_that_are_all_alike_none_can_be_left_out(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
    examples: tuple[str, ...],
):
    alike = replace(text_dataset, examples=examples, labels=None, rows=np.arange(len(examples)))
    context = make_context(calibration=alike)
    pruned = apply_pass(reconstruction(ratio=0.5), tiny_bert, context)
    assert np.isfinite(logits(pruned, text_dataset)).all()
    assert context.facts["reconstruction"]["method"] == "no least squares"
    assert any("whether a fit helps on other rows takes 8 rows to tell" in note for note in notes)


def test_images_that_are_all_alike_are_one(
    tiny_vit: TorchModel, image_dataset: Dataset, make_context: ContextMaker
):
    alike = replace(image_dataset, examples=image_dataset.examples[:1] * 48)
    context = make_context(calibration=alike)
    apply_pass(reconstruction(ratio=0.5), tiny_vit, context)
    recorded = context.facts["reconstruction"]
    assert (recorded["rows_that_differ"], recorded["tokens_that_differ"]) == (1, 17)


def test_a_ratio_that_would_take_everything_is_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    with pytest.raises(ValueError, match=r"ratio: 0\.99 of the encoder cannot go"):
        apply_pass(reconstruction(ratio=0.99), tiny_bert, make_context(calibration=text_dataset))
    assert units(tiny_bert) == [(4, 64), (4, 64)]


def test_weights_that_are_not_finite_are_refused_before_anything_is_removed(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    tiny_bert.module.bert.encoder.layer[1].output.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        apply_pass(reconstruction(ratio=0.5), tiny_bert, make_context(calibration=text_dataset))
    assert units(tiny_bert) == [(4, 64), (4, 64)]


def test_an_unsupported_architecture_is_refused_by_reconstruction_too(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    tiny_bert.module.config.is_decoder = True
    with pytest.raises(UnsupportedArchitecture):
        apply_pass(reconstruction(ratio=0.5), tiny_bert, make_context(calibration=text_dataset))


@pytest.mark.parametrize("importance", ["fisher", "activation"])
def test_fisher_information_and_activations_rank_units_without_labels(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, importance: Any
):
    settings = PruneByScores(ratio=0.5, importance=importance, scope="layer")
    assert settings.required_splits() == {"calibration"}
    unlabelled = replace(text_dataset, labels=None)
    pruned = apply_pass(settings, tiny_bert, make_context(calibration=unlabelled))
    assert units(pruned) == [(2, 32), (2, 32)]


def test_listed_layers_go(tiny_bert: TorchModel, make_context: ContextMaker, notes: list[str]):
    second = tiny_bert.module.bert.encoder.layer[1]
    settings = PruneByScores(drop_layers=(0,))
    assert settings.required_splits() == frozenset()

    pruned = apply_pass(settings, tiny_bert, make_context())

    assert list(pruned.module.bert.encoder.layer) == [second]
    assert notes == ["layers 2 -> 1 (those that stay, counted from 0: 1)"]


def test_the_layer_without_which_the_loss_is_lowest_goes(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    encoded = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}
    assert text_dataset.labels is not None
    rows = [(inputs, torch.from_numpy(text_dataset.labels))]
    losses = layer_losses(find_encoder(tiny_bert.module), rows, tiny_bert.task)
    stays = tiny_bert.module.bert.encoder.layer[1 - int(losses.argmin())]
    settings = PruneByScores(layers=1)
    assert settings.required_splits() == {"calibration"}

    pruned = apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))

    assert list(pruned.module.bert.encoder.layer) == [stays]


def test_after_dropping_a_layer_the_rest_learns_from_the_layers_it_was(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
):
    from compressor.training import recovery as _recovery

    seen = []

    def distill(*arguments: Any, **settings: Any) -> Any:
        seen.append(settings["layer_map"])
        return original(*arguments, **settings)

    original = _recovery.distill
    monkeypatch.setattr(_recovery, "distill", distill)
    recovery = {"kind": "distill", "max_steps": 1, "batch_size": 8, "hidden_weight": 1.0}
    settings = PruneStructured.of({"drop_layers": [0], "recovery": recovery})

    apply_pass(settings, tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    assert seen == [((0, 1),)]


def test_layers_may_lose_all_their_units_where_that_is_allowed(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, tmp_path: Path
):
    for linear in ("attention.output.dense", "output.dense"):
        tiny_bert.module.bert.encoder.layer[0].get_submodule(linear).weight.data.zero_()
    settings = PruneByScores(ratio=0.5, may_empty_layers=True)

    pruned = apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))

    assert units(pruned) == [(0, 0), (4, 64)]
    pruned.save(tmp_path)
    loaded = load_checkpoint(tmp_path)
    np.testing.assert_array_equal(logits(loaded, text_dataset), logits(pruned, text_dataset))


def test_rows_without_labels_are_measured_against_the_models_own_predictions(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    own = logits(tiny_bert, text_dataset).argmax(axis=-1)
    unlabelled = replace(text_dataset, labels=None)
    labelled = replace(text_dataset, labels=own)
    settings = PruneByScores(ratio=0.5)

    first = apply_pass(settings, tiny_bert.clone(), make_context(calibration=unlabelled))
    second = apply_pass(settings, tiny_bert.clone(), make_context(calibration=labelled))

    np.testing.assert_array_equal(logits(first, text_dataset), logits(second, text_dataset))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"head_ratio": 0.1, "scope": "layer"},
            "head_ratio: 0.1 rounds to 0 heads (layers have [4, 4], scope is 'layer', each "
            "layer keeps a multiple of 1); use a larger ratio, or head_ratio: 0 to keep all heads",
        ),
        (
            {"neuron_ratio": 0.5, "round_to": 128},
            "neuron_ratio: 0.5 rounds to 0 neurons (layers have [64, 64], scope is 'global', "
            "each layer keeps a multiple of 128); use a larger ratio, a smaller round_to, or "
            "neuron_ratio: 0 to keep all neurons",
        ),
        (
            {"neuron_ratio": 0.9, "round_to": 32},
            "neuron_ratio: ratio 0.9 would leave 13 of 128 units, but 64 have to stay (each layer "
            "keeps 32 or all it has); use a ratio of at most 0.5 or a smaller round_to",
        ),
        (
            {"ratio": 0.95, "scope": "layer"},
            "head_ratio: ratio 0.95 would leave 0 of 4 units, but 1 have to stay (each layer keeps "
            "1 or all it has); use a ratio of at most 0.75",
        ),
        ({"layers": 2}, "layers: the model has 2 layers, so fewer have to stay, got 2"),
        (
            {"drop_layers": (0, 1)},
            "drop_layers: the model has layers 0 to 1 and one has to stay, got [0, 1]",
        ),
        (
            {"drop_layers": (5,)},
            "drop_layers: the model has layers 0 to 1 and one has to stay, got [5]",
        ),
    ],
)
def test_what_this_model_cannot_give_is_refused_before_anything_changes(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    settings: dict[str, Any],
    message: str,
):
    context = make_context(calibration=text_dataset)
    with pytest.raises(ValueError, match=r"ratio|layers") as caught:
        apply_pass(PruneByScores(**settings), tiny_bert, context)
    assert str(caught.value) == message
    assert units(tiny_bert) == [(4, 64), (4, 64)]


def test_a_ratio_out_of_reach_is_refused_before_layers_are_measured(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
):
    def measured(*_: Any) -> None:
        raise AssertionError("layers were measured first")

    monkeypatch.setattr(_work, "layer_losses", measured)
    monkeypatch.setattr(_work, "block_influences", measured)
    for choice in ("loss", "block_influence"):
        settings = PruneStructured.of({"ratio": 0.95, "layers": 1, "layer_choice": choice})
        with pytest.raises(ValueError, match=r"head_ratio: ratio 0\.95 would leave 0 of 4 units"):
            apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))
    assert units(tiny_bert) == [(4, 64), (4, 64)]


def test_what_reconstruction_cannot_do_is_told_before_layers_are_measured(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
):
    def measured(*_: Any) -> None:
        raise AssertionError("layers were measured first")

    monkeypatch.setattr(_work, "layer_losses", measured)
    with pytest.raises(ValueError, match=r"0\.999 of the encoder cannot go"):
        apply_pass(
            reconstruction(layers=1, ratio=0.999), tiny_bert, make_context(calibration=text_dataset)
        )
    assert units(tiny_bert) == [(4, 64), (4, 64)]


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"ratio": 0.02}, None),
        ({"head_ratio": 0.1}, None),
        ({"head_ratio": 0.1, "neuron_ratio": 0.5}, (4, 32)),
        ({"ratio": 0.12}, (4, 56)),  # an eighth of the neurons, and of 4 heads none
        ({"ratio": 0.5}, (2, 32)),
    ],
)
def test_a_ratio_too_mild_for_a_kind_leaves_it_and_for_both_is_told_apart(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    settings: dict[str, float],
    left: tuple[int, int] | None,
):
    """Where a run itself tries milder and milder ratios, one that takes nothing is passed over."""
    step = PruneStructured.of({**settings, "scope": "layer", "importance": "magnitude"})
    context = make_context(calibration=text_dataset)
    if left is None:
        with pytest.raises(NothingToRemove):
            apply_pass(step, tiny_bert, context)
    else:
        assert units(apply_pass(step, tiny_bert, context)) == [left, left]


@pytest.mark.parametrize(
    ("recovery", "message"),
    [
        ({"kind": "finetune"}, "fine-tuning needs labels"),
        ({"kind": "distill", "label_weight": 0.5}, "label_weight above 0 needs labels"),
        (
            {"kind": "distill", "relation_weight": 1, "relation_layer": 2},
            "relation_layer: the teacher has layers 0 to 1, got 2",
        ),
    ],
)
def test_a_recovery_that_cannot_be_is_told_before_anything_is_pruned(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    recovery: dict[str, Any],
    message: str,
):
    unlabelled = replace(text_dataset, labels=None)
    context = make_context(tiny_bert_dir, calibration=unlabelled, train=unlabelled)
    with pytest.raises(ValueError, match=message):
        apply_pass(reconstruction(ratio=0.5, recovery=recovery), tiny_bert, context)
    assert units(tiny_bert) == [(4, 64), (4, 64)]


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"ratio": 0.5, "method": "reconstruction", "calibration_rows": 100}, 400),
        ({"ratio": 0.5, "importance": "fisher", "calibration_rows": 700}, 700),
        ({"ratio": 0.5, "importance": "magnitude", "calibration_rows": 700}, 0),
    ],
)
def test_as_many_calibration_rows_are_wanted_as_are_read(settings: dict[str, Any], rows: int):
    assert PruneStructured.of(settings).calibration_rows_wanted() == rows


def test_an_unsupported_architecture_is_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    tiny_bert.module.config.is_decoder = True
    with pytest.raises(UnsupportedArchitecture) as caught:
        apply_pass(PruneByScores(ratio=0.5), tiny_bert, make_context(calibration=text_dataset))
    assert caught.value.model_type == "bert"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing would be removed"),
        ({"head_ratio": 0, "neuron_ratio": 0}, "nothing would be removed"),
        ({"ratio": 0.5, "layers": 2, "drop_layers": [1]}, "exclude each other"),
        ({"drop_layers": [1, 1]}, "list each layer once"),
        ({"drop_layers": []}, "at least 1 item"),
        ({"layers": 2, "steps": 3}, "layers go at once"),
        ({"ratio": 1.0}, "less than 1"),
        ({"ratio": 0.0}, "greater than 0"),
        ({"head_ratio": 1.0}, "less than 1"),
        ({"ratio": 0.5, "round_to": 0}, "greater than 0"),
        ({"ratio": 0.5, "importance": "l1"}, "'fisher', 'entropy' or 'mutual_information'"),
        ({"ratio": 0.5, "layer_choice": "last"}, "says which layers go, but not how many"),
        ({"ratio": 0.5, "uniform": True, "scope": "global"}, "scope: global does not go with it"),
        (
            {"ratio": 0.5, "uniform": True, "may_empty_layers": True},
            "may_empty_layers does not go with it",
        ),
        (
            {"ratio": 0.5, "steps": 3, "recovery": {"kind": "finetune", "max_steps": 2}},
            "max_steps is 2 for all of the 3 steps together, and each needs one",
        ),
        (
            {"method": "reconstruction", "ratio": 0.5, "target": "latency"},
            "target: latency needs latency_precision, because times depend on it",
        ),
        (
            {"method": "reconstruction", "ratio": 0.5, "latency_precision": "int8"},
            "latency_precision belongs to target: latency",
        ),
        ({"method": "fit"}, "'scores' or 'reconstruction'"),
        ({"method": "reconstruction"}, "ratio\n.*Field required"),
        ({"method": "reconstruction", "layers": 1}, "ratio\n.*Field required"),
        (
            {"method": "reconstruction", "ratio": 0.5, "neuron_ratio": 0.2},
            "decides itself how many heads and neurons go",
        ),
        (
            {"method": "reconstruction", "ratio": 0.5, "head_ratio": 0, "neuron_ratio": 0},
            "nothing would be removed",
        ),
        (
            {
                "method": "reconstruction",
                "ratio": 0.5,
                "head_ratio": 0,
                "neuron_ratio": 0,
                "drop_layers": [0],
            },
            "keep all heads and all neurons, so no ratio can be reached",
        ),
        (
            {"method": "reconstruction", "ratio": 0.5, "latency_threads": 4},
            "latency_threads belongs to target: latency",
        ),
        (
            {
                "method": "reconstruction",
                "ratio": 0.5,
                "target": "flops",
                "latency_threads": 4,
                "latency_batch_size": 32,
            },
            "latency_batch_size and latency_threads belong to target: latency",
        ),
        ({"ratio": 0.5, "recovery": {"kind": "prune"}}, "'finetune', 'distill'"),
        ({"ratio": 0.5, "ration": 0.5}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        PruneStructured.of(settings)


RECIPE = """\
model: {{checkpoint: org/model}}
data: {{search: {{path: dev.tsv}}}}
budget: {{max_drop: 0.1}}
passes: [{{kind: prune_structured, {}}}]
"""


@pytest.mark.parametrize(
    ("settings", "mistakes"),
    [
        ("{ratio: 0.5, target: flops}", ["target belongs to method: reconstruction"]),
        ("{ratio: 0.5, latency_threads: 2}", ["latency_threads belongs to method: reconstruction"]),
        (
            "{method: reconstruction, ratio: 0.5, scope: layer, importance: random}",
            ["scope belongs to method: scores", "importance belongs to method: scores"],
        ),
        (
            "{ratio: 0.5, ridge: 0.1, ration: 0.5}",
            [
                "ridge belongs to method: reconstruction; set method: reconstruction, or leave",
                "unknown key 'ration', did you mean 'ratio'?",
            ],
        ),
    ],
)
def test_a_setting_of_the_other_method_says_whose_it_is(settings: str, mistakes: list[str]):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE.format(settings[1:-1]), path="recipe.yaml")
    assert len(caught.value.mistakes) == len(mistakes)
    for mistake in mistakes:
        assert mistake in str(caught.value)


TABLE = {
    "format": 3,
    "situation": {"max_heads": 4, "max_neurons": 64},
    "made_on": {},
    "others": {"attention": [[0, 0.1], [4, 0.5]], "feed_forward": [[0, 0.1], [64, 0.5]]},
    "last": {"attention": [[0, 0.1], [4, 0.5]], "feed_forward": [[0, 0.1], [64, 0.5]]},
    "measured": {},
}
BY_LATENCY = {
    "method": "reconstruction",
    "ratio": 0.5,
    "target": "latency",
    "latency_precision": "int8",
    "latency_table": "tables/one.json",
}


def test_a_given_latency_table_lies_beside_the_recipe_and_is_no_measurement(tmp_path: Path):
    path = tmp_path / "tables" / "one.json"
    path.parent.mkdir()
    path.write_text(json.dumps(TABLE), encoding="utf-8")

    found = PruneStructured.of(BY_LATENCY, context={"base_dir": tmp_path})

    assert found.required_files() == {"latency_table": path}
    assert found.file_digests() == {"latency_table": sha256(path.read_bytes()).hexdigest()}
    assert not found.measures_time
    assert PruneStructured.of(
        {key: value for key, value in BY_LATENCY.items() if key != "latency_table"}
    ).measures_time


def test_a_latency_table_that_is_none_is_a_mistake_in_the_recipe(tmp_path: Path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "one.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValidationError, match="is no latency table of format 3"):
        PruneStructured.of(BY_LATENCY, context={"base_dir": tmp_path})
    with pytest.raises(ValidationError, match="no such file"):
        PruneStructured.of(BY_LATENCY, context={"base_dir": tmp_path / "elsewhere"})


@pytest.mark.parametrize("method", [PruneByScores, PruneByReconstruction])
def test_settings_as_a_report_lists_them_with_those_of_the_other_method_are_read(
    method: type[PruneStructured],
):
    # Reports of earlier versions list every setting of both methods, with null for what is open.
    other = PruneByReconstruction if method is PruneByScores else PruneByScores
    listed = {
        **{name: field.default for name, field in other.model_fields.items()},
        **dict.fromkeys(("target", "round_to", "calibration_rows", "scope")),
        "kind": "prune_structured",
        "method": method.model_fields["method"].default,
        "ratio": 0.5,
    }
    assert PruneStructured.of(listed) == method(ratio=0.5)


def test_null_is_still_refused_where_both_methods_have_one_default():
    with pytest.raises(ValidationError, match="steps"):
        PruneStructured.of({"kind": "prune_structured", "ratio": 0.5, "steps": None})
