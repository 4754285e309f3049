from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn import functional

from compressor.errors import EnvironmentMismatch
from compressor.models.families.layers import UnsupportedArchitecture, encoder_layers
from compressor.models.structure import EncoderShape, LayerShape, apply_shape, read_shape, rebuild
from compressor.models.width import kept_features
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons
from compressor.passes.prune_width.feature_groups import (
    check_width,
    choose_features,
    cut_spaces,
    reader_moments,
    spaces_of,
)

TEXT = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
ALL = (*TEXT, "beit", "deit", "dinov2", "vit")
STAY = [0, 2, 3, 7, 8, 9, 11, 12, 13, 14, 17, 19, 20, 21, 22, 25, 26, 29, 30, 31]
HEAD = list(range(5, 25))


class NormOver(nn.Module):
    """A LayerNorm over some features of a wide vector; the others are zero afterwards."""

    def __init__(self, norm: nn.LayerNorm, stay: list[int]) -> None:
        super().__init__()
        self.norm, self.stay = norm, stay

    def forward(self, wide: torch.Tensor) -> torch.Tensor:
        weight, bias = self.norm.weight[self.stay], self.norm.bias[self.stay]
        narrow = functional.layer_norm(
            wide[..., self.stay], (len(self.stay),), weight, bias, self.norm.eps
        )
        result = torch.zeros_like(wide)
        result[..., self.stay] = narrow
        return result


def wide_with_zeros(module: Any) -> Any:
    """Return a model of the old width that computes with the features that stay alone.

    What is not normalised is zero because every norm puts it to zero; where norms lie beside the
    stream, nothing else reads it.
    """
    wide = copy.deepcopy(module)
    for name, part in list(wide.named_modules()):
        if isinstance(part, nn.LayerNorm) and part.weight.shape == (32,):
            wide.set_submodule(name, NormOver(part, STAY))
    if wide.config.model_type == "electra":  # the one stream that begins without a norm
        begins = wide.electra.embeddings_project
        for value in (begins.weight.data, begins.bias.data):
            value[[index for index in range(32) if index not in STAY]] = 0
    gone = [index for index in range(32) if index not in HEAD]
    for path in ("pooler.dense", "classifier.dense", "pre_classifier"):
        for base in (wide, wide.base_model):
            try:
                linear = base.get_submodule(path)
            except AttributeError:
                continue
            reader = wide.classifier if path != "classifier.dense" else wide.classifier.out_proj
            reader.weight.data[:, gone] = 0
            assert linear.weight.shape == (32, 32)
    return wide


@pytest.mark.parametrize(
    ("model_type", "attention"),
    [(name, "eager") for name in ALL] + [(name, "sdpa") for name in ALL if name != "mpnet"],
)
def test_a_narrow_model_equals_the_wide_one_that_computes_with_the_same_features(
    make_encoder, model_type: str, attention: str
):
    encoder = make_encoder(model_type, attention)
    before = encoder.logits()
    expected = encoder.logits(wide_with_zeros(encoder.module))
    spaces = spaces_of(encoder.module)

    cut_spaces(encoder.module, spaces, [STAY, HEAD][: len(spaces)], 20)

    torch.testing.assert_close(encoder.logits(), expected, atol=1e-5, rtol=0)
    assert (before - expected).abs().max() > 1e-3  # the features mattered, so the test can fail
    assert encoder.module.config.hidden_size == 20
    assert {(layer.num_heads, layer.num_neurons) for layer in encoder_layers(encoder.module)} == {
        (4, 64)
    }


@pytest.mark.parametrize("model_type", ALL)
def test_the_configuration_the_shape_and_the_weights_rebuild_a_narrow_model(
    make_encoder, model_type: str
):
    encoder = make_encoder(model_type)
    cut_spaces(
        encoder.module, (spaces := spaces_of(encoder.module)), [STAY, HEAD][: len(spaces)], 20
    )
    prune_neurons(encoder.module, {0: [1, 2, 3]})

    fresh = rebuild(encoder.module)
    fresh.load_state_dict(encoder.module.state_dict())

    shape = read_shape(encoder.module)
    assert shape is not None
    assert shape.head_dim == 8
    assert EncoderShape.from_dict(json.loads(json.dumps(shape.to_dict()))) == shape
    assert read_shape(fresh) == shape
    assert torch.equal(encoder.logits(fresh), encoder.logits())


