from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import transformers
from random_encoders import WINDOWS

from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.structure import keep_layers
from compressor.passes.prune_structured.importance import (
    layer_losses,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons
from compressor.tasks import load_task

TASK = load_task("text-classification")  # and that of images: one label for each row


def zero_bert() -> Any:
    """Return a BERT of one layer, two heads of width 2 and two neurons, all weights zero."""
    config = transformers.BertConfig(
        vocab_size=10,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2,
        max_position_embeddings=8,
    )
    module = transformers.BertForSequenceClassification(config)
    for parameter in module.parameters():
        parameter.data.zero_()
    return module


def test_magnitude_is_the_norm_of_everything_that_goes_with_a_unit():
    module = zero_bert()
    [layer] = encoder_layers(module)
    layer.attention.query.weight.data[0, 1] = 2.0  # head 0
    layer.attention.key.weight.data[1, 3] = -1.0  # head 0
    layer.attention.output.weight.data[2, 1] = 2.0  # head 0: 4 + 1 + 4 = 9
    layer.attention.value.bias.data[2] = 4.0  # head 1: 16
    layer.feed_forward.ffn_in.weight.data[0, 0] = 3.0
    layer.feed_forward.ffn_in.bias.data[1] = 4.0

    scores = magnitude_scores(encoder_layers(module))

    # The norms are 3 and 4, over their own norm 5.
    torch.testing.assert_close(scores.heads[0], torch.tensor([0.6, 0.8], dtype=torch.float64))
    torch.testing.assert_close(scores.neurons[0], torch.tensor([0.6, 0.8], dtype=torch.float64))


def test_magnitude_of_order_one_sums_magnitudes():
    module = zero_bert()
    [layer] = encoder_layers(module)
    layer.attention.query.weight.data[0, 1] = 2.0  # head 0
    layer.attention.output.weight.data[2, 1] = -1.0  # head 0: 3
    layer.attention.value.bias.data[2] = -4.0  # head 1: 4
    layer.feed_forward.ffn_in.weight.data[0, 0] = -1.0
    layer.feed_forward.ffn_in.bias.data[0] = 2.0
    layer.feed_forward.ffn_out.weight.data[3, 1] = 4.0

    scores = magnitude_scores(encoder_layers(module), order=1)

    torch.testing.assert_close(scores.heads[0], torch.tensor([0.6, 0.8], dtype=torch.float64))
    torch.testing.assert_close(scores.neurons[0], torch.tensor([0.6, 0.8], dtype=torch.float64))


def test_the_bias_of_an_output_projection_belongs_to_no_unit():
    module = zero_bert()
    [layer] = encoder_layers(module)
    layer.attention.output.bias.data.fill_(5.0)
    layer.feed_forward.ffn_out.bias.data.fill_(5.0)
    scores = magnitude_scores(encoder_layers(module))
    assert scores.heads[0].tolist() == [0.0, 0.0]
    assert scores.neurons[0].tolist() == [0.0, 0.0]


def first_order_change(encoder: Any, labels: torch.Tensor) -> tuple[list[Any], list[Any]]:
    """Return the mean of |sum of weight times gradient| over the columns of each unit.

    This is what a gate's gradient must equal, by the chain rule, computed without gates and with
    one backward pass for each example.
    """
    layers = encoder_layers(encoder.module)
    heads = [torch.zeros(layer.num_heads) for layer in layers]
    neurons = [torch.zeros(layer.num_neurons) for layer in layers]
    for row in range(3):
        encoder.module.zero_grad()
        inputs = {name: value[row : row + 1] for name, value in encoder.inputs.items()}
        logits = encoder.module(**inputs).logits
        torch.nn.functional.cross_entropy(logits, labels[row : row + 1]).backward()
        for layer in layers:
            for sums, linear, width in (
                (heads[layer.index], layer.attention.output, 8),
                (neurons[layer.index], layer.feed_forward.ffn_out, 1),
            ):
                columns = (linear.weight * linear.weight.grad).detach().sum(dim=0)
                sums += columns.view(-1, width).sum(dim=1).abs() / 3
    return heads, neurons


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", ["albert", "bert", "distilbert", "gte", "modernbert", "vit"])
def test_taylor_is_the_first_order_change_of_the_loss(
    make_encoder, model_type: str, attention: str
):
    encoder = make_encoder(model_type, attention)
    heads, neurons = first_order_change(encoder, encoder.labels)

    scores = taylor_scores(find_encoder(encoder.module), [(encoder.inputs, encoder.labels)], TASK)

    close = {"atol": 1e-6, "rtol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(list(scores.heads), heads, **close)
    torch.testing.assert_close(list(scores.neurons), neurons, **close)


def test_taylor_does_not_depend_on_how_examples_are_batched(make_encoder):
    encoder = make_encoder("bert")
    rows = [
        ({name: value[row : row + 1] for name, value in encoder.inputs.items()}, label.view(1))
        for row, label in enumerate(encoder.labels)
    ]

    together = taylor_scores(find_encoder(encoder.module), [(encoder.inputs, encoder.labels)], TASK)
    apart = taylor_scores(find_encoder(encoder.module), rows, TASK)

    torch.testing.assert_close(apart.heads, together.heads, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(apart.neurons, together.neurons, atol=1e-6, rtol=1e-4)


def test_taylor_without_labels_takes_the_predicted_classes(make_encoder):
    encoder = make_encoder("bert")
    predicted = encoder.logits().argmax(dim=-1)

    own = taylor_scores(find_encoder(encoder.module), [(encoder.inputs, None)], TASK)
    given = taylor_scores(find_encoder(encoder.module), [(encoder.inputs, predicted)], TASK)

    torch.testing.assert_close(own.heads, given.heads)
    torch.testing.assert_close(own.neurons, given.neurons)


def test_taylor_works_in_chunks_in_frozen_models_and_leaves_no_trace(make_encoder):
    encoder = make_encoder("bert")
    chunked = make_encoder("bert", chunk_size_feed_forward=1)
    chunked.module.train()
    for parameter in chunked.module.parameters():
        parameter.requires_grad_(False)

    expected = taylor_scores(find_encoder(encoder.module), [(encoder.inputs, encoder.labels)], TASK)
    scores = taylor_scores(find_encoder(chunked.module), [(encoder.inputs, encoder.labels)], TASK)

    torch.testing.assert_close(scores.neurons, expected.neurons, atol=1e-6, rtol=1e-4)
    assert chunked.module.training
    assert all(parameter.grad is None for parameter in encoder.module.parameters())
    assert not any(part._forward_pre_hooks for part in encoder.module.modules())


def test_sub_layers_that_are_gone_have_no_scores(make_encoder):
    encoder = make_encoder("vit")
    prune_heads(find_encoder(encoder.module), {0: [0, 1, 2, 3]})
    prune_neurons(find_encoder(encoder.module), {1: list(range(64))})

    found = (
        random_scores(encoder_layers(encoder.module), 0),
        magnitude_scores(encoder_layers(encoder.module)),
        taylor_scores(find_encoder(encoder.module), [(encoder.inputs, encoder.labels)], TASK),
    )

    assert [[len(layer) for layer in scores.heads] for scores in found] == [[0, 4]] * 3
    assert [[len(layer) for layer in scores.neurons] for scores in found] == [[64, 0]] * 3


def test_random_scores_depend_on_the_seed_alone(make_encoder):
    module = make_encoder("bert").module
    first, again, other = (random_scores(encoder_layers(module), seed) for seed in (1, 1, 2))
    assert torch.equal(first.neurons[1], again.neurons[1])
    assert not torch.equal(first.neurons[1], other.neurons[1])


def test_taylor_needs_an_example(make_encoder):
    with pytest.raises(ValueError, match="needs at least one example, got none"):
        taylor_scores(find_encoder(make_encoder("bert").module), [], TASK)


def test_scores_that_are_not_finite_name_the_layer(make_encoder):
    encoder = make_encoder("bert")
    encoder_layers(encoder.module)[1].feed_forward.ffn_in.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="magnitude of weights is not finite in layer 1"):
        magnitude_scores(encoder_layers(encoder.module))
    with pytest.raises(ValueError, match="over 3 examples is not finite in layer 0"):
        taylor_scores(find_encoder(encoder.module), [(encoder.inputs, encoder.labels)], TASK)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "vit"])
