"""Attention maps are probabilities, of the heads that are there."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.attribution.attentions import MOST_TOKENS, attention_maps
from compressor.models.families.layers import find_encoder
from compressor.models.structure import remove_attention, set_num_heads
from compressor.models.torch_model import TorchModel


def test_each_token_shares_out_its_attention(tiny_bert: TorchModel):
    maps = attention_maps(tiny_bert, "a good film")
    assert maps is not None
    assert maps.tokens == ("[CLS]", "a", "good", "film", "[SEP]")
    for layer in maps.layers:
        assert layer.weights.shape == (layer.num_heads, 5, 5)
        assert layer.weights.sum(axis=-1) == pytest.approx(np.ones((layer.num_heads, 5)), abs=1e-5)


def test_the_model_computes_attention_as_before_afterwards(tiny_bert: TorchModel):
    before = tiny_bert.module.config._attn_implementation
    attention_maps(tiny_bert, "a good film")
    assert tiny_bert.module.config._attn_implementation == before


def test_heads_that_are_gone_are_missing(tiny_bert: TorchModel):
    first, second, *_ = find_encoder(tiny_bert.module).layers
    dense = first.num_heads
    remove_attention(first)
    assert second.attention is not None
    second.attention.keep(range(dense - 1))
    set_num_heads(second, dense - 1)
    maps = attention_maps(tiny_bert, "a good film")
    assert maps is not None
    assert [layer.num_heads for layer in maps.layers[:2]] == [0, dense - 1]
    assert maps.layers[0].weights.shape == (0, 5, 5)
    assert maps.layers[1].weights.shape == (dense - 1, 5, 5)


def test_long_texts_and_images_have_no_maps(tiny_bert: TorchModel, tiny_vit: TorchModel):
    assert attention_maps(tiny_bert, " ".join(["good"] * MOST_TOKENS)) is None
    assert attention_maps(tiny_vit, np.zeros((8, 8), dtype=np.uint8)) is None
