"""GPT-2 has linear layers while it is worked on, and its own in its files."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from random_encoders import CONFIGS
from safetensors.torch import load_file

from compressor.models.conv1d import TransposedLinear, as_transformers_saves, make_linear


def small_gpt2() -> transformers.GPT2ForSequenceClassification:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**CONFIGS["gpt2"])
    return transformers.GPT2ForSequenceClassification(config).eval()


def test_a_linear_layer_computes_what_the_conv1d_in_its_place_computed():
    module, ids = small_gpt2(), torch.arange(5, 14)[None]
    module.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    with torch.no_grad():
        expected = module(ids).logits
        make_linear(module)
        found = module(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    layer = module.transformer.h[0]
    assert isinstance(layer.attn.c_attn, TransposedLinear)
    assert (layer.attn.c_attn.in_features, layer.attn.c_attn.out_features) == (32, 96)
    assert not layer.mlp.c_fc.weight.requires_grad
    assert layer.mlp.c_proj.weight.requires_grad


def test_files_hold_what_transformers_reads_and_the_model_stays_linear(tmp_path: Path):
    module = small_gpt2()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    make_linear(module)
    with as_transformers_saves(module):
        module.save_pretrained(tmp_path)
    assert isinstance(module.transformer.h[1].mlp.c_proj, TransposedLinear)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], before[name]) for name in saved)
    assert "transformer.h.1.mlp.c_proj.weight" in saved
