"""Passes on encoders that give vectors: what works keeps them near, what cannot says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from compressor.data import Dataset
from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass, settings_of
from compressor.passes.distill.settings import Distill
from compressor.passes.prune_structured.fisher import fisher_scores
from compressor.passes.prune_structured.importance import layer_losses, taylor_scores
from compressor.passes.prune_structured.settings import PruneByReconstruction, PruneByScores
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.tasks import load_task
from compressor.tasks.pooling import Pooling
from compressor.tasks.sentence_encoder import AutoSentenceEncoder

ContextMaker = Callable[..., PassContext]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 70,
    "vocab_size": 40,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "pad_token_id": 0},
    "mpnet": {**SIZES, "pad_token_id": 0},
    "distilbert": {
        "vocab_size": 40, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64,
        "initializer_range": 0.3,
    },
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def encoder(request: pytest.FixtureRequest, tiny_bert_dir: Path) -> TorchModel:
    """Return a tiny random encoder of each architecture in turn."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(request.param, **CONFIGS[request.param])
    module = AutoSentenceEncoder(Pooling("mean", True)).from_config(config, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert_dir)
    if request.param in ("distilbert", "mpnet"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return TorchModel(module.eval(), tokenizer, load_task("sentence-embedding"))


@pytest.fixture
def texts(text_dataset: Dataset) -> Dataset:
    """Return the texts alone: vectors need no labels."""
    return Dataset("train", text_dataset.examples, None, text_dataset.rows, "generated")


def vectors(model: TorchModel, texts: Dataset) -> np.ndarray:
    return model.predict(model.task.encode(model.preprocessor, texts.examples))


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum(axis=1).mean())


@pytest.mark.parametrize("importance", ["fisher", "activation", "magnitude"])
def test_pruning_by_scores_keeps_the_width_and_loads_again(
    encoder: TorchModel, texts: Dataset, make_context: ContextMaker, tmp_path: Path, importance: str
):
    before = vectors(encoder, texts)
    # The heads of MPNet share a position bias, so only its neurons can go.
    heads = 0.0 if encoder.module.config.model_type == "mpnet" else 0.25
    step = PruneByScores(head_ratio=heads, neuron_ratio=0.5, importance=importance)
    pruned = apply_pass(step, encoder, make_context(calibration=texts))
    assert sum(layer.num_neurons for layer in encoder_layers(pruned.module)) == 64
    after = vectors(pruned, texts)
    assert after.shape == before.shape
    assert 0.3 < similarity(before, after) < 0.9999
    pruned.save(tmp_path / "saved")
    np.testing.assert_allclose(
        vectors(load_checkpoint(tmp_path / "saved"), texts), after, atol=1e-6
    )
    np.testing.assert_allclose(vectors(pruned.clone(), texts), after, atol=1e-6)


def test_reconstruction_keeps_vectors_nearer_than_chance(
    encoder: TorchModel, texts: Dataset, make_context: ContextMaker
):
    before = vectors(encoder, texts)
    by_chance = PruneByScores(head_ratio=0, neuron_ratio=0.5, importance="random")
    worse = vectors(apply_pass(by_chance, encoder.clone(), make_context()), texts)
    step = PruneByReconstruction(ratio=0.25, head_ratio=0, round_to=8)
    better = vectors(apply_pass(step, encoder, make_context(calibration=texts)), texts)
    assert similarity(before, better) > similarity(before, worse)


def test_fisher_scores_of_vectors_are_squared_slopes_of_their_direction(tiny_encoder: TorchModel):
    module = tiny_encoder.module
    batch = tiny_encoder.task.encode(tiny_encoder.preprocessor, ["a good film", "bad"])
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    linear = encoder_layers(module)[1].feed_forward.ffn_out
    original = linear.weight.data.clone()

    def direction(neuron: int, factor: float) -> Tensor:
        linear.weight.data[:, neuron] = original[:, neuron] * factor
        with torch.no_grad():
            found = module(**inputs).sentence_embedding
        linear.weight.data.copy_(original)
        return found / found.norm(dim=1, keepdim=True)

    expected = [
        float(((direction(k, 1.01) - direction(k, 0.99)) / 0.02).square().sum(dim=1).mean())
        for k in range(64)
    ]
    # The projections are random, so each score is right on average: over seeds and neurons.
    task = tiny_encoder.task
    draws = [
        fisher_scores(find_encoder(module), [inputs], task, seed=seed).neurons[1]
        for seed in range(30)
    ]
    scores = sum(draws) / 30
    assert isinstance(scores, Tensor)
    assert np.corrcoef(scores.numpy(), expected)[0, 1] > 0.98
    assert float(scores.sum()) == pytest.approx(sum(expected), rel=0.05)