def test_layer_losses_are_those_of_models_without_the_layer(make_encoder, model_type: str):
    encoder = make_encoder(model_type)
    expected = []
    for kept in (1, 0):
        smaller = make_encoder(model_type).module
        keep_layers(find_encoder(smaller), [kept])
        logits = encoder.logits(smaller)
        expected.append(torch.nn.functional.cross_entropy(logits, encoder.labels).item())

    losses = layer_losses(find_encoder(encoder.module), [(encoder.inputs, encoder.labels)], TASK)

    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert len(encoder_layers(encoder.module)) == 2


@pytest.mark.parametrize("model_type", ["gemma2", "qwen3"])
def test_layer_losses_leave_each_layer_its_kind_of_attention(make_encoder, model_type: str):
    encoder = make_encoder(model_type, **WINDOWS)
    given = [(encoder.inputs, encoder.labels)]
    losses = layer_losses(find_encoder(encoder.module), given, TASK)
    assert encoder.module.config.layer_types == WINDOWS["layer_types"]
    keep_layers(find_encoder(encoder.module), [1, 2])
    assert encoder.module.config.layer_types == ["sliding_attention", "full_attention"]
    logits = encoder.logits()
    expected = torch.nn.functional.cross_entropy(logits, encoder.labels)
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_layer_losses_without_labels_compare_with_the_whole_model(make_encoder):
    encoder = make_encoder("bert")
    predicted = encoder.logits().argmax(dim=-1)
    own = layer_losses(find_encoder(encoder.module), [(encoder.inputs, None)], TASK)
    given = layer_losses(find_encoder(encoder.module), [(encoder.inputs, predicted)], TASK)
    assert torch.equal(own, given)


