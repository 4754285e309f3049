from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from compressor.errors import EnvironmentMismatch
from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.families.prunable import UnsupportedArchitecture
from compressor.models.structure import (
    EncoderShape,
    LayerShape,
    apply_shape,
    keep_layers,
    read_shape,
    rebuild,
    remove_attention,
    remove_feed_forward,
    with_first_layer,
)
from compressor.models.torch_model import TorchModel, load_checkpoint

ROOT = Path(__file__).parents[2]
SPECIAL_IDS = {f"{name}_token_id": 2 for name in ("bos", "eos", "cls", "sep")}
UNEVEN = EncoderShape(
    head_dim=8,
    layers=(LayerShape(num_heads=0, ffn_neurons=20), LayerShape(num_heads=3, ffn_neurons=0)),
)


def text_batch(model: TorchModel) -> Any:
    return model.task.encode(model.preprocessor, ["good film", "a very dull and poor story"])


def image_batch(model: TorchModel) -> Any:
    images = np.random.default_rng(0).integers(0, 255, size=(3, 8, 8)).astype(np.uint8)
    return model.task.encode(model.preprocessor, list(images))


def test_a_model_of_its_configurations_shape_has_no_shape_of_its_own(
    tiny_bert: TorchModel, tiny_vit: TorchModel
):
    assert read_shape(tiny_bert.module) is None
    assert read_shape(tiny_vit.module) is None


def test_a_model_of_an_unsupported_architecture_has_the_plain_shape():
    config = transformers.SqueezeBertConfig(
        vocab_size=50,
        embedding_size=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    assert read_shape(transformers.SqueezeBertForSequenceClassification(config)) is None


def test_the_shape_that_was_applied_is_read_back(tiny_bert: TorchModel, tiny_vit: TorchModel):
    apply_shape(tiny_bert.module, UNEVEN)
    apply_shape(tiny_vit.module, UNEVEN)
    assert read_shape(tiny_bert.module) == UNEVEN
    assert read_shape(tiny_vit.module) == UNEVEN


def test_a_model_without_any_unit_still_runs(tiny_bert: TorchModel, tiny_vit: TorchModel):
    empty = EncoderShape(head_dim=8, layers=(LayerShape(num_heads=0, ffn_neurons=0),) * 2)
    apply_shape(tiny_bert.module, empty)
    apply_shape(tiny_vit.module, empty)
    assert tiny_bert.predict(text_batch(tiny_bert)).shape == (2, 2)
    assert tiny_vit.predict(image_batch(tiny_vit)).shape == (3, 3)


def test_bert_without_attention_normalises_the_residual_and_the_bias(tiny_bert: TorchModel):
    layer = encoder_layers(tiny_bert.module)[0]
    old = layer.module.attention.output
    states = torch.randn(2, 5, 32)
    expected = old.LayerNorm(states + old.dense.bias)

    remove_attention(layer)

    output, weights = layer.module.attention(states)
    torch.testing.assert_close(output, expected)
    assert weights is None


def test_vit_without_a_feed_forward_adds_only_the_bias(tiny_vit: TorchModel):
    layer = encoder_layers(tiny_vit.module)[0]
    bias = layer.module.mlp.fc2.bias
    states = torch.randn(2, 5, 32)
    attended = states + layer.module.attention(layer.module.layernorm_before(states))[0]

    remove_feed_forward(layer)

    torch.testing.assert_close(layer.module(states), attended + bias)


def test_removing_what_is_gone_changes_nothing(tiny_bert: TorchModel):
    apply_shape(tiny_bert.module, UNEVEN)
    first, second = encoder_layers(tiny_bert.module)
    remove_attention(first)
    remove_feed_forward(second)
    assert read_shape(tiny_bert.module) == UNEVEN


def test_a_pruned_checkpoint_loads_in_another_process_to_the_same_logits(
    tiny_bert: TorchModel, tiny_vit: TorchModel, tmp_path: Path
):
    expected = []
    for name, model, batch in (
        ("text", tiny_bert, text_batch(tiny_bert)),
        ("image", tiny_vit, image_batch(tiny_vit)),
    ):
        apply_shape(model.module, UNEVEN)
        model.save(tmp_path / name)
        np.savez(tmp_path / f"{name}.npz", **batch)
        expected.append(model.predict(batch))
    script = (
        "import sys, numpy\n"
        "from compressor.models.torch_model import load_checkpoint\n"
        "for name in ('text', 'image'):\n"
        "    batch = dict(numpy.load(f'{sys.argv[1]}/{name}.npz'))\n"
        "    logits = load_checkpoint(f'{sys.argv[1]}/{name}').predict(batch)\n"
        "    numpy.save(f'{sys.argv[1]}/{name}.npy', logits)\n"
    )

    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    np.testing.assert_allclose(np.load(tmp_path / "text.npy"), expected[0], atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "image.npy"), expected[1], atol=1e-6)