def test_the_loss_without_a_layer_is_how_far_vectors_turn(tiny_encoder: TorchModel):
    batch = tiny_encoder.task.encode(tiny_encoder.preprocessor, ["a good film", "bad"])
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    losses = layer_losses(find_encoder(tiny_encoder.module), [(inputs, None)], tiny_encoder.task)
    whole = tiny_encoder.predict(batch)
    layers = tiny_encoder.module.bert.encoder.layer
    last = layers[1]
    del layers[1]
    without = tiny_encoder.predict(batch)
    layers.append(last)
    assert float(losses[1]) == pytest.approx(1 - similarity(whole, without), abs=1e-5)


def test_taylor_importance_of_vectors_is_refused(tiny_encoder: TorchModel):
    batch = tiny_encoder.task.encode(tiny_encoder.preprocessor, ["a good film"])
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    with pytest.raises(ValueError, match="use importance fisher"):
        taylor_scores(find_encoder(tiny_encoder.module), [(inputs, None)], tiny_encoder.task)


@pytest.mark.parametrize("hidden_weight", [0.0, 1.0])
def test_distillation_without_labels_brings_vectors_back(
    tiny_encoder: TorchModel,
    tiny_encoder_dir: Path,
    texts: Dataset,
    make_context: ContextMaker,
    hidden_weight: float,
):
    wanted = vectors(tiny_encoder, texts)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in tiny_encoder.module.parameters():
            weight += 0.1 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0
    damaged = similarity(wanted, vectors(tiny_encoder, texts))
    step = Distill(
        max_steps=60, epochs=100, learning_rate=3e-3, dropout=False, hidden_weight=hidden_weight
    )
    healed = apply_pass(step, tiny_encoder, make_context(tiny_encoder_dir, train=texts))
    assert 1 - similarity(wanted, vectors(healed, texts)) < 0.5 * (1 - damaged)


def test_a_student_of_another_width_is_refused(
    tiny_encoder: TorchModel, texts: Dataset, make_context: ContextMaker, tmp_path: Path
):
    config = transformers.BertConfig(**{**SIZES, "hidden_size": 16})
    narrow = AutoSentenceEncoder(Pooling()).from_config(config, dtype=torch.float32)
    TorchModel(narrow, tiny_encoder.preprocessor, tiny_encoder.task).save(tmp_path / "narrow")
    step = Distill(student=str(tmp_path / "narrow"), max_steps=1)
    tiny_encoder.save(tmp_path / "baseline")
    with pytest.raises(ValueError, match="vectors have 16 numbers, the teacher's 32"):
        apply_pass(step, tiny_encoder, make_context(tmp_path / "baseline", train=texts))


def test_training_for_int8_brings_vectors_nearer(
    tiny_encoder: TorchModel, texts: Dataset, make_context: ContextMaker
):
    context = make_context(train=texts, calibration=texts)
    step = QuantizeAwareTrain(min_elements=64, max_steps=20, epochs=100)
    apply_pass(step, tiny_encoder, context)
    answers = context.facts["int8_answers"]
    assert answers["before"]["changed"] is None
    assert answers["after"]["logit_rms"] < answers["before"]["logit_rms"]


def unfit(settings: dict[str, Any], task: str = "sentence-embedding") -> Iterator[str]:
    step = settings_of(settings)
    return (key for key, _ in step.unfit_for(load_task(task)))


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"kind": "finetune"}, ["kind"]),
        ({"kind": "prune_structured", "ratio": 0.5}, ["importance"]),
        (
            {
                "kind": "prune_structured", "ratio": 0.5, "method": "reconstruction",
                "recovery": {"kind": "finetune"},
            },
            ["recovery.kind"],
        ),
        (
            {"kind": "distill", "label_weight": 0.5, "temperature": 4.0},
            ["label_weight", "temperature"],
        ),
        ({"kind": "distill", "logits_loss": "mse"}, ["logits_loss"]),
        ({"kind": "prune_structured", "ratio": 0.5, "method": "reconstruction"}, []),
        ({"kind": "prune_structured", "layers": 1}, []),
        ({"kind": "distill"}, []),
        ({"kind": "quantize_aware_train"}, []),
        ({"kind": "quantize_dynamic"}, []),
        ({"kind": "convert_fp16"}, []),
        ({"kind": "trim_vocabulary"}, []),
        ({"kind": "prune_magnitude", "sparsity": 0.5}, []),
        ({"kind": "prune_magnitude", "sparsity": 0.5, "finetune": {}}, ["finetune"]),
    ],
)  # fmt: skip
def test_settings_that_need_labels_or_logits_are_named(settings: dict[str, Any], keys: list[str]):
    assert list(unfit(settings)) == keys
    assert list(unfit(settings, "text-classification")) == []
