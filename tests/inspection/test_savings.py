from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from compressor.inspection.savings import PassSaving, most_savings
from compressor.models.torch_model import TorchModel, load_checkpoint

WORD_TABLE = 36 * 32  # pieces x width of the tiny BERT
LAYERS = 2 * (4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 4 * 32)


def by_kind(model: TorchModel) -> dict[str, PassSaving]:
    return {item.kind: item for item in most_savings(model, 0.9)}


def test_pruning_can_take_the_layers_at_most(tiny_bert: TorchModel):
    found = by_kind(tiny_bert)["prune_structured"]
    assert (found.supported, found.bytes_saved, found.flops_share) == (True, 4 * LAYERS, 0.9)


@pytest.mark.parametrize(
    ("kind", "of_a_matrix", "of_a_table"),
    [
        ("quantize_dynamic", 3, 3.5),
        ("quantize_static", 3, 3.5),
        ("quantize_auto", 3, 3.5),
        ("quantize_weights", 3.5, 3.5),
        ("quantize_tensorrt", 3, 0),
    ],
)
def test_integers_take_bytes_from_weights_that_are_large_enough(
    tiny_bert: TorchModel, kind: str, of_a_matrix: float, of_a_table: float
):
    # Only feed-forward products (32 x 64) and the position table (64 x 32) have 2048 elements.
    expected = 2048 * (2 * 2 * of_a_matrix + of_a_table)
    assert by_kind(tiny_bert)[kind].bytes_saved == expected


def test_float16_takes_half(tiny_bert: TorchModel):
    total = sum(value.numel() for value in tiny_bert.module.parameters())
    assert by_kind(tiny_bert)["convert_fp16"].bytes_saved == 2 * total


def test_zeros_take_nothing_from_the_disk(tiny_bert: TorchModel):
    assert by_kind(tiny_bert)["prune_magnitude"].bytes_saved == 0


def test_a_pass_that_only_trains_claims_no_bytes(tiny_bert: TorchModel):
    assert by_kind(tiny_bert)["finetune"].bytes_saved is None


def test_an_architecture_that_cannot_be_pruned_says_why(tiny_bert: TorchModel):
    config = transformers.SqueezeBertConfig(
        vocab_size=36, embedding_size=32, hidden_size=32, num_attention_heads=4,
        intermediate_size=64, num_hidden_layers=2,
    )  # fmt: skip
    module = transformers.SqueezeBertForSequenceClassification(config)
    found = by_kind(TorchModel(module, tiny_bert.preprocessor, tiny_bert.task))
    assert not found["prune_structured"].supported
    assert found["prune_structured"].reason.startswith("its layers are convolutions in groups")
    assert found["distill"].bytes_saved is None


def test_layers_with_one_set_of_weights_save_what_that_takes(tiny_bert: TorchModel):
    config = transformers.AlbertConfig(
        vocab_size=36, embedding_size=16, hidden_size=32, num_attention_heads=4,
        intermediate_size=64, num_hidden_layers=3,
    )  # fmt: skip
    module = transformers.AlbertForSequenceClassification(config)
    found = by_kind(TorchModel(module, tiny_bert.preprocessor, tiny_bert.task))
    layer = module.albert.encoder.albert_layer_groups[0].albert_layers[0]
    held = 4 * sum(item.numel() for item in layer.parameters())
    assert 0.95 * held < (found["prune_structured"].bytes_saved or 0) <= held


def test_heads_that_have_to_stay_are_not_counted(tiny_bert: TorchModel):
    config = transformers.AutoConfig.for_model(
        "deberta", talking_head=True, vocab_size=36, hidden_size=32, num_attention_heads=4,
        intermediate_size=64, num_hidden_layers=2,
    )  # fmt: skip
    module = transformers.AutoModelForSequenceClassification.from_config(config)
    found = by_kind(TorchModel(module, tiny_bert.preprocessor, tiny_bert.task))["prune_structured"]
    feed_forward = 2 * ((32 * 64 + 64) + (64 * 32 + 32) + 2 * 32)
    assert found.bytes_saved == 4 * feed_forward
    assert found.reason.startswith("neurons only: ")


def test_filters_count_to_the_pass_that_takes_them(tiny_resnet_dir: Path):
    found = by_kind(load_checkpoint(tiny_resnet_dir))
    # The first block has one filter of 16 x 16 x 3 x 3 and each of the two others two; the filters
    # that change the number of channels are smaller.
    assert found["quantize_static"].bytes_saved == 3 * 5 * 16 * 16 * 3 * 3
    assert found["quantize_static"].reason.endswith("with convolutions: int8")
    assert found["quantize_dynamic"].bytes_saved == 0
