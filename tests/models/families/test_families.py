"""What a family says of itself is what its class in transformers does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from random_encoders import CONFIGS, PRUNABLE, TEXT, TEXTS

from compressor.models.components import component_of
from compressor.models.families import FAMILIES, EncoderParts
from compressor.models.families.prunable import first_position, why_heads_stay
from compressor.models.text_inputs import positions_of

WITHOUT_TABLE = (
    "deberta",
    "deberta-v2",
    "eurobert",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gte",
    "helium",
    "jina_embeddings_v3",
    "llama",
    "mistral",
    "modernbert",
    "nomic_bert",
    "qwen2",
    "qwen3",
    "mt5",
    "t5",
)
AFTER_PADDING = [name for name, it in FAMILIES.items() if it.first_position == "after_padding"]
# Not in the table: what a run reads off the module has to be right for them too.
NEIGHBOURS: dict[str, dict[str, Any]] = {
    "ibert": {},
    "markuplm": {"xpath_unit_hidden_size": 4},
}
OWN: dict[str, dict[str, Any]] = {
    **NEIGHBOURS,
    "longformer": {"attention_window": 8},
    "xmod": {"languages": ["en"], "default_language": "en"},
}


def encoder_of(model_type: str, **changes: Any) -> Any:
    settings = {**CONFIGS.get(model_type, TEXT), **OWN.get(model_type, {}), **changes}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **settings)
    return transformers.AutoModel.from_config(config).eval()


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("model_type", sorted({*TEXTS, *AFTER_PADDING}))
def test_the_first_position_that_is_read_is_that_of_the_class(model_type: str, padding: int):
    module = encoder_of(model_type, pad_token_id=padding)
    positions = positions_of(module)
    rows_in_front = 0 if positions is None else positions.rows - positions.limit
    assert first_position(module.config.to_dict()) == rows_in_front
    assert (positions is None) == (model_type in WITHOUT_TABLE)


@pytest.mark.parametrize("model_type", sorted({*AFTER_PADDING, *NEIGHBOURS, "mpnet", "roformer"}))
def test_a_model_reads_as_many_tokens_as_it_has_positions_and_not_one_more(model_type: str):
    module = encoder_of(model_type, pad_token_id=1, max_position_embeddings=24)
    positions = positions_of(module)
    assert positions is not None

    def read(length: int) -> None:
        with torch.no_grad():
            module(torch.full((1, length), 7), attention_mask=torch.ones(1, length).long())

    read(positions.limit)
    with pytest.raises((IndexError, RuntimeError)):
        read(positions.limit + 1)


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_heads_stay_where_a_setting_mixes_them_and_nowhere_else(model_type: str):
    config = encoder_of(model_type).config
    assert why_heads_stay(config) is None
    config.talking_head = True
    assert (why_heads_stay(config) is not None) == (model_type == "deberta")
    assert why_heads_stay(config) == why_heads_stay(config.to_dict())


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_parts_are_counted_to_attention_and_feed_forward_by_their_names(model_type: str):
    parts = FAMILIES[model_type].encoder
    assert isinstance(parts, EncoderParts)
    attention, feed_forward = parts.attention, parts.feed_forward
    for path in (attention.query, attention.key, attention.value, attention.output):
        assert component_of(f"{parts.layers}.0.{path}.weight") == "attention"
    for path in (feed_forward.ffn_in, feed_forward.ffn_out):
        assert component_of(f"{parts.layers}.0.{path}.weight") == "feed_forward"
