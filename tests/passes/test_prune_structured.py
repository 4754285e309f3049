from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.models.architectures import UnsupportedArchitecture, encoder_layers
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext
from compressor.passes.prune_structured import PruneStructured
from compressor.progress import SILENT
from compressor.pruning.importance import layer_losses

ContextMaker = Callable[..., PassContext]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def make_context(tmp_path: Path, notes: list[str]) -> ContextMaker:
    def make(baseline: Path | None = None, **splits: Dataset) -> PassContext:
        def load_baseline() -> TorchModel:
            assert baseline is not None, "this test's settings need no baseline"
            return load_checkpoint(baseline)

        return PassContext(
            splits=splits,
            load_baseline=load_baseline,
            device=torch.device("cpu"),
            seed=0,
            work_dir=tmp_path / "work",
            progress=SILENT,
            note=notes.append,
        )

    return make


def units(model: TorchModel) -> list[tuple[int, int]]:
    return [(layer.num_heads, layer.num_neurons) for layer in encoder_layers(model.module)]


def logits(model: TorchModel, dataset: Dataset) -> Any:
    return model.predict(model.task.encode(model.preprocessor, dataset.examples))


def test_half_of_the_heads_and_neurons_go_by_gradients(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    pruned = PruneStructured(ratio=0.5).apply(tiny_bert, make_context(calibration=text_dataset))

    (first_heads, first_neurons), (second_heads, second_neurons) = units(pruned)
    assert first_heads + second_heads == 4
    assert first_neurons + second_neurons == 64
    assert first_neurons % 8 == second_neurons % 8 == 0
    assert notes == [
        f"attention heads 8 -> 4 (by layer: {first_heads}, {second_heads})",
        f"FFN neurons 128 -> 64 (by layer: {first_neurons}, {second_neurons})",
    ]


@pytest.mark.parametrize("importance", ["random", "magnitude"])
def test_the_other_kinds_of_importance_read_no_data(
    tiny_vit: TorchModel, make_context: ContextMaker, importance: Any
):
    settings = PruneStructured(ratio=0.5, importance=importance, scope="layer")
    assert settings.required_splits() == frozenset()
    assert units(settings.apply(tiny_vit, make_context())) == [(2, 32), (2, 32)]


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

    settings = PruneStructured(ratio=0.5, scope="layer")
    pruned = settings.apply(tiny_bert, make_context(calibration=text_dataset))

    np.testing.assert_allclose(logits(pruned, text_dataset), expected, atol=1e-5)
    assert abs(before - expected).max() > 0.01


def test_heads_and_neurons_have_ratios_of_their_own(
    tiny_vit: TorchModel, image_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    settings = PruneStructured(ratio=0.5, head_ratio=0, scope="layer")
    pruned = settings.apply(tiny_vit, make_context(calibration=image_dataset))
    assert units(pruned) == [(4, 32), (4, 32)]
    assert notes == ["FFN neurons 128 -> 64 (by layer: 32, 32)"]


def test_steps_reach_the_same_ratio_with_recovery_in_between(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    settings = PruneStructured.model_validate(
        {
            "ratio": 0.5,
            "scope": "layer",
            "steps": 2,
            "recovery": {"kind": "finetune", "max_steps": 1, "batch_size": 8},
        }
    )
    assert settings.required_splits() == {"calibration", "train"}

    pruned = settings.apply(tiny_bert, make_context(calibration=text_dataset, train=text_dataset))

    assert units(pruned) == [(2, 32), (2, 32)]
    assert [note.partition(":")[0] for note in notes] == [
        "recovery after step 1 of 2",
        "attention heads 8 -> 4 (by layer",
        "FFN neurons 128 -> 64 (by layer",
        "recovery after step 2 of 2",
    ]


def test_distillation_brings_the_pruned_model_back_towards_the_baseline(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    baseline = logits(tiny_bert, text_dataset)
    context = make_context(tiny_bert_dir, calibration=text_dataset, train=text_dataset)
    raw = PruneStructured(ratio=0.5).apply(tiny_bert.clone(), context)
    recovery = {"kind": "distill", "epochs": 5, "batch_size": 8, "learning_rate": 1e-3}
    settings = PruneStructured.model_validate({"ratio": 0.5, "recovery": recovery})

    recovered = settings.apply(tiny_bert, context)

    def distance(model: TorchModel) -> float:
        return float(abs(logits(model, text_dataset) - baseline).mean())

    assert units(recovered) == units(raw)
    assert distance(recovered) < distance(raw)


def test_listed_layers_go(tiny_bert: TorchModel, make_context: ContextMaker, notes: list[str]):
    second = tiny_bert.module.bert.encoder.layer[1]
    settings = PruneStructured(drop_layers=(0,))
    assert settings.required_splits() == frozenset()

    pruned = settings.apply(tiny_bert, make_context())

    assert list(pruned.module.bert.encoder.layer) == [second]
    assert notes == ["layers 2 -> 1 (those that stay, counted from 0: 1)"]


def test_the_layer_without_which_the_loss_is_lowest_goes(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    encoded = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}
    assert text_dataset.labels is not None
    losses = layer_losses(tiny_bert.module, [(inputs, torch.from_numpy(text_dataset.labels))])
    stays = tiny_bert.module.bert.encoder.layer[1 - int(losses.argmin())]
    settings = PruneStructured(layers=1)
    assert settings.required_splits() == {"calibration"}

    pruned = settings.apply(tiny_bert, make_context(calibration=text_dataset))

    assert list(pruned.module.bert.encoder.layer) == [stays]


def test_after_dropping_a_layer_the_rest_learns_from_the_layers_it_was(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
):
    from compressor.passes import _structured

    seen = []

    def distill(*arguments: Any, layer_map: Any) -> Any:
        seen.append(layer_map)
        return original(*arguments, layer_map=layer_map)

    original = _structured.distill
    monkeypatch.setattr(_structured, "distill", distill)
    recovery = {"kind": "distill", "max_steps": 1, "batch_size": 8, "hidden_weight": 1.0}
    settings = PruneStructured.model_validate({"drop_layers": [0], "recovery": recovery})

    settings.apply(tiny_bert, make_context(tiny_bert_dir, train=text_dataset))

    assert seen == [((0, 1),)]


def test_layers_may_lose_all_their_units_where_that_is_allowed(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, tmp_path: Path
):
    for linear in ("attention.output.dense", "output.dense"):
        tiny_bert.module.bert.encoder.layer[0].get_submodule(linear).weight.data.zero_()
    settings = PruneStructured(ratio=0.5, may_empty_layers=True)

    pruned = settings.apply(tiny_bert, make_context(calibration=text_dataset))

    assert units(pruned) == [(0, 0), (4, 64)]
    pruned.save(tmp_path)
    loaded = load_checkpoint(tmp_path)
    np.testing.assert_array_equal(logits(loaded, text_dataset), logits(pruned, text_dataset))


def test_rows_without_labels_are_measured_against_the_models_own_answers(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    own = logits(tiny_bert, text_dataset).argmax(axis=-1)
    unlabelled = replace(text_dataset, labels=None)
    answered = replace(text_dataset, labels=own)
    settings = PruneStructured(ratio=0.5)

    first = settings.apply(tiny_bert.clone(), make_context(calibration=unlabelled))
    second = settings.apply(tiny_bert.clone(), make_context(calibration=answered))

    np.testing.assert_array_equal(logits(first, text_dataset), logits(second, text_dataset))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ratio": 0.1, "scope": "layer"},
            "head_ratio: 0.1 of the heads is none (layers have [4, 4], scope is 'layer', each "
            "layer keeps a multiple of 1); use a larger ratio, or head_ratio: 0 to keep all heads",
        ),
        (
            {"neuron_ratio": 0.5, "round_to": 128},
            "neuron_ratio: 0.5 of the neurons is none (layers have [64, 64], scope is 'global', "
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
        PruneStructured(**settings).apply(tiny_bert, context)
    assert str(caught.value) == message
    assert units(tiny_bert) == [(4, 64), (4, 64)]


def test_an_unsupported_architecture_is_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    tiny_bert.module.config.is_decoder = True
    with pytest.raises(UnsupportedArchitecture) as caught:
        PruneStructured(ratio=0.5).apply(tiny_bert, make_context(calibration=text_dataset))
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
        ({"ratio": 0.5, "importance": "fisher"}, "'random', 'magnitude' or 'taylor'"),
        ({"ratio": 0.5, "recovery": {"kind": "prune"}}, "'finetune', 'distill'"),
        ({"ratio": 0.5, "ration": 0.5}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        PruneStructured.model_validate(settings)
