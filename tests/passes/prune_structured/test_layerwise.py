from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_encoders import PRUNABLE

from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.passes.prune_structured.layerwise import (
    TensorFiles,
    known_inputs,
    not_computed,
    run_layer,
)
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons

EncoderMaker = Callable[..., Any]
NORMS_FIRST = ["vit", "deit", "dinov2", "beit"]
NORMS_FIRST += ["megatron-bert", "roberta-prelayernorm", "xlm-roberta-xl"]
NORMS_FIRST += ["esm", "eurobert", "modernbert", "clip", "gemma", "gpt2", "siglip", "whisper"]


def hidden_states(encoder: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        states = encoder.module(**encoder.inputs, output_hidden_states=True).hidden_states
    return list(states)


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_layers_one_after_the_other_compute_what_the_model_computes(
    make_encoder: EncoderMaker, model_type: str
):
    encoder = make_encoder(model_type)
    expected = hidden_states(encoder)
    first = run_layer(find_encoder(encoder.module), 0, encoder.inputs, None)
    second = run_layer(find_encoder(encoder.module), 1, encoder.inputs, first.output)
    torch.testing.assert_close(first.attention.residual, expected[0])
    torch.testing.assert_close(first.output, expected[1])
    torch.testing.assert_close(second.attention.residual, expected[1])
    assert len(find_encoder(encoder.module).layer_list) == 2


def test_a_convolution_after_the_first_layer_is_part_of_what_the_second_reads(
    make_encoder: EncoderMaker,
):
    encoder = make_encoder("deberta-v2", conv_kernel_size=3, conv_act="gelu", num_hidden_layers=3)
    found, states = find_encoder(encoder.module), None
    for index, expected in enumerate(hidden_states(encoder)[1:]):
        states = run_layer(found, index, encoder.inputs, states).output
        torch.testing.assert_close(states, expected)


@pytest.mark.parametrize("model_type", NORMS_FIRST)
def test_with_the_norm_first_the_sum_is_what_leaves_the_layer(
    make_encoder: EncoderMaker, model_type: str
):
    encoder = make_encoder(model_type)
    trace = run_layer(find_encoder(encoder.module), 0, encoder.inputs, None)
    assert trace.feed_forward is not None
    torch.testing.assert_close(trace.feed_forward.total, trace.output)


@pytest.mark.parametrize("model_type", ["bert", "electra", "roberta"])
def test_with_the_norm_last_the_normalised_sum_goes_on(make_encoder: EncoderMaker, model_type: str):
    encoder = make_encoder(model_type)
    layer = find_encoder(encoder.module).layer_list[0]
    trace = run_layer(find_encoder(encoder.module), 0, encoder.inputs, None)
    assert trace.feed_forward is not None
    attention = layer.attention.output.LayerNorm(trace.attention.total)
    torch.testing.assert_close(trace.feed_forward.residual, attention)
    torch.testing.assert_close(layer.output.LayerNorm(trace.feed_forward.total), trace.output)


def test_distilberts_norms_are_last_too(make_encoder: EncoderMaker):
    encoder = make_encoder("distilbert")
    layer = find_encoder(encoder.module).layer_list[0]
    trace = run_layer(find_encoder(encoder.module), 0, encoder.inputs, None)
    assert trace.feed_forward is not None
    torch.testing.assert_close(
        layer.sa_layer_norm(trace.attention.total), trace.feed_forward.residual
    )
    torch.testing.assert_close(layer.output_layer_norm(trace.feed_forward.total), trace.output)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "vit"])
def test_a_layer_without_units_gives_the_bias_of_its_outputs(
    make_encoder: EncoderMaker, model_type: str
):
    encoder = make_encoder(model_type)
    part = encoder_layers(encoder.module)[0]
    assert part.attention is not None
    assert part.feed_forward is not None
    biases = part.attention.output.bias, part.feed_forward.ffn_out.bias
    prune_heads(find_encoder(encoder.module), {0: range(4)})
    prune_neurons(find_encoder(encoder.module), {0: range(64)})
    trace = run_layer(find_encoder(encoder.module), 0, encoder.inputs, None)
    assert trace.feed_forward is not None
    torch.testing.assert_close(trace.attention.output[0, 0], biases[0])
    torch.testing.assert_close(trace.feed_forward.output[0, 0], biases[1])
    torch.testing.assert_close(trace.output, hidden_states(encoder)[1])