def test_layer_losses_need_an_example_and_a_finite_loss(make_encoder):
    encoder = make_encoder("bert")
    with pytest.raises(ValueError, match="needs at least one example, got none"):
        layer_losses(find_encoder(encoder.module), [], TASK)
    encoder.module.classifier.bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        layer_losses(find_encoder(encoder.module), [(encoder.inputs, encoder.labels)], TASK)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        *((name, {}) for name in ("bert", "modernbert", "gte", "deberta", "deberta-v2")),
        ("llama", {"num_attention_heads": 8, "head_dim": 4}),  # on 4 keys
    ],
)
def test_the_magnitude_of_a_unit_is_the_norm_of_all_the_weights_that_go_with_it(
    make_encoder, model_type: str, changes: dict[str, Any]
):
    def squares(module: Any) -> float:
        layer = find_encoder(module).layer_list[0]
        return sum(float(item.detach().double().square().sum()) for item in layer.parameters())

    encoder = make_encoder(model_type, **changes)
    scores = magnitude_scores(encoder_layers(encoder.module))
    heads, neurons = [], []
    for unit in range(4):
        without_head, without_neuron = (copy.deepcopy(encoder.module) for _ in range(2))
        prune_heads(find_encoder(without_head), {0: [unit]})
        prune_neurons(find_encoder(without_neuron), {0: [unit]})
        heads.append((squares(encoder.module) - squares(without_head)) ** 0.5)
        neurons.append((squares(encoder.module) - squares(without_neuron)) ** 0.5)
    found = scores.heads[0] / scores.heads[0][0], scores.neurons[0][:4] / scores.neurons[0][0]
    torch.testing.assert_close(found[0], torch.tensor(heads, dtype=torch.float64) / heads[0])
    torch.testing.assert_close(found[1], torch.tensor(neurons, dtype=torch.float64) / neurons[0])
