from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.passes.prune_structured.activation import activation_scores, block_influences
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons


def real_tokens(encoder: Any, num_tokens: int) -> torch.Tensor:
    mask = encoder.inputs.get("attention_mask")
    return torch.ones(3, num_tokens, dtype=torch.bool) if mask is None else mask.bool()


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "vit"])
def test_block_influence_is_one_minus_the_cosine_of_hidden_states(
    make_encoder: Any, model_type: str
):
    encoder = make_encoder(model_type)
    with torch.no_grad():
        outputs = encoder.module(**encoder.inputs, output_hidden_states=True)
    states = [state[real_tokens(encoder, state.shape[1])] for state in outputs.hidden_states]
    expected = []
    for before, after in pairwise(states):  # by hand, token by token
        cosines = [
            float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
            for a, b in zip(before.double(), after.double(), strict=True)
        ]
        expected.append(1 - sum(cosines) / len(cosines))

    found = block_influences(find_encoder(encoder.module), [encoder.inputs])

    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_layer_that_only_scales_has_no_influence_and_batches_do_not_matter(make_encoder: Any):
    encoder = make_encoder("vit")
    for name in ("attention.o_proj", "mlp.fc2"):
        linear = find_encoder(encoder.module).layer_list[1].get_submodule(name)
        linear.weight.data.zero_()
        linear.bias.data.zero_()
    rows = [{name: value[i : i + 1] for name, value in encoder.inputs.items()} for i in range(3)]

    together = block_influences(find_encoder(encoder.module), [encoder.inputs])

    assert together[1].item() == pytest.approx(0, abs=1e-9)
    assert together[0].item() > 0.01
    torch.testing.assert_close(block_influences(find_encoder(encoder.module), rows), together)


def expected_scores(encoder: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Measure with the module's own attention maps and linear layers, without hooks on outputs."""
    heads, neurons = [], []
    with torch.no_grad():
        outputs = encoder.module(
            **encoder.inputs, output_hidden_states=True, output_attentions=True
        )
        for layer in encoder_layers(encoder.module):
            states = outputs.hidden_states[layer.index]  # BERT: no norm before attention
            mask = real_tokens(encoder, states.shape[1])
            values = layer.attention.value(states).view(3, -1, 4, 8).transpose(1, 2)
            context = (outputs.attentions[layer.index] @ values).transpose(1, 2)[mask]
            heads.append(context.square().sum(dim=(0, 2)).sqrt())
            attended = layer.module.attention.output(
                (outputs.attentions[layer.index] @ values).transpose(1, 2).flatten(2), states
            )
            inner = torch.nn.functional.gelu(layer.feed_forward.ffn_in(attended))[mask]
            neurons.append(inner.square().sum(dim=0).sqrt())
    return [h / h.norm() for h in heads], [n / n.norm() for n in neurons]


def test_activation_scores_are_the_norms_of_what_units_compute_on_real_tokens(make_encoder: Any):
    encoder = make_encoder("bert")
    heads, neurons = expected_scores(encoder)
    scores = activation_scores(find_encoder(encoder.module), [encoder.inputs])
    close = {"atol": 1e-6, "rtol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(list(scores.heads), heads, **close)
    torch.testing.assert_close(list(scores.neurons), neurons, **close)


def test_activation_scores_do_not_depend_on_chunks_and_skip_what_is_gone(make_encoder: Any):
    plain, chunked = make_encoder("bert"), make_encoder("bert", chunk_size_feed_forward=1)
    for encoder in (plain, chunked):
        prune_heads(find_encoder(encoder.module), {0: [0, 1, 2, 3]})
        prune_neurons(find_encoder(encoder.module), {1: list(range(64))})
    expected = activation_scores(find_encoder(plain.module), [plain.inputs])
    found = activation_scores(find_encoder(chunked.module), [chunked.inputs])
    assert [len(layer) for layer in found.heads] == [0, 4]
    assert [len(layer) for layer in found.neurons] == [64, 0]
    torch.testing.assert_close(found.heads, expected.heads)
    torch.testing.assert_close(found.neurons, expected.neurons)
    assert not any(part._forward_hooks for part in plain.module.modules())


def test_activations_need_an_example_and_finite_values(make_encoder: Any):
    encoder = make_encoder("bert")
    for measure in (activation_scores, block_influences):
        with pytest.raises(ValueError, match="need at least one example"):
            measure(find_encoder(encoder.module), [])
    encoder_layers(encoder.module)[1].feed_forward.ffn_in.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="neurons of layer 1 do on the calibration split is not"):
        activation_scores(find_encoder(encoder.module), [encoder.inputs])
    with pytest.raises(ValueError, match="hidden states around layer 1 are not finite"):
        block_influences(find_encoder(encoder.module), [encoder.inputs])


def test_what_layers_with_the_same_weights_compute_is_added_up_without_padding(make_encoder: Any):
    encoder = make_encoder("albert")
    encoder.inputs["attention_mask"][:, 4:] = 0
    short = {name: value[:, :4] for name, value in encoder.inputs.items()}
    found = activation_scores(find_encoder(encoder.module), [encoder.inputs])
    expected = activation_scores(find_encoder(encoder.module), [short])
    torch.testing.assert_close(found.heads, expected.heads)
    torch.testing.assert_close(found.neurons, expected.neurons)
    one_run = copy.deepcopy(encoder.module)
    one_run.config.num_hidden_layers = 1
    other = activation_scores(find_encoder(one_run), [short])
    assert not torch.allclose(found.neurons[0], other.neurons[0], atol=1e-3)