@pytest.mark.parametrize("model_type", ["vit", "deit", "beit"])
def test_where_heads_have_a_size_of_their_own_the_configuration_says_it_all(
    make_encoder, model_type: str
):
    encoder = make_encoder(model_type)
    cut_spaces(encoder.module, spaces_of(encoder.module), [STAY], 20)
    assert read_shape(encoder.module) is None
    assert encoder.module.config.head_dim == 8
    fresh = type(encoder.module)(copy.deepcopy(encoder.module.config))
    fresh.load_state_dict(encoder.module.state_dict())
    assert torch.equal(encoder.logits(fresh.eval()), encoder.logits())


@pytest.mark.parametrize("model_type", ALL)
def test_heads_and_neurons_go_before_and_after_the_width(make_encoder, model_type: str):
    encoder = make_encoder(model_type)
    prune_neurons(encoder.module, {0: list(range(64)), 1: [0]})
    if model_type != "mpnet":
        prune_heads(encoder.module, {0: [1], 1: [0, 1, 2, 3]})
    spaces = spaces_of(encoder.module)
    cut_spaces(encoder.module, spaces, [STAY, HEAD][: len(spaces)], 20)
    prune_neurons(encoder.module, {1: [5]})
    spaces = spaces_of(encoder.module)
    cut_spaces(encoder.module, spaces, [list(range(12))] * len(spaces), 12)
    assert encoder.logits().isfinite().all()
    wide = make_encoder(model_type).module.config
    assert kept_features(encoder.module.config, wide) == STAY[:12]
    fresh = rebuild(encoder.module)
    fresh.load_state_dict(encoder.module.state_dict())
    assert torch.equal(encoder.logits(fresh), encoder.logits())


def test_parameters_that_did_not_train_still_do_not(make_encoder):
    encoder = make_encoder("bert")
    encoder.module.bert.embeddings.requires_grad_(False)
    spaces = spaces_of(encoder.module)
    cut_spaces(encoder.module, spaces, [STAY, HEAD], 20)
    assert not encoder.module.bert.embeddings.word_embeddings.weight.requires_grad
    assert encoder.module.classifier.weight.requires_grad


def test_features_that_nothing_reads_are_the_first_to_go(make_encoder):
    encoder = make_encoder("bert")
    [stream, head] = spaces_of(encoder.module)
    unread = [1, 4, 5, 30]
    for linear in stream.readers(encoder.module).values():
        linear.weight.data[:, unread] = 0
    [kept, _] = choose_features(
        encoder.module, [stream, head], 28, "reconstruction", [encoder.inputs]
    )
    assert kept == [index for index in range(32) if index not in unread]


def test_reconstruction_drops_a_feature_that_another_one_tells(make_encoder):
    encoder = make_encoder("vit")
    module = encoder.module
    for name, value in module.named_parameters():
        rows = value.data
        if name.endswith(("o_proj.weight", "o_proj.bias", "fc2.weight", "fc2.bias")) or (
            "projection" in name or "layernorm" in name
        ):
            rows[3] = rows[9]
        elif name.endswith(("cls_token", "position_embeddings")):
            rows[..., 3] = rows[..., 9]
    [stream] = spaces_of(module)
    [kept] = choose_features(module, [stream], 31, "reconstruction", [encoder.inputs])
    assert len({3, 9} - set(kept)) == 1


@pytest.mark.parametrize("importance", ["activation", "variance"])
def test_activity_ranks_by_what_is_read(make_encoder, importance: Any):
    encoder = make_encoder("vit")
    quiet = [2, 5, 6, 11]
    for part in encoder.module.modules():
        if isinstance(part, nn.LayerNorm):
            part.weight.data[quiet] = 1e-3
            part.bias.data[quiet] = 0 if importance == "activation" else 50.0
    [stream] = spaces_of(encoder.module)
    [kept] = choose_features(encoder.module, [stream], 28, importance, [encoder.inputs])
    assert kept == [index for index in range(32) if index not in quiet]


def test_magnitude_ranks_by_all_weights_along_a_feature(make_encoder):
    encoder = make_encoder("bert")
    spaces = spaces_of(encoder.module)
    for axis in spaces[0].axes:
        encoder.module.get_parameter(axis.parameter).data.select(axis.dim, 7).zero_()
    [kept, _] = choose_features(encoder.module, spaces, 31, "magnitude", [])
    assert kept == [index for index in range(32) if index != 7]


def test_chance_depends_on_the_seed_alone(make_encoder):
    module = make_encoder("bert").module
    spaces = spaces_of(module)
    first = choose_features(module, spaces, 16, "random", [], seed=1)
    assert choose_features(module, spaces, 16, "random", [], seed=1) == first
    assert choose_features(module, spaces, 16, "random", [], seed=2) != first


