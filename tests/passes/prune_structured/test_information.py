from __future__ import annotations

from typing import Any

import pytest
import torch

from compressor.errors import StepFailed
from compressor.models.families.layers import encoder_layers, find_encoder
from compressor.passes.prune_structured.histograms import entropies, mutual_information
from compressor.passes.prune_structured.information import information_scores
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons

ROWS = 24


def many_rows(encoder: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return random inputs of an encoder, the second half of each row padding, and labels."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (ROWS, 6), generator=random)
    mask = torch.ones_like(ids)
    mask[::2, 3:] = 0
    return {"input_ids": ids, "attention_mask": mask}, torch.arange(ROWS) % 3


def means_by_hand(encoder: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return means over real tokens of head norms and of neurons, layer by layer."""
    found = []
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        outputs = encoder.module(**inputs, output_hidden_states=True, output_attentions=True)
        for layer in encoder_layers(encoder.module):
            states = outputs.hidden_states[layer.index]
            values = layer.attention.value(states).view(ROWS, -1, 4, 8).transpose(1, 2)
            heads = (outputs.attentions[layer.index] @ values).transpose(1, 2)
            attended = layer.module.attention.output(heads.flatten(2), states)
            inner = torch.nn.functional.gelu(layer.feed_forward.ffn_in(attended))
            for each in (heads.norm(dim=-1), inner):
                found.append((each * mask).sum(dim=1) / mask.sum(dim=1))
    return found


@pytest.mark.parametrize("kind", ["entropy", "mutual_information"])
def test_units_are_scored_by_their_means_over_rows(make_encoder: Any, kind: str):
    encoder = make_encoder("bert", "eager")
    inputs, labels = many_rows(encoder)
    means = means_by_hand(encoder, inputs)
    expected = [
        entropies(each) if kind == "entropy" else mutual_information(each, labels) for each in means
    ]
    halves = [
        ({name: value[rows] for name, value in inputs.items()}, labels[rows])
        for rows in (slice(0, 10), slice(10, None))
    ]

    found, words = information_scores(find_encoder(encoder.module), halves, kind, ROWS, seed=0)

    # A value at the border of a bin may fall on either side of it.
    close = {"atol": 0.08, "rtol": 0.0}
    torch.testing.assert_close(list(found.heads), expected[0::2], **close)
    torch.testing.assert_close(list(found.neurons), expected[1::2], **close)
    assert words.endswith("estimated from histograms of 5 bins over 24 observations")


def test_a_neuron_that_is_dead_has_no_information_and_what_is_gone_is_skipped(make_encoder: Any):
    encoder = make_encoder("bert")
    inputs, labels = many_rows(encoder)
    ffn_in = encoder_layers(encoder.module)[0].feed_forward.ffn_in
    ffn_in.weight.data[3], ffn_in.bias.data[3] = 0.0, -1.0
    prune_heads(find_encoder(encoder.module), {0: [0, 1, 2, 3]})
    prune_neurons(find_encoder(encoder.module), {1: list(range(64))})

    for kind in ("entropy", "mutual_information"):
        found, _ = information_scores(
            find_encoder(encoder.module), [(inputs, labels)], kind, ROWS, seed=0
        )

        assert [len(layer) for layer in found.heads] == [0, 4]
        assert [len(layer) for layer in found.neurons] == [64, 0]
        assert found.neurons[0][3] == 0
        assert found.neurons[0].median() > 0.05


@pytest.mark.parametrize("model_type", ["albert", "modernbert", "vit", "wav2vec2"])
def test_other_architectures_are_measured(make_encoder: Any, model_type: str):
    encoder = make_encoder(model_type)
    rows = [(encoder.inputs, encoder.labels)] * 8  # of three rows each

    found, _ = information_scores(
        find_encoder(encoder.module), rows, "mutual_information", ROWS, seed=0
    )

    assert all(0 < float(layer.mean()) <= 1.1 for layer in (*found.heads, *found.neurons))


def test_labels_are_needed_for_mutual_information_alone(make_encoder: Any):
    encoder = make_encoder("bert")
    inputs, _ = many_rows(encoder)
    own = find_encoder(encoder.module)

    information_scores(own, [(inputs, None)], "entropy", ROWS, seed=0)
    with pytest.raises(StepFailed, match="the calibration split has none; name the label column"):
        information_scores(own, [(inputs, None)], "mutual_information", ROWS, seed=0)
