from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from random_encoders import CONFIGS, IMAGES, PRUNABLE, TEXTS

from compressor.models.conv1d import as_transformers_saves
from compressor.models.families.layers import encoder_layers, find_encoder
from compressor.models.families.prunable import UnsupportedArchitecture, unprunable
from compressor.models.structure import (
    EncoderShape,
    apply_shape,
    configure_shape,
    read_shape,
    rebuild,
)
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons, select_units

# transformers computes their attention in one way only.
EAGER = (
    "deberta",
    "deberta-v2",
    "gemma2",
    "megatron-bert",
    "mpnet",
    "rembert",
    "roformer",
    "splinter",
)
# Uneven, with a layer that loses all its neurons and one that loses all its heads.
CUTS = {
    "some": ({0: [1, 3], 1: [0]}, {0: [0, 5, 63], 1: list(range(10, 40))}),
    "whole sub-layers": ({1: [0, 1, 2, 3]}, {0: list(range(64)), 1: [7]}),
    "everything": ({0: [0, 1, 2, 3], 1: [3, 2, 1, 0]}, {0: list(range(64)), 1: list(range(64))}),
}


def with_units_at_zero(module: Any, heads: Any, neurons: Any) -> Any:
    """Return a dense copy in which what the units give to the layer's output is zero."""
    dense = copy.deepcopy(module)
    for layer in encoder_layers(dense):
        for head in heads.get(layer.index, []):
            layer.attention.output.weight.data[:, 8 * head : 8 * head + 8] = 0
        layer.feed_forward.ffn_out.weight.data[:, neurons.get(layer.index, [])] = 0
    return dense


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("model_type", "attention"),
    [(name, kind) for name in PRUNABLE for kind in ("eager", "sdpa")[: 1 if name in EAGER else 2]],
)
def test_a_pruned_model_equals_the_dense_one_with_those_units_at_zero(
    make_encoder, model_type: str, attention: str, cut: str
):
    heads, neurons = CUTS[cut]
    encoder = make_encoder(model_type, attention)
    before = encoder.logits()
    expected = encoder.logits(with_units_at_zero(encoder.module, heads, neurons))

    prune_heads(find_encoder(encoder.module), heads)
    prune_neurons(find_encoder(encoder.module), neurons)

    torch.testing.assert_close(encoder.logits(), expected, atol=1e-5, rtol=0)
    assert (before - expected).abs().max() > 1e-3  # the units mattered, so the test can fail


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("albert", {}),
    ("deberta-v2", {"share_att_key": False}),
    ("deberta-v2", {"share_att_key": False, "pos_att_type": ["p2c"]}),
    ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ("deberta-v2", {"relative_attention": False, "position_biased_input": True}),
    ("deberta-v2", {"embedding_size": 16, "type_vocab_size": 2}),
    ("deberta", {"pos_att_type": ["c2p"]}),
    ("deberta", {"relative_attention": False, "position_biased_input": True}),
    ("modernbert", {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
    ("modernbert", {"classifier_pooling": "mean"}),
    ("esm", {"position_embedding_type": "rotary", "token_dropout": True}),
    ("gte", {"type_vocab_size": 0, "hidden_act": "silu"}),
]


@pytest.mark.parametrize(("model_type", "changes"), VARIANTS)
def test_variants_of_a_family_lose_the_same_units_and_are_rebuilt(
    make_encoder, model_type: str, changes: dict[str, Any]
):
    heads, neurons = CUTS["some"]
    encoder = make_encoder(model_type, **changes)
    expected = encoder.logits(with_units_at_zero(encoder.module, heads, neurons))
    prune_heads(find_encoder(encoder.module), heads)
    prune_neurons(find_encoder(encoder.module), neurons)
    shape = read_shape(encoder.module)
    assert shape is not None
    fresh = make_encoder(model_type, **changes).module
    apply_shape(fresh, shape)
    fresh.load_state_dict(encoder.module.state_dict())
    torch.testing.assert_close(encoder.logits(), expected, atol=1e-5, rtol=0)
    assert torch.equal(encoder.logits(fresh), encoder.logits())


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("model_type", PRUNABLE)
def test_the_shape_and_the_weights_rebuild_a_pruned_model(make_encoder, model_type: str, cut: str):
    heads, neurons = CUTS[cut]
    encoder = make_encoder(model_type)
    prune_heads(find_encoder(encoder.module), heads)
    prune_neurons(find_encoder(encoder.module), neurons)
    shape = read_shape(encoder.module)
    assert shape is not None

    fresh = make_encoder(model_type).module
    apply_shape(fresh, EncoderShape.from_dict(json.loads(json.dumps(shape.to_dict()))))
    fresh.load_state_dict(encoder.module.state_dict())

    assert torch.equal(encoder.logits(fresh), encoder.logits())
    assert read_shape(fresh) == shape


# Heads and neurons that go from every layer, so that the configuration can still say what is left.
HAVE_HEAD_DIM = ("gte", "jina_embeddings_v3", "nomic_bert")
PLAIN = {
    **dict.fromkeys(TEXTS, (0, 16)),
    **dict.fromkeys((name for name in IMAGES if name not in ("dinov3_vit", "siglip")), (1, 16)),
    "clip": (0, 16),
    "dinov2": (3, 32),
    "dinov2_with_registers": (1, 32),
    **dict.fromkeys(HAVE_HEAD_DIM, (1, 16)),
    "mpnet": (0, 24),
}
LOAD_ALL = """
import sys, torch, transformers
for folder in sys.argv[1:]:
    inputs = torch.load(folder + "/inputs.pt")
    kind = "ForImageClassification" if "pixel_values" in inputs else "ForSequenceClassification"
    config = transformers.AutoConfig.from_pretrained(folder)
    auto = getattr(transformers, "AutoModel" + kind)
    if type(config) not in auto._model_mapping:
        auto = transformers.AutoModel
    if config.model_type in ("mt5", "t5"):  # whose plain class has a decoder
        auto = transformers.AutoModelForTextEncoding
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        outputs = model.eval()(**inputs)
        given = outputs.logits if "logits" in outputs else outputs.last_hidden_state[:, 0]
        torch.save(given, folder + "/logits.pt")
"""


def cut_evenly(module: Any, heads: int, neurons: int) -> None:
    if heads:
        prune_heads(find_encoder(module), {0: list(range(heads)), 1: list(range(4 - heads, 4))})
    prune_neurons(find_encoder(module), {0: list(range(neurons)), 1: list(range(5, 5 + neurons))})


def test_where_the_configuration_can_say_it_equal_layers_make_a_plain_checkpoint(
    make_encoder, tmp_path: Path
):
    expected = {}
    for model_type, (heads, neurons) in PLAIN.items():
        encoder = make_encoder(model_type)
        cut_evenly(encoder.module, heads, neurons)
        assert configure_shape(find_encoder(encoder.module)) == ()
        assert read_shape(encoder.module) is None
        with as_transformers_saves(encoder.module):
            encoder.module.save_pretrained(tmp_path / model_type)
        torch.save(encoder.inputs, tmp_path / model_type / "inputs.pt")
        expected[model_type] = encoder.logits()

    subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *(str(tmp_path / name) for name in PLAIN)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    for model_type, logits in expected.items():
        found = torch.load(tmp_path / model_type / "logits.pt")
        # 1e-5: transformers takes another attention kernel by itself.
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model_type", "heads", "neurons", "reason"),
    [
        ("bert", 1, 16, "cannot say 3 heads of 8 in a hidden size of 32"),
        ("distilbert", 2, 16, "cannot say 2 heads of 8 in a hidden size of 32"),
        ("dinov2", 1, 16, "(mlp_ratio) of the hidden size 32, so it cannot say 48"),
    ],
)
def test_what_the_configuration_cannot_say_is_named_and_the_shape_is_kept(
    make_encoder, model_type: str, heads: int, neurons: int, reason: str
):
    encoder = make_encoder(model_type)
    cut_evenly(encoder.module, heads, neurons)
    [found] = configure_shape(find_encoder(encoder.module))
    assert reason in found
    shape = read_shape(encoder.module)
    assert shape is not None
    fresh = type(encoder.module)._from_config(copy.deepcopy(encoder.module.config)).eval()
    apply_shape(fresh, shape)
    fresh.load_state_dict(encoder.module.state_dict())
    torch.testing.assert_close(encoder.logits(fresh), encoder.logits(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cut", CUTS)
def test_layers_that_differ_or_are_empty_leave_the_configuration_as_it_is(make_encoder, cut: str):
    encoder = make_encoder("vit")
    before = encoder.module.config.to_dict()
    prune_heads(find_encoder(encoder.module), CUTS[cut][0])
    prune_neurons(find_encoder(encoder.module), CUTS[cut][1])
    assert configure_shape(find_encoder(encoder.module)) == (
        "its layers differ, or one is without heads or neurons",
    )
    assert encoder.module.config.to_dict() == before


def test_a_model_that_was_not_pruned_is_plain_already(make_encoder):
    assert configure_shape(find_encoder(make_encoder("bert").module)) == ()


def test_removed_units_take_their_parameters_with_them(make_encoder):
    module = make_encoder("bert").module
    before = sum(parameter.numel() for parameter in module.parameters())

    prune_heads(find_encoder(module), {0: [0], 1: [1, 2]})
    prune_neurons(find_encoder(module), {1: [0, 1, 2, 3, 4]})

    # A head has 8 rows of 32 weights and a bias in q, k, v, and 8 columns of 32 in the output;
    # a neuron has a row of 32 and a bias, and a column of 32.
    removed = 3 * (3 * 8 * 33 + 8 * 32) + 5 * (33 + 32)
    assert sum(parameter.numel() for parameter in module.parameters()) == before - removed
    first, second = encoder_layers(module)
    assert (first.num_heads, first.num_neurons) == (3, 64)
    assert (second.num_heads, second.num_neurons) == (2, 59)
    assert second.attention.module.all_head_size == 16


def test_a_pruned_model_can_be_pruned_again(make_encoder):
    once, twice = make_encoder("vit"), make_encoder("vit")
    prune_heads(find_encoder(once.module), {0: [0, 2]})
    prune_neurons(find_encoder(once.module), {0: [3, 4]})

    prune_heads(find_encoder(twice.module), {0: [2]})
    prune_heads(find_encoder(twice.module), {0: [0]})
    prune_neurons(find_encoder(twice.module), {0: [4]})
    prune_neurons(find_encoder(twice.module), {0: [3]})

    assert torch.equal(once.logits(), twice.logits())


def test_pruning_leaves_training_mode_frozen_weights_and_gradients_as_they_should_be(make_encoder):
    encoder = make_encoder("bert")
    module = encoder.module.train()
    embeddings = module.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    frozen, trained = (layer.feed_forward.ffn_in for layer in encoder_layers(module))
    frozen.weight.requires_grad_(False)
    module(**encoder.inputs, labels=encoder.labels).loss.backward()

    prune_neurons(find_encoder(module), {0: [0], 1: [0]})

    assert module.training
    assert not embeddings.requires_grad
    assert not frozen.weight.requires_grad
    assert trained.weight.requires_grad
    assert trained.weight.grad is None  # the old one has the old shape


BEIT_BIASES = ("use_relative_position_bias", "use_shared_relative_position_bias")


def with_biases(encoder: Any) -> Any:
    """Return an encoder whose position biases are large; they begin at zero."""
    for name, parameter in encoder.module.named_parameters():
        if "relative_" in name and "bias" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    return encoder


@pytest.mark.parametrize(
    ("model_type", "asked"),
    [
        ("mpnet", ()),
        ("mt5", ()),
        ("t5", ()),
        *(("beit", BEIT_BIASES[:count]) for count in (1, 2)),
        ("beit", BEIT_BIASES[1:]),
    ],
)
def test_heads_are_left_with_their_own_position_biases_however_often_some_go(
    make_encoder, model_type: str, asked: tuple[str, ...]
):
    changes = dict.fromkeys(asked, True)
    encoder = with_biases(make_encoder(model_type, **changes))
    expected = encoder.logits(with_units_at_zero(encoder.module, {0: [0, 2], 1: [0, 1, 2, 3]}, {}))

    prune_heads(find_encoder(encoder.module), {0: [0], 1: [3]})
    prune_heads(find_encoder(encoder.module), {0: [1], 1: [0, 1, 2]})  # of layer 0 the third

    torch.testing.assert_close(encoder.logits(), expected, atol=1e-5, rtol=0)
    shape = read_shape(encoder.module)
    assert shape is not None
    fresh = make_encoder(model_type, **changes).module
    apply_shape(fresh, shape)
    fresh.load_state_dict(encoder.module.state_dict())
    torch.testing.assert_close(encoder.logits(fresh), expected, atol=1e-5, rtol=0)


def test_a_first_layer_without_heads_still_hands_on_the_bias_of_all_others(make_encoder):
    encoder = with_biases(make_encoder("t5"))
    expected = encoder.logits(with_units_at_zero(encoder.module, {0: [0, 1, 2, 3], 1: [2]}, {}))
    prune_heads(find_encoder(encoder.module), {0: [1], 1: [2]})
    prune_heads(find_encoder(encoder.module), {0: [0, 1, 2]})
    torch.testing.assert_close(encoder.logits(), expected, atol=1e-5, rtol=0)


def test_nothing_goes_from_a_t5_with_its_decoder():
    settings = {**CONFIGS["t5"], "decoder_start_token_id": 0}
    config = transformers.AutoConfig.for_model("t5", **settings)
    module = transformers.T5ForSequenceClassification(config)
    with pytest.raises(UnsupportedArchitecture, match="holds a decoder too"):
        find_encoder(module)
    told = unprunable({**config.to_dict(), "architectures": ["T5ForSequenceClassification"]})
    assert "T5ForSequenceClassification holds a decoder too" in str(told)
    assert unprunable({**config.to_dict(), "architectures": ["T5EncoderModel"]}) is None


def test_neurons_whose_setting_sizes_more_than_them_are_no_plain_checkpoint(make_encoder):
    module = make_encoder("siglip").module
    cut_evenly(module, 0, 16)
    assert configure_shape(find_encoder(module)) == (
        "a configuration of type 'siglip_vision_model' has one key (intermediate_size) for its "
        "neurons and for the attention that pools its states, so it cannot say 48",
    )
    assert module.config.vision_config.intermediate_size == 64


@pytest.mark.parametrize(
    ("kind", "own"),
    [("beit", {"use_shared_relative_position_bias": True}), ("mt5", {}), ("t5", {})],
)
def test_equal_layers_that_picked_from_a_shared_bias_are_no_plain_checkpoint(
    make_encoder, kind: str, own: dict[str, Any]
):
    encoder = make_encoder(kind, **own)
    prune_heads(find_encoder(encoder.module), {0: [0], 1: [1]})
    expected = encoder.logits()
    assert configure_shape(find_encoder(encoder.module)) == (
        "its layers read a bias that they share, of which some heads are gone",
    )
    assert encoder.module.config.num_attention_heads == 4  # the table of the bias has them all
    fresh = rebuild(encoder.module)
    fresh.load_state_dict(encoder.module.state_dict())
    torch.testing.assert_close(encoder.logits(fresh), expected, atol=1e-5, rtol=0)


def test_heads_that_are_mixed_with_each_other_are_refused(make_encoder):
    module = make_encoder("deberta", talking_head=True).module
    with pytest.raises(UnsupportedArchitecture) as caught:
        prune_heads(find_encoder(module), {0: [1]})
    assert caught.value.reason == "its heads are mixed with each other (talking_head)"


@pytest.mark.parametrize("model_type", ["eurobert", "llama", "mistral", "qwen2", "qwen3"])
def test_query_heads_go_with_the_key_that_they_share(make_encoder, model_type: str):
    encoder = make_encoder(model_type, num_key_value_heads=2)
    dense = copy.deepcopy(encoder.module)
    for index, group in ((0, 0), (1, 1)):
        output = encoder_layers(dense)[index].attention.output
        output.weight.data[:, 16 * group : 16 * group + 16] = 0
    expected, before = encoder.logits(dense), encoder.logits()
    assert (before - expected).abs().max() > 1e-3

    prune_heads(find_encoder(encoder.module), {0: [0], 1: [1]})

    first = encoder_layers(encoder.module)[0]
    attention = first.attention
    widths = [it.out_features for it in (attention.query, attention.key, attention.value)]
    assert (first.num_heads, widths) == (1, [16, 8, 8])
    torch.testing.assert_close(encoder.logits(), expected, atol=1e-5, rtol=0)
    shape = read_shape(encoder.module)
    assert shape is not None
    fresh = make_encoder(model_type, num_key_value_heads=2).module
    apply_shape(fresh, shape)
    fresh.load_state_dict(encoder.module.state_dict())
    assert torch.equal(encoder.logits(fresh), encoder.logits())


def test_not_all_heads_go_from_layers_that_share_their_weights(make_encoder):
    module = make_encoder("albert").module
    with pytest.raises(UnsupportedArchitecture, match="all heads of all layers would go, which"):
        prune_heads(find_encoder(module), {0: [0, 1, 2, 3]})
    assert read_shape(module) is None


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({2: [0]}, "layer 2 does not exist; layers are counted from 0 to 1"),
        ({0: [4]}, "layer 0: heads to remove must be distinct and from 0 to 3, got [4]"),
        ({1: [1, 1]}, "layer 1: heads to remove must be distinct and from 0 to 3, got [1, 1]"),
        ({1: [-1]}, "layer 1: heads to remove must be distinct and from 0 to 3, got [-1]"),
    ],
)
def test_units_that_do_not_exist_are_refused(make_encoder, units: Any, message: str):
    module = make_encoder("bert").module
    with pytest.raises(ValueError, match="layer") as caught:
        prune_heads(find_encoder(module), units)
    assert str(caught.value) == message
    assert read_shape(module) is None


