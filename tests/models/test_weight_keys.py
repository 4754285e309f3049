"""A checkpoint whose weights are not all taken, or not all there, is refused by their names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import load_checkpoint, load_with_head
from compressor.tasks import load_task

Weights = dict[str, torch.Tensor]
LAYER = "bert.encoder.layer.0."


@pytest.fixture
def copy(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bert_dir, tmp_path / "copy")


@pytest.fixture
def encoder(tiny_encoder_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_encoder_dir, tmp_path / "encoder")


def change(directory: Path, edit: Callable[[Weights], Weights]) -> None:
    path = directory / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def configure(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(directory: Path) -> str:
    with pytest.raises(EnvironmentMismatch) as caught:
        load_checkpoint(directory)
    return str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "maker"),
    [
        ("module.", "DataParallel"),
        ("model.", "Lightning"),
        ("net.", "save the model inside"),
    ],
)
def test_a_prefix_before_all_keys_is_named_with_what_leaves_it(copy: Path, prefix: str, maker: str):
    change(copy, lambda weights: {prefix + key: value for key, value in weights.items()})
    told = refusal(copy)
    assert f"begin with '{prefix}'" in told
    assert maker in told


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda key: "_orig_mod." + key,
        lambda key: "_orig_mod._orig_mod." + key,
        lambda key: key.replace("encoder.", "encoder._orig_mod."),
        lambda key: re.sub(r"(layer\.\d+\.)", r"\1_checkpoint_wrapped_module.", key),
        lambda key: "_fsdp_wrapped_module._orig_mod." + key,
    ],
)
def test_wrappers_of_torch_are_left_out_of_keys(copy: Path, wrapped: Callable[[str], str]):
    plain = load_file(copy / "model.safetensors")
    change(copy, lambda weights: {wrapped(key): value for key, value in weights.items()})
    model = load_checkpoint(copy)
    model.save(copy / "saved")
    saved = load_file(copy / "saved" / "model.safetensors")
    assert saved.keys() == plain.keys()
    assert all(torch.equal(saved[key], plain[key]) for key in plain)


def test_a_weight_that_was_saved_with_and_without_its_wrapper_is_refused(copy: Path):
    def double(weights: Weights) -> Weights:
        return {**weights, "_orig_mod.classifier.bias": torch.zeros(2)}

    change(copy, double)
    told = refusal(copy)
    assert "'_orig_mod.classifier.bias' and 'classifier.bias' are one weight" in told


@pytest.mark.parametrize(
    ("key", "shape", "hint"),
    [
        (f"{LAYER}attention.self.query.lora_A.default.weight", (4, 32), "merge_and_unload"),
        (f"{LAYER}output.adapters.x.adapter_down.0.weight", (4, 32), "merge_and_unload"),
        (f"{LAYER}output.dense.weight_mask", (32, 64), r"prune.remove"),
        (f"{LAYER}attention.self.distance_embedding.weight", (127, 8), "relative positions"),
        (f"{LAYER}output.dense.SCB", (32,), "quantized"),
        ("classifier_dense.weight", (32, 32), "another model"),
        ("bert.encoder.layer.2.output.dense.weight", (32, 64), "2 layers and the weights hold 3"),
        ("cls.dense.bias", (36,), "another model"),
        ("criterion.dense.weight", (2, 2), "another model"),
        ("bert.embeddings.position_ids", (1, 64), "another model"),  # zeros are no positions
    ],
)
def test_a_key_that_the_model_has_no_place_for_is_named(
    copy: Path, key: str, shape: tuple[int, ...], hint: str
):
    change(copy, lambda weights: {**weights, key: torch.zeros(shape)})
    told = refusal(copy)
    assert f"'{key}'" in told
    assert hint in told


def test_fewer_layers_than_are_stored_are_refused(copy: Path):
    configure(copy, num_hidden_layers=1)
    assert "describes 1 layer and the weights hold 2" in refusal(copy)


@pytest.mark.parametrize(
    "extra",
    [
        {"bert.embeddings.position_ids": torch.arange(64)[None]},
        {"bert.embeddings.token_type_ids": torch.zeros(1, 64, dtype=torch.int64)},
        {"bert.norm.num_batches_tracked": torch.tensor(7)},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_buffer_that_the_model_makes_itself_changes_nothing(copy: Path, extra: Weights):
    before = load_checkpoint(copy).module.state_dict()
    change(copy, lambda weights: {**weights, **extra})
    after = load_checkpoint(copy).module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "key",
    [
        "cls.predictions.transform.dense.weight",
        "cls.seq_relationship.bias",
        "discriminator_predictions.dense.weight",
        "lm_predictions.lm_head.bias",
        "vocab_projector.weight",
        "loss_fct.weight",
    ],
)
def test_what_only_training_reads_beside_a_classifier_changes_no_weight(copy: Path, key: str):
    before = load_checkpoint(copy).module.state_dict()
    change(copy, lambda weights: {**weights, key: torch.ones(3)})
    after = load_checkpoint(copy).module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("key", ["cls.predictions.bias", "lm_head.dense.weight", "pooler.x.weight"])
def test_a_head_beside_a_sentence_encoder_changes_no_vector(encoder: Path, key: str):
    before = load_checkpoint(encoder)
    batch = before.task.encode(before.preprocessor, ["a good film"])
    change(encoder, lambda weights: {**weights, key: torch.ones(3)})
    np.testing.assert_array_equal(load_checkpoint(encoder).predict(batch), before.predict(batch))


def test_a_sentence_encoder_lacks_nothing_without_its_pooler(encoder: Path):
    change(encoder, lambda weights: {k: v for k, v in weights.items() if "pooler" not in k})
    assert load_checkpoint(encoder).module.config.num_hidden_layers == 2


def test_a_sentence_encoder_with_a_key_too_many_is_refused(encoder: Path):
    extra = "encoder.layer.0.output.dense.lora_A.weight"
    change(encoder, lambda weights: {**weights, extra: torch.zeros(4, 64)})
    assert extra in refusal(encoder)


def test_shapes_of_both_sides_are_named(copy: Path):
    configure(copy, intermediate_size=48)
    told = refusal(copy)
    assert f"'{LAYER}intermediate.dense.weight' is 64x32 in the file and 48x32 by config" in told


def test_labels_that_the_head_does_not_have_are_counted(copy: Path):
    configure(copy, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    told = refusal(copy)
    assert "classifier.weight among the weights has 2 rows" in told
    assert "3 labels" in told


def prune_two_heads(weights: Weights) -> Weights:
    kept = torch.cat([torch.arange(0, 8), torch.arange(16, 24)])
    own = f"{LAYER}attention."
    for name in ("query", "key", "value"):
        for part in ("weight", "bias"):
            weights[f"{own}self.{name}.{part}"] = weights[f"{own}self.{name}.{part}"][kept].clone()
    weights[f"{own}output.dense.weight"] = weights[f"{own}output.dense.weight"][:, kept].clone()
    return weights


def test_heads_that_transformers_4_pruned_are_refused_with_their_shapes(copy: Path):
    change(copy, prune_two_heads)
    configure(copy, pruned_heads={"0": [1, 3]})
    told = refusal(copy)
    assert "attention.output.dense.weight' is 32x16 in the file and 32x32 by config.json" in told
    assert "pruned_heads" in told


def test_pruned_heads_that_the_weights_still_have_are_refused(copy: Path):
    configure(copy, pruned_heads={"0": [1, 3]})
    assert "the weights have all of them" in refusal(copy)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_a_weight_of_integers_is_refused(copy: Path, dtype: torch.dtype):
    key = f"{LAYER}output.dense.weight"
    change(copy, lambda weights: {**weights, key: weights[key].to(dtype)})
    assert f"'{key}' of the weights hold" in refusal(copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_weight_of_another_float_type_is_read(copy: Path, dtype: torch.dtype):
    change(copy, lambda weights: {key: value.to(dtype) for key, value in weights.items()})
    stored = load_file(copy / "model.safetensors")
    loaded = load_checkpoint(copy).module.state_dict()
    assert torch.equal(loaded["classifier.weight"], stored["classifier.weight"].float())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(copy: Path, value: float):
    key = f"{LAYER}output.dense.weight"
    change(copy, lambda weights: {**weights, key: torch.full_like(weights[key], value)})
    assert f"2,048 weights are NaN or infinite, in '{key}'" in refusal(copy)


def test_one_weight_under_two_keys_is_refused(copy: Path):
    key = f"{LAYER}output.LayerNorm."
    change(copy, lambda weights: {**weights, f"{key}gamma": torch.ones(32)})
    told = refusal(copy)
    assert f"'{key}gamma', '{key}weight'" in told


def test_old_names_of_layer_norms_are_read(copy: Path):
    before = load_checkpoint(copy).module.state_dict()
    change(
        copy,
        lambda weights: {
            key.replace("LayerNorm.weight", "LayerNorm.gamma"): value
            for key, value in weights.items()
        },
    )
    after = load_checkpoint(copy).module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_student_with_a_key_too_many_is_refused(copy: Path):
    change(copy, lambda weights: {**weights, f"{LAYER}lora_A.weight": torch.zeros(4, 32)})
    with pytest.raises(EnvironmentMismatch, match="lora_A"):
        load_with_head(
            find_checkpoint(str(copy)), load_task("text-classification"), ("a", "b"), seed=0
        )


def test_a_pretrained_student_may_have_the_head_of_its_pretraining(copy: Path, tmp_path: Path):
    config = transformers.BertConfig.from_pretrained(copy)
    transformers.BertForPreTraining(config).save_pretrained(copy)
    student, is_new = load_with_head(
        find_checkpoint(str(copy)), load_task("text-classification"), ("a", "b", "c"), seed=0
    )
    assert is_new
    assert student.labels == ("a", "b", "c")


def test_relative_positions_are_refused_by_the_config_alone(copy: Path):
    configure(copy, position_embedding_type="relative_key")
    with pytest.raises(EnvironmentMismatch, match=r"position_embedding_type .* 'relative_key'"):
        find_checkpoint(str(copy))
    # It computes them rotated too, but not these.
    configure(copy, model_type="esm")
    with pytest.raises(EnvironmentMismatch, match=r"absolute and rotary positions alone .* 'esm'"):
        find_checkpoint(str(copy))
    configure(copy, position_embedding_type="rotary")
    assert find_checkpoint(str(copy))
