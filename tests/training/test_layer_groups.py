from typing import Any

import pytest
import torch
import transformers
from torch import nn

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.training.layer_groups import layer_rates
from compressor.training.recovery import check_finetuning, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun


def test_the_learning_rate_falls_from_the_head_to_the_embeddings(tiny_bert: TorchModel):
    module = tiny_bert.module
    rates = layer_rates(module, 0.5)

    found = {name: rates[id(value)] for name, value in module.named_parameters()}
    assert found["classifier.weight"] == found["bert.pooler.dense.bias"] == 1
    assert found["bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert found["bert.encoder.layer.0.attention.self.query.bias"] == 0.25
    assert found["bert.embeddings.word_embeddings.weight"] == 0.125
    assert found["bert.embeddings.LayerNorm.bias"] == 0.125


def test_what_a_model_reads_with_before_its_layers_learns_least():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    electra = transformers.ElectraModel(
        transformers.ElectraConfig(**sizes, vocab_size=50, embedding_size=16, num_hidden_layers=2)
    )
    rates = layer_rates(electra, 0.5)
    assert rates[id(electra.embeddings_project.weight)] == 0.125

    # It has as many convolutions as layers.
    convolutions = {"conv_dim": (4, 4), "conv_kernel": (10, 3), "conv_stride": (10, 8)}
    groups = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    sounds = transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(**sizes, **convolutions, **groups, num_hidden_layers=2)
    )
    rates = layer_rates(sounds, 0.5)
    assert rates[id(sounds.feature_extractor.conv_layers[1].conv.weight)] == 0.125
    assert rates[id(sounds.feature_projection.projection.weight)] == 0.125
    assert rates[id(sounds.encoder.layers[1].attention.q_proj.weight)] == 0.5


def test_the_first_step_of_adam_moves_each_layer_by_its_own_learning_rate(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    settings = FinetuneSettings(
        max_steps=1, learning_rate=1e-3, weight_decay=0, warmup_ratio=0, layer_decay=0.5
    )
    before = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}

    finetune(tiny_bert, text_dataset, settings, training_run)

    # The first step of Adam is the learning rate times the sign of the gradient.
    after = tiny_bert.module.state_dict()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert moved["classifier.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["bert.encoder.layer.1.output.dense.weight"] == pytest.approx(5e-4, rel=1e-2)
    assert moved["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(2.5e-4, rel=1e-2)
    assert moved["bert.embeddings.word_embeddings.weight"] == pytest.approx(1.25e-4, rel=1e-2)


def test_without_decay_the_weights_are_those_of_the_plain_optimizer(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    plain = tiny_bert.clone()
    settings = {"max_steps": 3, "learning_rate": 1e-3}
    finetune(plain, text_dataset, FinetuneSettings.model_validate(settings), training_run)

    almost: dict[str, Any] = {**settings, "layer_decay": 1 - 1e-12}
    finetune(tiny_bert, text_dataset, FinetuneSettings.model_validate(almost), training_run)

    for name, value in plain.module.state_dict().items():
        torch.testing.assert_close(tiny_bert.module.state_dict()[name], value)


def test_layers_that_are_not_found_are_refused(tiny_bert: TorchModel, text_dataset: Dataset):
    layers: nn.ModuleList = tiny_bert.module.bert.encoder.layer
    layers.append(layers[0])

    with pytest.raises(StepFailed, match="no list of 2 layers is found in a model of type 'bert'"):
        check_finetuning(tiny_bert, text_dataset, FinetuneSettings(layer_decay=0.9))