def test_padding_does_not_count_in_the_moments(make_encoder):
    encoder = make_encoder("bert")
    spaces = spaces_of(encoder.module)
    name = "bert.encoder.layer.0.attention.self.query"
    states = encoder.module.bert.embeddings(encoder.inputs["input_ids"]).detach()
    real = states[encoder.inputs["attention_mask"].bool()].double()

    moments = reader_moments(encoder.module, spaces, [encoder.inputs])

    assert moments[name].count == 4 + 7 + 7
    torch.testing.assert_close(
        moments[name].covariance, torch.cov(real.T, correction=0), atol=1e-5, rtol=0
    )
    assert moments[name.replace("query", "value")] is moments[name]
    assert moments["bert.pooler.dense"].count == 3


def test_torch_pruning_still_takes_features_out_of_a_norm_in_another_order():
    # When this fails, the pruning itself can be left to torch-pruning's graph.
    norm = nn.LayerNorm(384)
    norm.weight.data = torch.arange(384.0)
    stay = [*range(20, 50), *range(130, 140)]
    torch_pruning.prune_layernorm_out_channels(norm, [i for i in range(384) if i not in stay])
    assert norm.weight.tolist() != sorted(stay)


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (32, "the model is 32 wide, so a narrower one has 1 to 31, got 32"),
        (0, "got 0"),
        (16, "16 is this model's embedding_size"),
    ],
)
def test_a_width_that_no_model_can_have_is_refused(make_encoder, width: int, message: str):
    module = make_encoder("electra").module  # its embeddings are 16 wide
    with pytest.raises(ValueError, match="width: ") as caught:
        check_width(module, width)
    assert message in str(caught.value)


def test_embeddings_as_wide_as_the_stream_become_narrower_with_it(make_encoder):
    encoder = make_encoder("electra", embedding_size=32)
    spaces = spaces_of(encoder.module)
    cut_spaces(encoder.module, spaces, [STAY, HEAD], 20)
    assert encoder.module.config.embedding_size == 20
    assert encoder.module.electra.embeddings.word_embeddings.weight.shape == (50, 20)
    fresh = rebuild(encoder.module)
    fresh.load_state_dict(encoder.module.state_dict())
    assert torch.equal(encoder.logits(fresh), encoder.logits())


@pytest.mark.parametrize("features", [[1, 0], [0, 0], [0, 1, 2]])
def test_features_to_keep_must_be_ascending_and_as_many_as_asked(make_encoder, features: list[int]):
    module = make_encoder("vit").module
    with pytest.raises(ValueError, match="2 ascending indices"):
        cut_spaces(module, spaces_of(module), [features], 2)
    assert module.config.hidden_size == 32


def test_activations_that_are_not_finite_are_refused(make_encoder):
    encoder = make_encoder("bert")
    spaces = spaces_of(encoder.module)
    encoder.module.bert.encoder.layer[0].output.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"what 'bert\.encoder\.layer\.1\..*' reads .* not finite"):
        choose_features(encoder.module, spaces, 20, "variance", [encoder.inputs])
    with pytest.raises(ValueError, match="not finite"):
        choose_features(encoder.module, spaces, 20, "magnitude", [])


def test_an_unsupported_architecture_is_refused(make_encoder):
    module = make_encoder("bert").module
    module.config.is_decoder = True
    with pytest.raises(UnsupportedArchitecture, match="decoder"):
        spaces_of(module)


def test_a_shape_of_another_width_is_refused(make_encoder):
    module = make_encoder("bert").module
    layers = (LayerShape(num_heads=4, ffn_neurons=64),) * 2
    with pytest.raises(EnvironmentMismatch, match=r"hidden_size 40, .* allows less than 32"):
        apply_shape(module, EncoderShape(head_dim=8, hidden_size=40, layers=layers))


def test_moments_do_not_depend_on_chunks(make_encoder):
    whole = make_encoder("bert")
    chunked = make_encoder("bert", chunk_size_feed_forward=1)

    expected = reader_moments(whole.module, spaces_of(whole.module), [whole.inputs])
    found = reader_moments(chunked.module, spaces_of(chunked.module), [chunked.inputs])

    assert found.keys() == expected.keys()
    for name, moments in expected.items():
        assert found[name].count == moments.count, name
        torch.testing.assert_close(
            found[name].products, moments.products, rtol=1e-5, atol=1e-4, msg=name
        )