def test_rebuilding_a_pruned_model_keeps_shape_mode_and_attention(tiny_bert: TorchModel):
    apply_shape(tiny_bert.module, UNEVEN)
    tiny_bert.module.set_attn_implementation("eager")
    tiny_bert.module.train()

    fresh = rebuild(tiny_bert.module)

    assert read_shape(fresh) == UNEVEN
    assert fresh.training
    assert fresh.config._attn_implementation == "eager"
    assert fresh.config is not tiny_bert.module.config
    fresh.load_state_dict(tiny_bert.module.state_dict())
    tiny_bert.module.eval()
    batch = {name: torch.from_numpy(value) for name, value in text_batch(tiny_bert).items()}
    assert torch.equal(fresh.eval()(**batch).logits, tiny_bert.module(**batch).logits)


def test_rebuilding_draws_no_random_numbers(tiny_bert: TorchModel):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    rebuild(tiny_bert.module)
    assert torch.equal(torch.rand(1), expected)


def test_layers_that_stay_make_a_plain_checkpoint(tiny_bert: TorchModel, tmp_path: Path):
    second = tiny_bert.module.bert.encoder.layer[1]

    keep_layers(find_encoder(tiny_bert.module), [1])
    tiny_bert.save(tmp_path)

    assert list(tiny_bert.module.bert.encoder.layer) == [second]
    assert second.attention.self.layer_idx == 0
    assert not (tmp_path / "structure.json").exists()
    plain = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    assert plain.config.num_hidden_layers == 1
    batch = text_batch(tiny_bert)
    logits = plain(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits
    np.testing.assert_allclose(logits.detach().numpy(), tiny_bert.predict(batch), atol=1e-6)


def test_a_dropped_layer_equals_one_that_does_nothing(tiny_vit: TorchModel):
    batch = image_batch(tiny_vit)
    other = tiny_vit.clone()
    for layer in encoder_layers(other.module)[:1]:
        # A layer whose two sub-layers give zero passes its input on, normalised before or not.
        for output in (layer.attention.output, layer.feed_forward.ffn_out):
            output.weight.data.zero_()
            output.bias.data.zero_()

    keep_layers(find_encoder(tiny_vit.module), [1])

    np.testing.assert_allclose(tiny_vit.predict(batch), other.predict(batch), atol=1e-6)


@pytest.mark.parametrize("indices", [[], [1, 0], [0, 0], [0, 2], [-1, 0]])
def test_layers_to_keep_must_be_ascending_and_exist(tiny_bert: TorchModel, indices: list[int]):
    with pytest.raises(ValueError, match="ascending") as caught:
        keep_layers(find_encoder(tiny_bert.module), indices)
    assert str(caught.value) == (
        f"layers to keep must be one or more ascending indices from 0 to 1, got {indices}"
    )
    assert tiny_bert.module.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "content: "),
        ({"layers": [{"num_heads": 1, "ffn_neurons": 1}]}, "layers: there must be some where head"),
        ({"head_dim": 8, "layers": [], "table_rank": 2}, "layers: there must be some where head"),
        ({"head_dim": 8}, "layers: Field required"),
        ({"head_dim": 8, "layers": []}, "layers: must not be empty"),
        (
            {"head_dim": 0, "layers": [{"num_heads": -1, "ffn_neurons": 2.5}]},
            "layers.0.num_heads: Input should be greater than or equal to 0, got -1; "
            "layers.0.ffn_neurons: Input should be a valid integer, got 2.5",
        ),
        ({"head_dim": 8, "layers": [], "more": 1}, "more: "),
    ],
)
def test_a_corrupt_shape_names_every_wrong_entry(content: Any, message: str):
    with pytest.raises(ValueError, match="got") as caught:
        EncoderShape.from_dict(content)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            EncoderShape(head_dim=8, layers=(LayerShape(num_heads=1, ffn_neurons=1),)),
            "the shape of the pruned model has 1 layer, config.json describes 2",
        ),
        (
            EncoderShape(head_dim=4, layers=(LayerShape(num_heads=1, ffn_neurons=1),) * 2),
            "the shape of the pruned model has heads of 4, config.json describes heads of 8",
        ),
        (
            EncoderShape(
                head_dim=8,
                layers=(
                    LayerShape(num_heads=4, ffn_neurons=64),
                    LayerShape(num_heads=5, ffn_neurons=64),
                ),
            ),
            "layers.1 of the shape of the pruned model has 5 heads and 64 neurons, config.json "
            "allows at most 4 and 64",
        ),
    ],
)
def test_a_shape_that_does_not_fit_the_configuration_is_refused(
    tiny_bert: TorchModel, shape: EncoderShape, message: str
):
    with pytest.raises(EnvironmentMismatch) as caught:
        apply_shape(tiny_bert.module, shape)
    assert str(caught.value).startswith(message)
    assert read_shape(tiny_bert.module) is None