def test_a_pass_can_end_after_attention(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    whole = run_layer(find_encoder(encoder.module), 0, encoder.inputs, None)
    part = run_layer(find_encoder(encoder.module), 0, encoder.inputs, None, attention_only=True)
    assert part.feed_forward is None
    assert part.output is None
    torch.testing.assert_close(part.attention.inputs, whole.attention.inputs)


def test_a_feed_forward_computed_in_chunks_is_put_together(make_encoder: EncoderMaker):
    whole, chunked = make_encoder("bert"), make_encoder("bert", chunk_size_feed_forward=1)
    expected = run_layer(find_encoder(whole.module), 0, whole.inputs, None).feed_forward
    found = run_layer(find_encoder(chunked.module), 0, chunked.inputs, None).feed_forward
    assert expected is not None
    assert found is not None
    torch.testing.assert_close(found.total, expected.total)


def test_files_give_back_what_was_put_last(tmp_path: Path):
    files = TensorFiles(tmp_path / "new", torch.device("cpu"))
    files.put("hidden", 3, {"a": torch.zeros(2, 2).T})
    files.put("hidden", 3, {"a": torch.ones(2, 2)})
    assert files.get("hidden", 3)["a"].tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_known_inputs_of_output_projections_take_the_place_of_computing_them(
    make_encoder: EncoderMaker, model_type: str
):
    encoder = make_encoder(model_type)
    found = find_encoder(encoder.module)
    layer = found.layers[0]
    expected = run_layer(found, 0, encoder.inputs, None)
    assert layer.attention is not None
    assert layer.feed_forward is not None
    assert expected.feed_forward is not None
    before = [layer.attention.value, layer.feed_forward.ffn_in]
    weights = [linear.weight.detach().clone() for linear in before]
    for linear in before:
        linear.weight.data.fill_(torch.nan)  # so whatever is computed with them shows
    with (
        known_inputs(layer.attention, expected.attention.inputs),
        known_inputs(layer.feed_forward, expected.feed_forward.inputs),
    ):
        known = run_layer(found, 0, encoder.inputs, None)
    torch.testing.assert_close(known.output, expected.output, rtol=0, atol=0)
    for linear, weight in zip(before, weights, strict=True):
        linear.weight.data.copy_(weight)
    again = run_layer(found, 0, encoder.inputs, None)
    torch.testing.assert_close(again.output, expected.output, rtol=0, atol=0)


def test_a_layer_that_computes_tokens_in_chunks_is_given_what_is_known_of_each(
    make_encoder: EncoderMaker,
):
    encoder = make_encoder("bert", chunk_size_feed_forward=1)
    found = find_encoder(encoder.module)
    expected = run_layer(found, 0, encoder.inputs, None)
    assert expected.feed_forward is not None
    with known_inputs(found.layers[0].feed_forward, expected.feed_forward.inputs):
        known = run_layer(found, 0, encoder.inputs, None)
    torch.testing.assert_close(known.output, expected.output, rtol=0, atol=0)


def test_a_sub_layer_that_is_not_computed_still_shows_what_it_reads(make_encoder: EncoderMaker):
    encoder = make_encoder("bert")
    found = find_encoder(encoder.module)
    attention = found.layers[1].attention
    assert attention is not None
    expected = run_layer(found, 0, encoder.inputs, None).output
    with not_computed(attention):
        trace = run_layer(found, 1, encoder.inputs, expected, attention_only=True)
    torch.testing.assert_close(trace.attention.residual, expected)
    assert trace.attention.output.count_nonzero() == 0