SCORES = [torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.tensor([5.0, 6.0, 8.0, 7.0])]


def test_layer_scope_takes_the_lowest_share_of_every_layer():
    assert select_units(SCORES, 0.5, scope="layer") == {0: [0, 2], 1: [0, 1]}


def test_global_scope_lets_layers_compete_and_leaves_each_its_best_unit():
    assert select_units(SCORES, 0.5, scope="global") == {0: [0, 2, 3], 1: [0]}


def test_a_layer_loses_everything_where_that_is_allowed():
    removed = select_units(SCORES, 0.5, scope="global", may_empty_layers=True)
    assert removed == {0: [0, 1, 2, 3]}


def test_kept_units_are_a_multiple_of_round_to_and_blocks_compete_by_their_mean():
    scores = [torch.arange(10.0), torch.arange(10.0) + 4]
    # 10 of 20 should stay. Each layer keeps its best 4; the next blocks of 4 are 2..5 (mean 3.5)
    # and 6..9 (mean 7.5), of which one more brings 12 and none 8: equally near, so more stay.
    assert select_units(scores, 0.5, scope="global", round_to=4) == {
        0: [0, 1, 2, 3, 4, 5],
        1: [0, 1],
    }


def test_repeated_selection_reaches_the_ratio_of_the_original_units():
    scores = [torch.arange(6.0), torch.arange(8.0)]
    assert select_units(scores, 0.5, scope="layer", counts=[8, 8]) == {0: [0, 1], 1: [0, 1, 2, 3]}


def test_a_ratio_that_rounds_to_nothing_removes_nothing():
    assert select_units(SCORES, 0.1, scope="layer") == {}


@pytest.mark.parametrize(
    ("scope", "ratio", "message"),
    [
        (
            "layer",
            0.9,
            "ratio 0.9 would leave 0 of 4 units, but 1 have to stay (each layer keeps 1 or all it "
            "has); use a ratio of at most 0.75",
        ),
        (
            "global",
            0.9,
            "ratio 0.9 would leave 1 of 8 units, but 2 have to stay (each layer keeps 1 or all it "
            "has); use a ratio of at most 0.75",
        ),
    ],
)
def test_a_ratio_that_would_empty_a_layer_is_refused(scope: Any, ratio: float, message: str):
    with pytest.raises(ValueError, match="have to stay") as caught:
        select_units(SCORES, ratio, scope=scope)
    assert str(caught.value) == message
