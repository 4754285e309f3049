from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_encoders import PRUNABLE, REPEATED, WINDOWS
from torch import Tensor

from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.passes.prune_structured.layerwise import TensorFiles, run_layer
from compressor.passes.prune_structured.reconstruct import (
    CalibrationInputs,
    keeping_totals,
    most_unknowns,
    reconstruct,
    totals_can_be_kept,
)
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons

EncoderMaker = Callable[..., Any]
Store = Callable[..., CalibrationInputs]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return what stores batches of random rows like those of an encoder, one padded by half."""

    def make(encoder: Any, num_batches: int = 3) -> CalibrationInputs:
        generator = torch.Generator().manual_seed(1)
        files = TensorFiles(tmp_path, torch.device("cpu"))
        num_tokens = 0
        for batch in range(num_batches):
            inputs: dict[str, Tensor] = {}
            for name, value in encoder.inputs.items():
                if value.is_floating_point():
                    inputs[name] = torch.randn(8, *value.shape[1:], generator=generator)
                elif name == "input_ids":
                    inputs[name] = torch.randint(5, 50, (8, 12), generator=generator)
                    inputs["attention_mask"] = torch.ones(8, 12, dtype=torch.int64)
                    inputs["attention_mask"][0, 6:] = 0
            files.put("inputs", batch, inputs)
            num_tokens += 8 * 12
        rows = 8 * num_batches
        numbers = tuple(tuple(range(start, start + 8)) for start in range(0, rows, 8))
        return CalibrationInputs(files, num_batches, rows, rows, num_tokens, num_tokens, numbers)

    return make


def fit(
    student: Any,
    teacher: Any,
    calibration: CalibrationInputs,
    ridge: float = 1e-3,
    *,
    refits_inputs: bool = False,
) -> None:
    reconstruct(
        find_encoder(student),
        find_encoder(teacher),
        calibration,
        ridge=ridge,
        advance=lambda: None,
        refits_inputs=refits_inputs,
    )


def fit_error(student: Any, teacher: Any, calibration: CalibrationInputs) -> float:
    with torch.no_grad():
        errors = [
            (student(**inputs).logits - teacher(**inputs).logits).square().mean()
            for inputs in calibration
        ]
    return float(torch.stack(errors).mean())


@pytest.mark.parametrize("model_type", [*PRUNABLE, *REPEATED])
def test_a_model_that_keeps_everything_stays_as_it_is(
    make_encoder: EncoderMaker, store: Store, model_type: str
):
    encoder = make_encoder(model_type)
    student = copy.deepcopy(encoder.module)
    fit(student, encoder.module, store(encoder), refits_inputs=True)
    torch.testing.assert_close(encoder.logits(student), encoder.logits(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", [*PRUNABLE, *REPEATED])
def test_output_projections_that_were_spoilt_are_found_again(
    make_encoder: EncoderMaker, store: Store, model_type: str
):
    encoder = make_encoder(model_type)
    student = copy.deepcopy(encoder.module)
    for layer in encoder_layers(student):
        assert layer.attention is not None
        assert layer.feed_forward is not None
        layer.attention.output.weight.data.mul_(0.5)
        if layer.attention.output.bias is not None:
            layer.attention.output.bias.data.add_(1.0)
        layer.feed_forward.ffn_out.weight.data.mul_(-1.0)
    assert (encoder.logits(student) - encoder.logits()).abs().max() > 0.1
    fit(student, encoder.module, store(encoder), ridge=1e-9)
    torch.testing.assert_close(encoder.logits(student), encoder.logits(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("model_type", ["modernbert", "qwen2", "qwen3"])
def test_layers_that_see_a_window_of_tokens_are_fitted_with_it(
    make_encoder: EncoderMaker, store: Store, model_type: str
):
    windows = {**WINDOWS, "local_attention": 4} if model_type == "modernbert" else WINDOWS
    encoder = make_encoder(model_type, **windows)
    student = copy.deepcopy(encoder.module)
    for layer in encoder_layers(student):
        assert layer.feed_forward is not None
        layer.feed_forward.ffn_out.weight.data.mul_(-1.0)
    calibration = store(encoder)
    assert fit_error(student, encoder.module, calibration) > 1e-2
    fit(student, encoder.module, calibration, ridge=1e-9)
    assert fit_error(student, encoder.module, calibration) < 1e-6


def test_the_first_projection_is_the_solution_of_numpy(make_encoder: EncoderMaker, store: Store):
    encoder = make_encoder("bert")
    calibration = store(encoder)
    student = copy.deepcopy(encoder.module)
    prune_heads(find_encoder(student), {0: [1, 2]})
    inputs, targets = [], []
    for batch in calibration:
        mask = batch["attention_mask"].bool()
        inputs.append(
            run_layer(find_encoder(student), 0, batch, None).attention.inputs[mask].numpy()
        )
        targets.append(
            run_layer(find_encoder(encoder.module), 0, batch, None).attention.output[mask].numpy()
        )
    rows = np.vstack(inputs).astype(np.float64)
    rows = np.hstack([rows, np.ones((len(rows), 1))])
    expected, *_ = np.linalg.lstsq(rows, np.vstack(targets).astype(np.float64))

    fit(student, encoder.module, calibration, ridge=0.0)

    part = encoder_layers(student)[0].attention
    assert part is not None
    np.testing.assert_allclose(part.output.weight.detach().numpy(), expected[:-1].T, atol=1e-4)
    np.testing.assert_allclose(part.output.bias.detach().numpy(), expected[-1], atol=1e-4)


@pytest.mark.parametrize("model_type", sorted(set(PRUNABLE) - set(REPEATED)))
def test_totals_kept_of_the_teacher_give_the_same_weights(
    make_encoder: EncoderMaker, store: Store, model_type: str
):
    encoder = make_encoder(model_type)
    calibration, teacher = store(encoder), find_encoder(encoder.module)
    again, kept = (find_encoder(copy.deepcopy(encoder.module)) for _ in range(2))
    for student in (again, kept):
        prune_heads(student, {0: [1], 1: [0]})
        prune_neurons(student, {0: [0, 1], 1: [2]})
    reconstruct(again, teacher, calibration, ridge=1e-3, advance=lambda: None)

    for inputs in keeping_totals(teacher, calibration, lambda: None):  # with gradients, as scores
        teacher.module.eval()(**inputs)
    reconstruct(kept, None, calibration, ridge=1e-3, advance=lambda: None)

    found = kept.module.state_dict()
    assert all(torch.equal(found[name], w) for name, w in again.module.state_dict().items())


def test_totals_are_kept_where_the_disk_has_room(
    make_encoder: EncoderMaker, store: Store, monkeypatch: pytest.MonkeyPatch
):
    encoder = find_encoder(make_encoder("bert").module)
    calibration = store(make_encoder("bert"))
    width, needed = encoder.module.config.hidden_size, 2 * len(encoder.layer_list) * 288 * 4
    free = {"bytes": 4 * needed * width}
    monkeypatch.setattr(TensorFiles, "free_bytes", lambda _: free["bytes"])
    assert totals_can_be_kept(encoder, calibration)
    free["bytes"] -= 1
    assert not totals_can_be_kept(encoder, calibration)
    free["bytes"] = 1 << 50
    many = replace(calibration, num_tokens=1 << 40)
    assert not totals_can_be_kept(encoder, many)
    assert not totals_can_be_kept(find_encoder(make_encoder("albert").module), calibration)


def test_a_layer_that_is_run_again_is_fitted_once_to_all_its_runs(
    make_encoder: EncoderMaker, store: Store
):
    encoder = make_encoder("albert", inner_group_num=1, num_hidden_layers=3)
    calibration = store(encoder)
    student = copy.deepcopy(encoder.module)
    prune_heads(find_encoder(student), {0: [1, 2]})
    teacher_layer, layer = (
        module.albert.encoder.albert_layer_groups[0].albert_layers[0]
        for module in (encoder.module, student)
    )
    inputs, targets = [], []
    layer.attention.dense.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    teacher_layer.attention.dense.register_forward_hook(lambda _, __, out: targets.append(out))
    rows, wanted = [], []
    for batch in calibration:
        mask = batch["attention_mask"]
        hides = torch.zeros(8, 1, 12, 12).masked_fill(mask[:, None, None] == 0, -1e9)
        with torch.no_grad():
            found = encoder.module.albert(**batch, output_hidden_states=True).hidden_states
            inputs.clear()
            targets.clear()
            for states in found[:-1]:
                layer.attention(states, hides)
                teacher_layer.attention(states, hides)
        assert len(inputs) == len(targets) == 3
        rows += [its[mask.bool()].double().numpy() for its in inputs]
        wanted += [its[mask.bool()].double().numpy() for its in targets]
    matrix = np.hstack([np.vstack(rows), np.ones((len(np.vstack(rows)), 1))])
    expected, *_ = np.linalg.lstsq(matrix, np.vstack(wanted))

    before = fit_error(student, encoder.module, calibration)
    fit(student, encoder.module, calibration, ridge=0.0)

    dense = layer.attention.dense
    np.testing.assert_allclose(dense.weight.detach().numpy(), expected[:-1].T, atol=1e-4)
    np.testing.assert_allclose(dense.bias.detach().numpy(), expected[-1], atol=1e-4)
    assert fit_error(student, encoder.module, calibration) < 0.5 * before


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "t5", "deberta-v2", "gpt2", "vit"])
def test_refitted_inputs_make_up_for_what_was_lost_below(
    make_encoder: EncoderMaker, store: Store, model_type: str
):
    encoder = make_encoder(model_type)
    calibration = store(encoder, num_batches=6)
    student = copy.deepcopy(encoder.module)
    prune_neurons(find_encoder(student), {0: range(48)})
    fit(student, encoder.module, calibration, refits_inputs=True)
    for name in ("value", "ffn_in"):
        (read, own), (wanted, old) = (linear_with_inputs(each, name, calibration)
                                      for each in (student, encoder.module))  # fmt: skip
        target = old(wanted)
        without, refitted = ((linear(read) - target).square().mean() for linear in (old, own))
        assert refitted < without


@torch.no_grad()
def linear_with_inputs(
    module: Any, name: str, calibration: CalibrationInputs
) -> tuple[Tensor, torch.nn.Linear]:
    """Return what a linear layer of layer 1 reads where no padding is, and the layer itself."""
    layer = encoder_layers(module)[1]
    linear: torch.nn.Linear = getattr(
        layer.attention if name == "value" else layer.feed_forward, name
    )
    seen: list[Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for batch in calibration:
        module(**batch)
        mask = batch.get("attention_mask")
        seen[-1] = seen[-1].flatten(0, 1) if mask is None else seen[-1][mask.bool()]
    hook.remove()
    return torch.cat(seen), linear


def test_inputs_of_a_layer_without_units_are_not_refitted(make_encoder: EncoderMaker, store: Store):
    encoder = make_encoder("bert")
    student = copy.deepcopy(encoder.module)
    prune_heads(find_encoder(student), {1: range(4)})
    prune_neurons(find_encoder(student), {0: range(64)})
    fit(student, encoder.module, store(encoder), refits_inputs=True)
    assert all(bool(value.isfinite().all()) for value in student.parameters())


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "vit", "dinov2"])
def test_what_stays_comes_closer_to_the_teacher(
    make_encoder: EncoderMaker, store: Store, model_type: str
):
    encoder = make_encoder(model_type)
    calibration = store(encoder)
    student = copy.deepcopy(encoder.module)
    prune_heads(find_encoder(student), {0: [0], 1: [2, 3]})
    prune_neurons(find_encoder(student), {0: range(20), 1: range(10)})
    before = fit_error(student, encoder.module, calibration)
    fit(student, encoder.module, calibration)
    assert fit_error(student, encoder.module, calibration) < 0.5 * before


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "vit"])
def test_of_a_sub_layer_without_units_the_constant_is_fitted(
    make_encoder: EncoderMaker, store: Store, model_type: str
):
    encoder = make_encoder(model_type)
    calibration = store(encoder)
    student = copy.deepcopy(encoder.module)
    prune_heads(find_encoder(student), {0: range(4)})
    outputs = []
    for batch in calibration:
        output = run_layer(find_encoder(encoder.module), 0, batch, None).attention.output
        mask = batch.get("attention_mask", torch.ones(output.shape[:2])).bool()
        outputs.append(output[mask])

    fit(student, encoder.module, calibration)

    trace = run_layer(find_encoder(student), 0, calibration[0], None)
    torch.testing.assert_close(
        trace.attention.output[0, 0], torch.cat(outputs).mean(dim=0), rtol=0, atol=1e-5
    )


def test_the_largest_sub_layer_says_how_many_unknowns_there_are(make_encoder: EncoderMaker):
    layers = encoder_layers(make_encoder("bert").module)
    assert most_unknowns(layers) == 65  # 64 neurons and the bias


def test_with_few_rows_no_sub_layer_is_worse_on_rows_left_out_than_without_a_fit(
    make_encoder: EncoderMaker, store: Store
):
    encoder = make_encoder("bert")
    student = copy.deepcopy(encoder.module)
    prune_heads(find_encoder(student), {0: [0], 1: [2, 3]})
    prune_neurons(find_encoder(student), {0: range(20), 1: range(10)})

    choices = reconstruct(
        find_encoder(student),
        find_encoder(encoder.module),
        store(encoder, num_batches=1),
        ridge=1e-3,
        advance=lambda: None,
        leaves_out=True,
    )

    assert list(choices) == [
        "the attention of layer 0",
        "the feed-forward network of layer 0",
        "the attention of layer 1",
        "the feed-forward network of layer 1",
    ]
    assert max(choice.held_out for choice in choices.values()) <= 1
    assert min(choice.held_out for choice in choices.values()) < 0.9


def test_a_row_alone_leaves_every_weight_as_it_was(make_encoder: EncoderMaker, store: Store):
    encoder = make_encoder("bert")
    student = copy.deepcopy(encoder.module)
    prune_neurons(find_encoder(student), {0: range(20), 1: range(10)})
    before = copy.deepcopy(student.state_dict())
    alike = replace(store(encoder, num_batches=1), numbers=((0,) * 8,))

    choices = reconstruct(
        find_encoder(student),
        find_encoder(encoder.module),
        alike,
        ridge=1e-3,
        advance=lambda: None,
        leaves_out=True,
    )

    assert {choice.ridge for choice in choices.values()} == {None}
    torch.testing.assert_close(dict(student.state_dict()), dict(before), rtol=0, atol=0)


def test_statistics_that_are_not_finite_name_the_sub_layer(
    make_encoder: EncoderMaker, store: Store
):
    encoder = make_encoder("bert")
    student = copy.deepcopy(encoder.module)
    student.bert.encoder.layer[1].intermediate.dense.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="the feed-forward network of layer 1: the sums over"):
        fit(student, encoder.module, store(encoder))
