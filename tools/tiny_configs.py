"""Small configurations of any model type that transformers has, for checks that go for breadth.

A configuration names sizes in many ways, and each has some of them. What is named here is set where
a configuration has it, and what a model type needs besides stands in a table of its own.
"""

from __future__ import annotations

from typing import Any

import transformers
from sweep_architectures import IMAGE_FAMILIES, ROWS, SOUND_FAMILIES, TEXT_FAMILIES, WAVES

LAYERS, HEADS, WIDTH, INNER, LENGTH = 2, 4, 32, 64, 66
_SIZES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (WIDTH, (
        "hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size", "embed_dim",
        "word_embed_proj_dim", "word_embedding_size",
    )),
    (LAYERS, (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers",
        "decoder_layers", "num_decoder_layers", "depth",
    )),
    (HEADS, (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
        "decoder_attention_heads", "num_key_value_heads",
    )),
    (INNER, (
        "intermediate_size", "ffn_dim", "d_ff", "d_inner", "n_inner", "hidden_dim", "ffn_size",
        "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "dff", "moe_intermediate_size",
        "shared_expert_intermediate_size",
    )),
    (ROWS, ("vocab_size",)),
    (LENGTH, (
        "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx",
    )),
    (WIDTH // HEADS, ("head_dim", "d_kv", "d_head", "qk_rope_head_dim", "v_head_dim",
                     "qk_nope_head_dim")),
    (4, ("num_experts", "num_local_experts", "n_routed_experts", "conv_kernel_size")),
    (2, ("num_experts_per_tok", "top_k", "type_vocab_size", "n_group", "topk_group")),
    (16, ("q_lora_rank", "kv_lora_rank", "entity_emb_size", "entity_vocab_size")),
    (0, ("pad_token_id", "pad_index")),
    (3, ("eos_token_id", "sep_token_id")),
)  # fmt: skip
# Beside these, and beside what `sweep_architectures` takes a model type with.
_OWN: dict[str, dict[str, Any]] = {
    "bit": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4},
    "convnextv2": {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "patch_size": 2},
    "cvt": {
        "patch_sizes": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
        "embed_dim": [16, 32],
        "num_heads": [2, 4],
        "depth": [1, 1],
        "mlp_ratio": [2.0, 2.0],
        "attention_drop_rate": [0.0, 0.0],
        "drop_rate": [0.0, 0.0],
        "drop_path_rate": [0.0, 0.0],
        "qkv_bias": [True, True],
        "cls_token": [False, True],
        "qkv_projection_method": ["dw_bn", "dw_bn"],
        "kernel_qkv": [3, 3],
        "padding_kv": [1, 1],
        "stride_kv": [2, 2],
        "padding_q": [1, 1],
        "stride_q": [1, 1],
    },
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.2, "hidden_dim": 32},
    "focalnet": {
        "embed_dim": 16,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
        "image_size": 16,
        "patch_size": 2,
    },
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "hgnet_v2": {
        "embedding_size": 8,
        "stem_channels": [3, 8, 8],
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "stage_in_channels": [8, 8],
        "stage_mid_channels": [8, 8],
        "stage_out_channels": [8, 16],
        "stage_num_blocks": [1, 1],
        "stage_numb_of_layers": [2, 2],
        "stage_downsample": [False, True],
        "stage_light_block": [False, True],
        "stage_kernel_size": [3, 3],
    },
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "visual_embed": False},
    "lilt": {"hidden_size": 48},  # six parts, and four heads a fourth as wide
    "markuplm": {
        "max_tree_id_unit_embeddings": 8,
        "max_xpath_tag_unit_embeddings": 8,
        "max_xpath_subs_unit_embeddings": 8,
        "tag_pad_id": 7,
        "subs_pad_id": 7,
    },
    "mobilenet_v1": {"image_size": 32, "depth_multiplier": 0.25, "initializer_range": 0.3},
    "mobilevit": {
        "image_size": 32,
        "hidden_sizes": [16, 16, 16],
        "num_attention_heads": 2,
        "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
    },
    "mobilevitv2": {"image_size": 32, "width_multiplier": 0.1},
    "nemotron": {"num_key_value_heads": 4, "head_dim": 8},
    "poolformer": {
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "num_encoder_blocks": 2,
        "patch_sizes": [3, 3],
        "strides": [2, 2],
        "padding": [1, 1],
    },
    "pvt": {
        "image_size": 32,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "num_encoder_blocks": 2,
        "sequence_reduction_ratios": [2, 1],
        "patch_sizes": [4, 2],
        "strides": [4, 2],
        "num_attention_heads": [2, 4],
        "mlp_ratios": [2, 2],
    },
    "pvt_v2": {
        "image_size": 32,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "num_encoder_blocks": 2,
        "sr_ratios": [2, 1],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [2, 4],
        "mlp_ratios": [2, 2],
    },
    "regnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    "roc_bert": {
        "pronunciation_vocab_size": 8,
        "shape_vocab_size": 8,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "segformer": {
        "num_encoder_blocks": 2,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [2, 4],
        "mlp_ratios": [2, 2],
    },
    "swiftformer": {
        "image_size": 32,
        "depths": [1, 1],
        "embed_dims": [16, 32],
        "downsamples": [True, True],
        "mlp_ratio": 2,
    },
}
_WAVES = ("data2vec-audio", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2-conformer",
          "wavlm")  # fmt: skip

# Those of which no configuration of sizes alone is small, or that need a package of their own.
NOT_TINY = frozenset((
    "cohere_compass_text", "cvt", "dinat", "donut-swin", "gemma3", "hunyuan_v1_dense",
    "hunyuan_v1_moe", "layoutlmv2", "levit", "metaclip_2", "ministral", "modernvbert", "perceiver",
    "qwen3_5", "qwen3_asr", "reformer", "shieldgemma2", "siglip2", "t5gemma", "t5gemma2",
    "textnet", "timm_wrapper", "ultravbert", "zamba", "zamba2",
))  # fmt: skip


def tiny_config(model_type: str, **more: Any) -> Any:
    """Return a small configuration of a model type, with settings that say what its head is."""
    known = {**TEXT_FAMILIES, **IMAGE_FAMILIES, **SOUND_FAMILIES}.get(model_type)
    if known is not None:
        return transformers.AutoConfig.for_model(model_type, **{**known, **more})
    usual = transformers.AutoConfig.for_model(model_type)
    fields = _fields(usual)
    fields.update(WAVES if model_type in _WAVES else _OWN.get(model_type, {}))
    return transformers.AutoConfig.for_model(model_type, **{**fields, **more})


def _fields(config: Any) -> dict[str, Any]:
    """Return the sizes that a configuration has, small."""
    found: dict[str, Any] = {}
    named = config.to_dict()
    for value, names in _SIZES:
        found.update({name: value for name in names if type(named.get(name)) is int})
    for name in ("initializer_range", "init_std"):
        if isinstance(named.get(name), float):
            found[name] = 0.3
    for name in ("bos_token_id", "cls_token_id"):
        if type(named.get(name)) is int:
            found[name] = 2
    if "pad_token_id" in named:
        found["pad_token_id"] = 0
    if isinstance(named.get("layer_types"), list):
        found["layer_types"] = named["layer_types"][-LAYERS:]
    return found
