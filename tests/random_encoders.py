"""Tiny random classifiers of every supported architecture, with inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers

from compressor.models.conv1d import make_linear
from compressor.models.families import FAMILIES, EncoderParts
from compressor.tasks.feature_vector import FeatureVector
from compressor.tasks.image_encoder import AutoImageEncoder

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
    "initializer_range": 0.3,
}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 64}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 2, "num_channels": 1}
DISTILBERT = {
    "vocab_size": 50,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "num_labels": 3,
    "initializer_range": 0.3,
}
REPEATED = ["albert"]  # its layers are one set of weights, so they have tests of their own
# Halves of a pair of towers, which are built as its classifier of images is.
TOWERS = ["clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model"]
PRUNABLE = [
    name
    for name, family in FAMILIES.items()
    if isinstance(family.encoder, EncoderParts) and name not in (*REPEATED, *TOWERS)
]
IMAGES = [
    *("beit", "clip", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "siglip", "vit")
]
SOUNDS = ["audio-spectrogram-transformer", "hubert", "wav2vec2", "whisper"]
TEXTS = [name for name in PRUNABLE if name not in (*IMAGES, *SOUNDS)]
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "share_att_key": True,
    "position_biased_input": False,
    "pooler_hidden_size": 32,
}
# The number of keys is that of queries; tests of shared keys say so.
DECODER = {
    **{**TEXT, "num_key_value_heads": 4, "head_dim": 8, "pad_token_id": 0},
    **{"bos_token_id": 2, "eos_token_id": 3},
}
# Layers of two kinds, one after the other: all tokens, and a window of 3.
WINDOWS = {
    **{"num_hidden_layers": 3, "sliding_window": 3, "use_sliding_window": True},
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
}
WAVES = {
    **{**SIZES, "vocab_size": 50, "conv_dim": [16, 16], "conv_kernel": [10, 3]},
    **{"conv_stride": [5, 2], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4},
    **{"num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0},
}
PAIR = {"vision_config": IMAGE, "text_config": TEXT, "num_labels": 3}
# What is tested of these is the encoder: transformers has no classifier of some, and classifiers of
# the others hold a decoder too.
HEADLESS = ["bert-generation", "dinov3_vit", "mt5", "splinter", "t5"]
T5 = {
    **{"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    **{"initializer_factor": 3.0, "num_labels": 3, "pad_token_id": 0, "eos_token_id": 3},
}
# A family that differs from BERT in nothing is tested without a row here.
CONFIGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(TEXTS, TEXT),
    **dict.fromkeys(IMAGES, IMAGE),
    "albert": {**TEXT, "embedding_size": 16, "inner_group_num": 2, "num_hidden_layers": 3},
    "distilbert": DISTILBERT,
    "electra": {**TEXT, "embedding_size": 16},
    "deberta": {**TEXT, **RELATIVE, "max_relative_positions": -1},
    "deberta-v2": {**TEXT, **RELATIVE, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
    # Two classes classify images with DeiT, so its configuration has to say which.
    "audio-spectrogram-transformer": {**SIZES, "max_length": 32, "num_mel_bins": 16},
    "clip": {**PAIR, "projection_dim": 16},
    "deit": {**IMAGE, "architectures": ["DeiTForImageClassification"]},
    "dinov2": {**IMAGE, "mlp_ratio": 2},
    "dinov2_with_registers": {**IMAGE, "mlp_ratio": 2, "num_register_tokens": 2},
    "dinov3_vit": {**IMAGE, "num_register_tokens": 2},
    "esm": {**TEXT, "mask_token_id": 4, "pad_token_id": 1},
    "eurobert": {
        **{**TEXT, "num_key_value_heads": 4, "pad_token_id": 0, "mask_token_id": 4},
        **{"bos_token_id": 2, "eos_token_id": 3},
    },
    "gpt2": {
        **{"vocab_size": 50, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
        **{"n_inner": 64, "initializer_range": 0.3, "pad_token_id": 0, "num_labels": 3},
        **{"bos_token_id": 2, "eos_token_id": 3},
    },
    "modernbert": {
        **{**TEXT, "initializer_range": 1.0, "initializer_cutoff_factor": 10.0},
        **{"global_attn_every_n_layers": 2, "local_attention": 8},
        **{"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3},
        **{"bos_token_id": 2, "eos_token_id": 3},
    },
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), DECODER),
    **dict.fromkeys(("hubert", "wav2vec2"), WAVES),
    **dict.fromkeys(("helium", "llama", "mistral", "qwen2", "qwen3"), DECODER),
    "siglip": PAIR,
    "whisper": {
        **{"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64},
        **{"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 64},
        **{"vocab_size": 50, "num_mel_bins": 8, "max_source_positions": 10, "pad_token_id": 0},
        **{"decoder_start_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "init_std": 0.3},
        **{"num_labels": 3},
    },
    "mt5": {**T5, "feed_forward_proj": "gated-gelu"},
    "t5": T5,
    "rembert": {**TEXT, "input_embedding_size": 16},
    "vit": {**IMAGE, "qkv_bias": False},
    "xmod": {**TEXT, "languages": ["en"], "default_language": "en"},
}


@dataclass(frozen=True)
class Encoder:
    """A classifier in evaluation mode; texts have padding in the first row."""

    module: Any
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor

    @torch.no_grad()
    def logits(self, module: Any = None) -> torch.Tensor:
        outputs = (self.module if module is None else module)(**self.inputs)
        if "image_embeds" in outputs:
            return outputs.image_embeds
        return outputs.logits if "logits" in outputs else outputs.last_hidden_state[:, 0]


class EncoderFactory:
    def __call__(self, model_type: str, attention: str = "eager", **changes: Any) -> Encoder:
        torch.manual_seed(0)
        settings = {**CONFIGS[model_type], **changes}
        config = transformers.AutoConfig.for_model(model_type, **settings)
        if model_type in SOUNDS:
            auto: Any = transformers.AutoModelForAudioClassification
            shape = {"audio-spectrogram-transformer": (3, 32, 16), "whisper": (3, 8, 20)}
            name = "input_features" if model_type == "whisper" else "input_values"
            inputs = {name: torch.randn(shape.get(model_type, (3, 400)))}
        elif model_type in IMAGES:
            auto = transformers.AutoModelForImageClassification
            inputs = {"pixel_values": torch.randn(3, 1, 8, 8)}
        else:
            auto = transformers.AutoModelForSequenceClassification
            mask = torch.ones(3, 7, dtype=torch.int64)
            mask[0, 4:] = 0
            inputs = {"input_ids": torch.randint(5, 50, (3, 7)), "attention_mask": mask}
        if model_type in HEADLESS:
            auto = transformers.AutoModel
            if model_type in ("mt5", "t5"):
                auto = transformers.AutoModelForTextEncoding
        if model_type == "dinov3_vit":  # whose own class takes its layers for the whole
            config._attn_implementation = attention
            module = AutoImageEncoder(FeatureVector("cls")).from_config(config, dtype=torch.float32)
        else:
            module = auto.from_config(config, attn_implementation=attention)
        module.eval()
        make_linear(module)
        return Encoder(module, inputs, torch.tensor([0, 1, 2]))


@pytest.fixture(scope="session")
def make_encoder() -> EncoderFactory:
    return EncoderFactory()
