"""What a run would refuse of a checkpoint is said before a recipe is written."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, ExportError, RecipeError
from compressor.models.checkpoint import find_checkpoint
from compressor.models.families import FAMILIES, Family
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.pipeline.preflight import check_inputs
from compressor.recipe.recipe import load_recipe
from compressor.starter import questions
from compressor.starter.plan import Pruning, step_of
from compressor.starter.write import write_starter

Rows = list[list[Any]]

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "id2label": {0: "negative", 1: "positive"},
    "label2id": {"negative": 0, "positive": 1},
}


def write(path: Path, rows: Rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


@pytest.fixture
def make(tiny_bert_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a random classifier of a model type, with BERT's tokenizer."""

    def made(model_type: str, **settings: Any) -> Path:
        folder = tmp_path / model_type
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **{**TINY, **settings})
        auto = transformers.AutoModelForSequenceClassification
        module = auto.from_config(config)
        module.save_pretrained(folder)
        for path in tiny_bert_dir.glob("tokenizer*"):
            shutil.copy(path, folder)
        return folder

    return made


def told_apart(folder: Path, texts: list[str]) -> Path:
    """Take what all texts share out of a head's weights, so that it predicts both classes."""
    model = load_checkpoint(folder)
    head = [part for part in model.module.modules() if isinstance(part, torch.nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].reshape(-1, 32)))
    model.predict(model.task.encode(model.preprocessor, texts))
    hook.remove()
    shared = torch.cat(seen).mean(dim=0)
    with torch.no_grad():
        head.weight -= torch.outer(head.weight @ shared, shared) / shared.square().sum()
    model.module.save_pretrained(folder)
    return folder


def test_a_family_that_reads_padding_is_refused_by_its_config(
    make: Callable[..., Path], told: Rows, tmp_path: Path
):
    data, output = write(tmp_path / "rows.csv", told), tmp_path / "recipe.yaml"
    with pytest.raises(EnvironmentMismatch, match="convolve over tokens and padding alike, so a"):
        write_starter(str(make("convbert", embedding_size=32)), data, output)
    assert not output.exists()


def test_predictions_that_depend_on_the_batch_are_found_out_by_reading(
    make: Callable[..., Path], told: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(FAMILIES, "convbert", Family("nobody knows"))
    data, output = write(tmp_path / "rows.csv", told), tmp_path / "recipe.yaml"
    with pytest.raises(EnvironmentMismatch, match="so a score would depend on how rows are put"):
        write_starter(str(make("convbert", embedding_size=32)), data, output)
    assert not output.exists()


def test_attention_in_blocks_gets_a_length_at_which_it_is_full(
    make: Callable[..., Path], told: Rows, tmp_path: Path
):
    folder = make("big_bird", block_size=4, num_random_blocks=1)
    told_apart(folder, [str(text) for text, _ in told])
    output = tmp_path / "recipe.yaml"
    recipe = write_starter(str(folder), write(tmp_path / "rows.csv", told), output)
    assert recipe.export.max_length == (5 + 2) * 4
    check_inputs(load_recipe(output))


def test_rows_longer_than_full_attention_are_refused(
    make: Callable[..., Path], told: Rows, tmp_path: Path
):
    folder = make("big_bird", block_size=2, num_random_blocks=1)
    rows = [[f"{text} the film was good and it was bad", label] for text, label in told]
    data, output = write(tmp_path / "rows.csv", rows), tmp_path / "recipe.yaml"
    with pytest.raises(EnvironmentMismatch, match="block_sparse, which it uses for texts of more"):
        write_starter(str(folder), data, output)
    assert not output.exists()


@pytest.mark.parametrize("in_table", [False, True])
def test_a_model_type_whose_parts_are_not_known_is_exported_first(
    in_table: bool,
    tiny_bert_dir: Path,
    told: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    tried: list[Path] = []

    def refuse(model: TorchModel, path: Path, **_: object) -> None:
        tried.append(path)
        raise ExportError(f"{type(model.module).__name__} cannot be exported: no such operator")

    changed = {name: family for name, family in FAMILIES.items() if name != "bert"}
    if in_table:
        changed["bert"] = Family("where its heads and neurons sit is not known")
    data, output = write(tmp_path / "rows.csv", told), tmp_path / "recipe.yaml"
    monkeypatch.setattr(questions, "export_onnx", refuse)
    write_starter(str(tiny_bert_dir), data, tmp_path / "known.yaml")
    assert not tried
    monkeypatch.setattr(questions, "FAMILIES", changed)
    with pytest.raises(EnvironmentMismatch, match="nothing can be done with it, because BertFor"):
        write_starter(str(tiny_bert_dir), data, output)
    assert len(tried) == 1
    assert not output.exists()


def test_reconstruction_is_left_out_where_validate_would_refuse_it(
    make: Callable[..., Path], told: Rows, tmp_path: Path
):
    folder = make("gemma2", head_dim=8, num_key_value_heads=2, bos_token_id=2, eos_token_id=3)
    told_apart(folder, [str(text) for text, _ in told])
    output = tmp_path / "recipe.yaml"
    recipe = write_starter(str(folder), write(tmp_path / "rows.csv", told * 20), output)
    assert [step.kind for step in recipe.passes] == ["quantize_dynamic"]
    text = " ".join(output.read_text().replace("#", "").split())
    assert "No structured pruning: reconstruction fits what a sub-layer adds" in text


def test_a_model_without_matrices_worth_storing_is_refused(
    make: Callable[..., Path], told: Rows, tmp_path: Path
):
    small = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    data = write(tmp_path / "rows.csv", told)
    with pytest.raises(RecipeError, match=r"largest matrix has 800 weights.*from 2,048 on"):
        write_starter(str(make("bert", **small)), data, tmp_path / "recipe.yaml")


def test_a_recovery_compares_no_states_where_nobody_knows_which_are_padding(tmp_path: Path):
    reader = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    reader.save_pretrained(tmp_path)
    convolutions = {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [10, 8]}
    more = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    own = {"num_feat_extract_layers": 2, "feat_extract_norm": "layer"}
    settings: dict[str, Any] = {**TINY, **convolutions, **more, **own}
    config = transformers.Wav2Vec2Config(**settings)
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path)
    files = find_checkpoint(str(tmp_path))
    rows = {"train": sounds(model)}
    with_states, without = (Pruning(0.2, None, 1.0, 0.0, hidden) for hidden in (True, False))
    assert "reads a mask of samples" in str(
        questions.why_not(step_of(with_states), model, files, rows)
    )
    assert questions.why_not(step_of(without), model, files, rows) is None


def sounds(model: TorchModel) -> Dataset:
    """Return four rows of noise."""
    examples = tuple(model.task.dummy_example(1000 * size) for size in range(2, 6))
    return Dataset("train", examples, np.arange(4) % 2, np.arange(4), "made-up rows")
