"""Every pooling, linear layers and scaling: as sentence-transformers computes them, everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from compressor.errors import EnvironmentMismatch
from compressor.export.to_onnx import export_onnx
from compressor.models.checkpoint import find_checkpoint
from compressor.models.families.layers import encoder_layers
from compressor.models.structure import remove_attention
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.tasks.pooling import Pooling, read_pooling
from compressor.tasks.sentence_encoder import pool

TEXTS = ["a good film", "bad", "the plot was very quite lovely and the story is dull"]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
HIDDEN = 32
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"


def expected(mode: str, states: Tensor, mask: Tensor) -> Tensor:
    """Pool row by row, without padding: the formulas of sentence-transformers' documentation."""
    rows = []
    for tokens, there in zip(states, mask.bool(), strict=True):
        own = tokens[there]  # (num_tokens, width)
        weights = torch.arange(1.0, len(own) + 1)
        rows.append(
            {
                "cls": own[0],
                "max": own.max(dim=0).values,
                "mean": own.sum(dim=0) / len(own),
                "mean_sqrt_len_tokens": own.sum(dim=0) / len(own) ** 0.5,
                "weightedmean": (weights[:, None] * own).sum(dim=0) / weights.sum(),
                "lasttoken": own[-1],
            }[mode]
        )
    return torch.stack(rows)


def padded(side: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.zeros(4, 9, dtype=torch.int64)
    for row, length in enumerate((9, 1, 4, 7)):
        mask[row, 9 - length :] = side == "left"
        mask[row, :length] |= side == "right"
    return 5 * torch.randn(4, 9, 6), mask


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_that_of_the_tokens_before_the_padding(mode: str):
    states, mask = padded("right")
    found = pool(states, mask, Pooling(mode))
    torch.testing.assert_close(found, expected(mode, states, mask), atol=1e-6, rtol=1e-6)


# The first position of a row that is padded on the left is padding: `cls` is refused there.
@pytest.mark.parametrize("mode", MODES[1:])
def test_a_mode_is_that_of_the_tokens_after_padding_on_the_left(mode: str):
    states, mask = padded("left")
    found = pool(states, mask, Pooling(mode))
    torch.testing.assert_close(found, expected(mode, states, mask), atol=1e-6, rtol=1e-6)


def test_weights_of_long_texts_fit_into_float16():
    states = torch.full((1, 3000, 2), 0.125, dtype=torch.float16)
    found = pool(states, torch.ones(1, 3000, dtype=torch.int64), Pooling("weightedmean"))
    torch.testing.assert_close(found, torch.full((1, 2), 0.125, dtype=torch.float16))


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def steps_of(directory: Path, *steps: tuple[str, str]) -> None:
    named = [("", "Transformer"), ("1_Pooling", "Pooling"), *steps]
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": path,
            "type": f"sentence_transformers.models.{k}",
        }
        for place, (path, k) in enumerate(named)
    ]
    write(directory / "modules.json", modules)


def write_dense(directory: Path, sizes: tuple[int, int], **settings: Any) -> None:
    torch.manual_seed(sizes[1])
    content = {"in_features": sizes[0], "out_features": sizes[1], "bias": True, **settings}
    write(directory / "config.json", content)
    linear = torch.nn.Linear(*sizes, bias=content["bias"])
    state = {f"linear.{name}": value for name, value in linear.state_dict().items()}
    save_file(state, directory / "model.safetensors")


@pytest.fixture
def encoder_dir(tiny_encoder_dir: Path, tmp_path: Path) -> Path:
    """Return an encoder with all modes, Dense, Normalize, Dense and Normalize."""
    copy = shutil.copytree(tiny_encoder_dir, tmp_path / "copy")
    write(copy / "1_Pooling" / "config.json", {"pooling_mode": MODES, "embedding_dimension": 32})
    write_dense(copy / "2_Dense", (6 * HIDDEN, 24), activation_function=TANH)
    write_dense(copy / "4_Dense", (24, 10), activation_function=IDENTITY, bias=False)
    steps_of(
        copy,
        ("2_Dense", "Dense"),
        ("3_Normalize", "Normalize"),
        ("4_Dense", "Dense"),
        ("5_Normalize", "Normalize"),
    )
    return copy


