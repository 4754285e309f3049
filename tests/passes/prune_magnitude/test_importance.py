from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_magnitude.importance import (
    activation_importance,
    information_importance,
    random_importance,
    taylor_importance,
)
from compressor.passes.prune_magnitude.masks import prunable_weights
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.passes.prune_structured.histograms import entropies, mutual_information
from compressor.tasks import load_task

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
OUTPUT = "bert.encoder.layer.1.output.dense.weight"
POOLER = "bert.pooler.dense.weight"


def batch_of(model: TorchModel, dataset: Dataset, rows: slice = slice(None)):
    examples = list(dataset.examples)[rows]
    encoded = model.task.encode(model.preprocessor, examples)
    inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}
    return inputs, torch.from_numpy(dataset.labels[rows])


def first_states(model: TorchModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.module(**inputs, output_hidden_states=True).hidden_states[0]


def test_activation_is_the_norm_of_what_a_matrix_reads_without_padding(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    inputs, _ = batch_of(tiny_bert, text_dataset)
    real = first_states(tiny_bert, inputs)[inputs["attention_mask"].bool()]
    halves = [batch_of(tiny_bert, text_dataset, rows) for rows in (slice(0, 20), slice(20, 48))]

    found = activation_importance(tiny_bert, halves)

    expected = real.double().square().mean(dim=0).sqrt()
    torch.testing.assert_close(found.factors[QUERY][0].double(), expected, rtol=1e-5, atol=1e-6)
    assert found.factors[POOLER].shape == (1, 32)
    weight = prunable_weights(tiny_bert.module, include_embeddings=False)[QUERY]
    torch.testing.assert_close(
        found.scores({**prunable_weights(tiny_bert.module, include_embeddings=False)})[QUERY],
        weight.detach().abs() * found.factors[QUERY],
    )


def test_taylor_is_weight_times_gradient_of_the_mean_loss(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    inputs, labels = batch_of(tiny_bert, text_dataset)
    parts = [batch_of(tiny_bert, text_dataset, rows) for rows in (slice(0, 20), slice(20, 48))]
    weights = prunable_weights(tiny_bert.module, include_embeddings=False)
    tiny_bert.module.eval()
    logits = tiny_bert.module(**inputs).logits
    torch.nn.functional.cross_entropy(logits, labels).backward()
    expected = (weights[QUERY] * weights[QUERY].grad).abs().detach()

    found = taylor_importance(tiny_bert, parts, include_embeddings=False).scores(weights)

    torch.testing.assert_close(found[QUERY], expected, rtol=1e-4, atol=1e-8)


def test_taylor_without_labels_learns_from_the_models_own_predictions(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    inputs, _ = batch_of(tiny_bert, text_dataset)
    with torch.no_grad():
        own = tiny_bert.module(**inputs).logits.argmax(dim=-1)

    found = taylor_importance(tiny_bert, [(inputs, None)], include_embeddings=True)
    told = taylor_importance(tiny_bert, [(inputs, own)], include_embeddings=True)

    assert torch.equal(found.factors[OUTPUT], told.factors[OUTPUT])
    assert "bert.embeddings.word_embeddings.weight" in found.factors


def test_information_is_that_of_the_means_of_inputs_over_a_row(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    inputs, labels = batch_of(tiny_bert, text_dataset)
    states, mask = first_states(tiny_bert, inputs), inputs["attention_mask"][..., None]
    means = (states * mask).sum(dim=1) / mask.sum(dim=1)
    expected = {
        "entropy": entropies(means),
        "mutual_information": mutual_information(means, labels),
    }

    for kind, wanted in expected.items():
        found, words = information_importance(tiny_bert, [(inputs, labels)], kind, 48, seed=0)

        torch.testing.assert_close(found.factors[QUERY][0], wanted.float())
        assert "over 48 observations" in words


def test_random_scores_follow_from_the_seed_and_forget_the_weights(tiny_bert: TorchModel):
    weights = prunable_weights(tiny_bert.module, include_embeddings=False)

    first, again, other = (random_importance(weights, seed).scores(weights) for seed in (0, 0, 1))

    assert torch.equal(first[QUERY], again[QUERY])
    assert not torch.equal(first[QUERY], other[QUERY])
    assert 0.4 < float(first[QUERY].mean()) < 0.6


@pytest.mark.parametrize(
    "importance", ["random", "activation", "taylor", "entropy", "mutual_information"]
)
def test_every_importance_prunes_its_share_and_another_set_than_magnitude(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: Callable[..., PassContext],
    importance: str,
):
    calibration = dataclasses.replace(text_dataset, name="calibration")
    context = make_context(calibration=calibration)
    by_size = apply_pass(PruneMagnitude(sparsity=0.5, scope="row"), tiny_bert.clone(), context)

    pruned = apply_pass(
        PruneMagnitude(sparsity=0.5, scope="row", importance=importance), tiny_bert, context
    )

    after, other = (
        prunable_weights(each.module, include_embeddings=False)[QUERY] for each in (pruned, by_size)
    )
    assert (after == 0).sum(dim=1).tolist() == [16] * 32
    assert not torch.equal(after == 0, other == 0)


def test_zeros_of_a_measured_importance_hold_while_it_fine_tunes_little_by_little(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: Callable[..., PassContext],
    tiny_bert_dir: Path,
):
    calibration = dataclasses.replace(text_dataset, name="calibration")
    context = make_context(tiny_bert_dir, train=text_dataset, calibration=calibration)
    settings = PruneMagnitude.model_validate(
        {
            "sparsity": 0.6,
            "importance": "activation",
            "schedule": "cubic",
            "finetune": {"max_steps": 6, "batch_size": 8},
        }
    )

    pruned = apply_pass(settings, tiny_bert, context)

    weights = prunable_weights(pruned.module, include_embeddings=False).values()
    total = sum(value.numel() for value in weights)
    assert sum(int((value == 0).sum()) for value in weights) == round(0.6 * total)


def test_mutual_information_without_labels_is_refused(
    tiny_bert: TorchModel, unlabelled: Dataset, make_context: Callable[..., PassContext]
):
    settings = PruneMagnitude(sparsity=0.5, importance="mutual_information")

    with pytest.raises(StepFailed, match="the calibration split has none; name the label column"):
        apply_pass(settings, tiny_bert, make_context(calibration=unlabelled))


def test_activations_that_are_not_finite_are_refused_by_name(
    tiny_bert: TorchModel, unlabelled: Dataset, make_context: Callable[..., PassContext]
):
    with torch.no_grad():
        tiny_bert.module.bert.embeddings.word_embeddings.weight[:] = math.inf

    with pytest.raises(
        StepFailed, match=r"what bert\.encoder\.layer\.0\S+ does on the calibration"
    ):
        apply_pass(
            PruneMagnitude(sparsity=0.5, importance="activation"),
            tiny_bert,
            make_context(calibration=unlabelled),
        )


def test_images_are_measured_without_a_mask(
    tiny_vit: TorchModel, image_dataset: Dataset, make_context: Callable[..., PassContext]
):
    context = make_context(calibration=dataclasses.replace(image_dataset, name="calibration"))
    settings = PruneMagnitude(sparsity=0.5, importance="mutual_information", scope="layer")

    pruned = apply_pass(settings, tiny_vit, context)

    weights = prunable_weights(pruned.module, include_embeddings=False).values()
    assert [float((value == 0).float().mean()) for value in weights] == [0.5] * len(weights)
    assert not np.isnan(
        pruned.predict(pruned.task.encode(pruned.preprocessor, [np.ones((8, 8), np.uint8)]))
    ).any()


def test_a_weight_that_is_a_product_of_others_stays_and_convolutions_are_refused(make_encoder: Any):
    encoder = make_encoder("wav2vec2")
    model = TorchModel(encoder.module, None, load_task("audio-classification"))
    batches = [(encoder.inputs, encoder.labels)]

    weights = prunable_weights(encoder.module, include_embeddings=False)
    found = taylor_importance(model, batches, include_embeddings=False)

    assert found.factors.keys() == weights.keys()
    assert not [name for name in weights if "pos_conv_embed" in name]
    with pytest.raises(StepFailed, match=r"conv\.weight is a convolution, and what its inputs do"):
        activation_importance(model, batches)


def test_what_a_matrix_reads_besides_tokens_does_not_count(make_encoder: Any):
    encoder = make_encoder("deberta-v2")  # its keys read relative positions too
    model = TorchModel(encoder.module, None, load_task("text-classification"))
    encoder.inputs["attention_mask"][:, 4:] = 0
    short = {name: value[:, :4] for name, value in encoder.inputs.items()}

    found, expected = (
        activation_importance(model, [(inputs, encoder.labels)]).factors
        for inputs in (encoder.inputs, short)
    )

    name = "deberta.encoder.layer.0.attention.self.key_proj.weight"
    torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