def test_a_narrower_checkpoint_of_an_earlier_version_is_refused_and_not_misread():
    content = {"head_dim": 8, "hidden_size": 24, "layers": [{"num_heads": 4, "ffn_neurons": 64}]}
    with pytest.raises(
        ValueError, match="hidden_size is 24: the checkpoint was made by prune_width"
    ):
        EncoderShape.from_dict(content)


def test_a_shape_for_an_unsupported_architecture_is_refused():
    config = transformers.SqueezeBertConfig(
        vocab_size=50,
        embedding_size=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with pytest.raises(EnvironmentMismatch) as caught:
        apply_shape(transformers.SqueezeBertForSequenceClassification(config), UNEVEN)
    assert "'squeezebert'" in str(caught.value)


def test_a_checkpoint_with_a_corrupt_shape_is_refused(tiny_bert: TorchModel, tmp_path: Path):
    apply_shape(tiny_bert.module, UNEVEN)
    tiny_bert.save(tmp_path)
    shape = json.loads((tmp_path / "structure.json").read_text(encoding="utf-8"))
    shape["layers"][0]["num_heads"] = "all"
    (tmp_path / "structure.json").write_text(json.dumps(shape), encoding="utf-8")
    with pytest.raises(EnvironmentMismatch, match=r"structure\.json.*layers\.0\.num_heads"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("bert", {}),
        ("distilbert", {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}),
        ("deberta", {}),
        ("deberta-v2", {}),
        ("electra", {}),
        ("esm", {"vocab_size": 60, "pad_token_id": 0}),
        ("eurobert", {"num_key_value_heads": 2}),
        ("gte", {}),
        ("jina_embeddings_v3", {}),
        ("llama", {"num_key_value_heads": 2}),
        ("mistral", {"num_key_value_heads": 2}),
        ("nomic_bert", {}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("qwen3", {"num_key_value_heads": 2}),
        ("rembert", {}),
        ("modernbert", {"vocab_size": 60, "pad_token_id": 0, **SPECIAL_IDS}),
        ("mpnet", {}),
        ("roberta", {}),
        ("beit", {"image_size": 8, "patch_size": 2}),
        ("deit", {"image_size": 8, "patch_size": 2}),
        ("dinov2", {"image_size": 8, "patch_size": 2}),
        ("vit", {"image_size": 8, "patch_size": 2}),
    ],
)
def test_a_checkpoint_of_fewer_layers_loads_with_transformers_alone(
    tmp_path: Path, kind: str, own: dict[str, Any]
):
    """Configurations that can be a backbone's name every layer, and may not name one too many."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    settings = own if kind == "distilbert" else {**sizes, "intermediate_size": 64, **own}
    config = transformers.AutoConfig.for_model(kind, **settings)
    is_image = "image_size" in own
    auto: Any = (
        transformers.AutoModelForImageClassification
        if is_image
        else transformers.AutoModelForSequenceClassification
    )
    if kind == "deit":
        config.architectures = ["DeiTForImageClassification"]
    module = auto.from_config(config).eval()

    keep_layers(find_encoder(module), [0, 2])
    module.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)

    assert loaded.config.num_hidden_layers == 2
    assert loaded.state_dict().keys() == module.state_dict().keys()


def test_modernbert_keeps_its_first_layer_and_the_kinds_of_attention_of_the_others(make_encoder):
    module = make_encoder("modernbert", num_hidden_layers=4).module
    kinds = module.config.layer_types
    assert kinds == ["full_attention", "sliding_attention"] * 2
    with pytest.raises(UnsupportedArchitecture) as caught:
        keep_layers(find_encoder(module), [1, 3])
    assert str(caught.value) == (
        "layer 0 of model type 'modernbert' has to stay (it alone reads the embeddings without a "
        "norm), the layers that would stay are 1, 3; keep layer 0 among them"
    )

    keep_layers(find_encoder(module), with_first_layer(find_encoder(module), [1, 2]))

    assert module.config.layer_types == ["full_attention"] * 2
    assert [layer.attention_type for layer in module.model.layers] == ["full_attention"] * 2


@torch.no_grad()
def without_layer(encoder: Any, index: int) -> torch.Tensor:
    """Return the logits of a model whose layer gives what it is given."""
    hook = (
        find_encoder(encoder.module)
        .layer_list[index]
        .register_forward_hook(
            lambda _, given, output: (
                (given[0], *output[1:]) if isinstance(output, tuple) else given[0]
            )
        )
    )
    try:
        return encoder.logits()
    finally:
        hook.remove()


def test_deberta_keeps_its_first_layer_where_a_convolution_reads_what_it_gives(make_encoder):
    plain = make_encoder("deberta-v2", num_hidden_layers=3)
    expected = without_layer(plain, 0)
    keep_layers(find_encoder(plain.module), [1, 2])
    torch.testing.assert_close(plain.logits(), expected, atol=1e-5, rtol=0)

    encoder = make_encoder("deberta-v2", num_hidden_layers=3, conv_kernel_size=3)
    found = find_encoder(encoder.module)
    with pytest.raises(UnsupportedArchitecture, match=r"a convolution joins the embeddings with"):
        keep_layers(found, [1, 2])
    assert with_first_layer(found, [1, 2]) == (0, 2)
    expected = without_layer(encoder, 1)
    keep_layers(found, [0, 2])
    torch.testing.assert_close(encoder.logits(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2", "whisper"])
def test_no_layer_goes_where_what_all_of_them_give_is_summed(make_encoder, kind: str):
    encoder = make_encoder(kind, use_weighted_layer_sum=True)
    before = encoder.logits()
    with pytest.raises(UnsupportedArchitecture) as caught:
        keep_layers(find_encoder(encoder.module), [0])
    assert str(caught.value) == (
        f"no layer of model type '{kind}' can go: its head sums what all layers give, by a weight "
        f"for each (use_weighted_layer_sum); remove heads and neurons alone"
    )
    assert torch.equal(encoder.logits(), before)
    keep_layers(find_encoder(encoder.module), [0, 1])  # all of them


def test_fewer_layers_of_one_set_of_weights_are_run_less_often(make_encoder, tmp_path: Path):
    encoder = make_encoder("albert", inner_group_num=1, num_hidden_layers=3)
    found = find_encoder(encoder.module)
    assert (found.depth, len(found.layers)) == (3, 1)
    with torch.no_grad():
        outputs = encoder.module.albert(**encoder.inputs, output_hidden_states=True)
        pooled = encoder.module.albert.pooler(outputs.hidden_states[2][:, 0])
        expected = encoder.module.classifier(encoder.module.albert.pooler_activation(pooled))

    keep_layers(found, [0, 2])
    encoder.module.save_pretrained(tmp_path)

    torch.testing.assert_close(encoder.logits(), expected)
    plain = transformers.AlbertForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(encoder.logits(plain.eval()), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="ascending indices from 0 to 1, got"):
        keep_layers(found, [2])