def by_hand(directory: Path) -> np.ndarray:
    """Compute the vectors of `encoder_dir` text by text with transformers and torch alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    encoder = transformers.AutoModel.from_pretrained(directory).eval()
    first = load_file(directory / "2_Dense" / "model.safetensors")
    second = load_file(directory / "4_Dense" / "model.safetensors")
    rows = []
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = encoder(**inputs).last_hidden_state
        modes = [expected(mode, states, inputs["attention_mask"]) for mode in MODES]
        vector = torch.cat(modes, dim=1) @ first["linear.weight"].T + first["linear.bias"]
        vector = functional.normalize(torch.tanh(vector), dim=1) @ second["linear.weight"].T
        rows.append(functional.normalize(vector, dim=1)[0].numpy())
    return np.stack(rows)


def vectors_of(model: TorchModel) -> np.ndarray:
    return model.predict(model.task.encode(model.preprocessor, TEXTS))


def test_checkpoint_copy_and_graph_give_the_vectors_of_all_steps(encoder_dir: Path, tmp_path: Path):
    right = by_hand(encoder_dir)
    assert right.shape == (3, 10)
    model = load_checkpoint(encoder_dir)
    np.testing.assert_allclose(vectors_of(model), right, atol=1e-6)
    np.testing.assert_allclose(vectors_of(model.clone()), right, atol=1e-6)
    model.save(tmp_path / "saved")
    names = [step["path"] for step in json.loads((tmp_path / "saved/modules.json").read_text())]
    assert names == ["", "1_Pooling", "2_Dense", "3_Normalize", "4_Dense", "5_Normalize"]
    np.testing.assert_allclose(by_hand(tmp_path / "saved"), right, atol=1e-6)
    np.testing.assert_allclose(vectors_of(load_checkpoint(tmp_path / "saved")), right, atol=1e-6)
    graph = export_onnx(model, tmp_path / "model.onnx", threads=1)
    batch = model.task.encode(model.preprocessor, TEXTS)
    np.testing.assert_allclose(graph.predict(batch), right, atol=1e-6)


@pytest.mark.parametrize("kept", [slice(None), slice(2)], ids=["all steps", "pooling alone"])
def test_vectors_are_cut_as_sentence_transformers_was_told(
    encoder_dir: Path, tmp_path: Path, kept: slice
):
    modules = json.loads((encoder_dir / "modules.json").read_text())
    write(encoder_dir / "modules.json", modules[kept])
    whole = vectors_of(load_checkpoint(encoder_dir))
    write(encoder_dir / "config_sentence_transformers.json", {"truncate_dim": 4})
    model = load_checkpoint(encoder_dir)
    np.testing.assert_array_equal(vectors_of(model), whole[:, :4])
    model.save(tmp_path / "saved")
    np.testing.assert_array_equal(vectors_of(load_checkpoint(tmp_path / "saved")), whole[:, :4])


def test_a_cut_of_all_numbers_is_none_and_one_of_no_number_is_refused(encoder_dir: Path):
    write(encoder_dir / "config_sentence_transformers.json", {"truncate_dim": 10})
    assert len(read_pooling(encoder_dir).dense) == 2
    write(encoder_dir / "config_sentence_transformers.json", {"truncate_dim": 0})
    with pytest.raises(EnvironmentMismatch, match="truncate_dim must be a whole number above 0"):
        read_pooling(encoder_dir)


def test_a_pruned_encoder_is_saved_with_its_linear_layers(encoder_dir: Path, tmp_path: Path):
    model = load_checkpoint(encoder_dir)
    remove_attention(encoder_layers(model.module)[0])
    model.save(tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    np.testing.assert_allclose(vectors_of(again), vectors_of(model), atol=1e-6)


def test_the_size_counts_the_linear_layers(encoder_dir: Path, tmp_path: Path):
    model = load_checkpoint(encoder_dir)
    model.save(tmp_path / "saved")
    files = [*(tmp_path / "saved").rglob("*.safetensors")]
    assert len(files) == 3
    own = sum(path.stat().st_size for path in files)
    assert model.size(tmp_path / "saved").bytes_on_disk == own
    assert find_checkpoint(str(tmp_path / "saved")).bytes_on_disk() == own


def test_the_fingerprint_depends_on_the_weights_of_a_linear_layer(encoder_dir: Path):
    before = find_checkpoint(str(encoder_dir)).fingerprint()
    write_dense(encoder_dir / "4_Dense", (24, 11), activation_function=IDENTITY, bias=False)
    assert find_checkpoint(str(encoder_dir)).fingerprint() != before


def test_modes_in_another_order_are_concatenated_in_that_order(encoder_dir: Path, tmp_path: Path):
    steps_of(encoder_dir)
    write(encoder_dir / "1_Pooling" / "config.json", {"pooling_mode": ["mean", "cls"]})
    model = load_checkpoint(encoder_dir)
    write(encoder_dir / "1_Pooling" / "config.json", {"pooling_mode": ["cls", "mean"]})
    other = vectors_of(load_checkpoint(encoder_dir))
    np.testing.assert_array_equal(vectors_of(model), np.roll(other, HIDDEN, axis=1))
    model.save(tmp_path / "saved")
    assert read_pooling(tmp_path / "saved").mode == "mean+cls"


def test_a_linear_layer_that_is_only_a_pickle_is_refused(encoder_dir: Path):
    (encoder_dir / "2_Dense" / "model.safetensors").rename(
        encoder_dir / "2_Dense/pytorch_model.bin"
    )
    with pytest.raises(EnvironmentMismatch, match=r"pytorch_model\.bin alone, a pickle"):
        load_checkpoint(encoder_dir)


def test_a_linear_layer_without_weights_is_refused(encoder_dir: Path):
    (encoder_dir / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(EnvironmentMismatch, match=r"2_Dense/model\.safetensors: not found"):
        load_checkpoint(encoder_dir)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, "activation_function is"),
        ({"activation_function": "os.system"}, "activation_function is 'os.system'"),
        ({"use_residual": True}, "use_residual is True"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
        ({"in_features": "24"}, "in_features and out_features must be whole numbers"),
        ({"bias": "no"}, "bias must be true or false"),
        ({"in_features": 32}, "in_features is 32, and the vectors before it have 192 numbers"),
        ({"bias": False}, r"holds .*linear\.bias"),
    ],
)
def test_a_linear_layer_that_would_be_another_is_refused(
    encoder_dir: Path, settings: Any, reason: str
):
    place = encoder_dir / "2_Dense" / "config.json"
    write(place, {**json.loads(place.read_text()), **settings})
    with pytest.raises(EnvironmentMismatch, match=reason) as refused:
        load_checkpoint(encoder_dir)
    assert "2_Dense" in str(refused.value)


@pytest.mark.parametrize(
    "kind", ["sentence_transformers.models.LSTM", "own_package.Dense", "own_package.Pooling"]
)
def test_a_step_of_another_kind_or_package_is_refused_by_its_name(encoder_dir: Path, kind: str):
    modules = json.loads((encoder_dir / "modules.json").read_text())
    modules[1 if kind.endswith("Pooling") else 2]["type"] = kind
    write(encoder_dir / "modules.json", modules)
    with pytest.raises(
        EnvironmentMismatch, match=kind.removeprefix("sentence_transformers.models.")
    ):
        load_checkpoint(encoder_dir)


def test_a_teacher_of_another_width_of_vectors_is_refused(
    encoder_dir: Path, tiny_encoder: TorchModel
):
    from compressor.errors import StepFailed
    from compressor.tasks import OutputForm

    forms = [
        OutputForm((), module.config)
        for module in (tiny_encoder.module, load_checkpoint(encoder_dir).module)
    ]
    with pytest.raises(StepFailed, match="vectors have 32 numbers, the teacher's 10"):
        tiny_encoder.task.teacher_order(*forms)
