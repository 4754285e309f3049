"""A table of words becomes a product of two, in PyTorch, in what is saved and in the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.export.to_onnx import export_onnx
from compressor.models.low_rank import LowRankTable
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PASSES, Ahead, NothingToRemove, apply_pass, look_ahead
from compressor.passes.distill.settings import Distill
from compressor.passes.factorize_embeddings.settings import FactorizeEmbeddings
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.passes.trim_vocabulary.settings import TrimVocabulary
from compressor.recipe.rules import find_conflicts

TEXTS = ("a good film", "bad", "the plot was very quite lovely and the story is dull")
RANK = 8


def lines() -> Dataset:
    labels = np.arange(len(TEXTS)) % 2
    return Dataset("train", TEXTS, labels, np.arange(len(TEXTS)), "generated")


def logits(model: Any, like: TorchModel) -> np.ndarray:
    return model.predict(like.task.encode(like.preprocessor, TEXTS))


def with_rank(model: TorchModel, rank: int) -> TorchModel:
    """Return a model whose table has no higher rank."""
    table = model.module.get_input_embeddings().weight.data
    left, values, right = torch.linalg.svd(table, full_matrices=False)
    table.copy_(left[:, :rank] * values[:rank] @ right[:rank])
    return model


def test_a_table_of_low_rank_is_kept_saved_and_exported_as_gather_and_matmul(
    tiny_bert: TorchModel, make_context: Any, notes: list[str], tmp_path: Path
):
    model = with_rank(tiny_bert, RANK)
    before = logits(model, model)
    rows = model.module.get_input_embeddings().num_embeddings
    context = make_context(train=lines())
    model = apply_pass(FactorizeEmbeddings(rank=RANK), model, context)
    np.testing.assert_allclose(logits(model, model), before, atol=1e-5)
    assert context.facts["kept_squares"] == 1.0
    assert notes[0].startswith(f"the table of {rows} x 32 is {rows} x 8 times 8 x 32 now")

    np.testing.assert_array_equal(logits(model.clone(), model), logits(model, model))
    model.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "structure.json").read_text())["table_rank"] == RANK
    again = load_checkpoint(tmp_path / "saved")
    np.testing.assert_allclose(logits(again, again), before, atol=1e-5)

    graph = export_onnx(again, tmp_path / "model.onnx", threads=1)
    np.testing.assert_allclose(logits(graph, again), before, atol=1e-5)
    stored = onnx.load(tmp_path / "model.onnx").graph
    shapes = {tuple(tensor.dims) for tensor in stored.initializer}
    assert (rows, RANK) in shapes
    assert {(RANK, 32), (32, RANK)} & shapes
    assert (rows, 32) not in shapes

    integers = apply_pass(QuantizeDynamic(min_elements=64), graph, make_context())
    assert np.abs(logits(integers, again) - before).max() < 0.1


def test_a_model_whose_units_cannot_go_is_factorized_saved_and_loaded_too(
    tiny_bert: TorchModel, make_context: Any, tmp_path: Path
):
    tiny_bert.preprocessor.save_pretrained(tmp_path / "big_bird")
    config = transformers.BigBirdConfig(
        vocab_size=len(tiny_bert.preprocessor), hidden_size=32, num_hidden_layers=1,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=64,
        attention_type="original_full", initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    transformers.BigBirdForSequenceClassification(config).save_pretrained(tmp_path / "big_bird")
    model = with_rank(load_checkpoint(tmp_path / "big_bird"), RANK)
    before = logits(model, model)
    model = apply_pass(FactorizeEmbeddings(rank=RANK), model, make_context(train=lines()))
    np.testing.assert_allclose(logits(model.clone(), model), before, atol=1e-5)
    model.save(tmp_path / "saved")
    shape = json.loads((tmp_path / "saved" / "structure.json").read_text())
    assert shape == {"layers": [], "table_rank": RANK}
    again = load_checkpoint(tmp_path / "saved")
    np.testing.assert_allclose(logits(again, again), before, atol=1e-5)


def test_it_is_the_best_product_for_pieces_as_often_as_they_occur(
    tiny_bert: TorchModel, make_context: Any
):
    """Against the singular values of the weighted table, by NumPy."""
    whole = tiny_bert.module.get_input_embeddings().weight.detach().numpy().astype(float)
    weights = np.ones(len(whole))
    for text in TEXTS:
        np.add.at(weights, tiny_bert.preprocessor(text)["input_ids"], 1)
    left_over = np.linalg.svd(np.sqrt(weights)[:, None] * whole, compute_uv=False)[RANK:]
    model = apply_pass(FactorizeEmbeddings(rank=RANK), tiny_bert, make_context(train=lines()))
    with torch.no_grad():
        found = model.module.get_input_embeddings()(torch.arange(len(whole))).numpy()
    error = (weights[:, None] * (whole - found) ** 2).sum()
    np.testing.assert_allclose(error, (left_over**2).sum(), rtol=1e-4)


def test_a_factorized_model_learns_and_is_not_trimmed_any_more(
    tiny_bert: TorchModel, tiny_bert_dir: Path, make_context: Any
):
    context = make_context(train=lines())
    model = apply_pass(FactorizeEmbeddings(rank=RANK), tiny_bert, context)
    object.__setattr__(context, "load_baseline", lambda: load_checkpoint(tiny_bert_dir))
    context.work_dir.mkdir(exist_ok=True)
    before = model.module.get_input_embeddings().table.weight.detach().clone()
    model = apply_pass(Distill(max_steps=2, batch_size=2, learning_rate=1e-2), model, context)
    assert not torch.equal(model.module.get_input_embeddings().table.weight, before)
    with pytest.raises(ValueError, match="move trim_vocabulary before it"):
        apply_pass(TrimVocabulary(), model, make_context(train=lines()))
    with pytest.raises(ValueError, match="a product of rank 8 already"):
        apply_pass(FactorizeEmbeddings(rank=4), model, make_context(train=lines()))


def test_the_order_of_passes_is_told_before_anything_runs(tiny_bert: TorchModel):
    ahead = Ahead(tiny_bert, {"train": lines()}, seed=0)
    changed = look_ahead(FactorizeEmbeddings(rank=RANK), tiny_bert, ahead)
    assert isinstance(changed.module.get_input_embeddings(), LowRankTable)
    assert isinstance(tiny_bert.module.get_input_embeddings(), torch.nn.Embedding)
    with pytest.raises(ValueError, match="move trim_vocabulary before it"):
        look_ahead(TrimVocabulary(), changed, ahead)


def test_a_recipe_that_trims_behind_it_is_a_mistake():
    passes = [{"kind": "factorize_embeddings", "rank": 8}, {"kind": "trim_vocabulary"}]
    [mistake] = find_conflicts({"passes": passes}, PASSES)
    assert mistake.path == ("passes", 1, "kind")
    assert mistake.message == (
        "needs the table of words whole, and it is a product of two since factorize_embeddings "
        "(passes[0]); move factorize_embeddings behind this pass"
    )
    assert not find_conflicts({"passes": passes[::-1]}, PASSES)
    [twice] = find_conflicts({"passes": passes[:1] * 2}, PASSES)
    assert twice.message.endswith("; remove one of them")


def test_a_product_that_is_no_smaller_is_refused(tiny_bert: TorchModel, make_context: Any):
    rows = tiny_bert.module.get_input_embeddings().num_embeddings
    most = (rows * 32 - 1) // (rows + 32)
    with pytest.raises(NothingToRemove, match=f"set {most} or less"):
        apply_pass(FactorizeEmbeddings(rank=most + 1), tiny_bert, make_context(train=lines()))
    assert most * (rows + 32) < rows * 32


def test_a_table_that_a_head_shares_is_refused(tiny_bert: TorchModel, make_context: Any):
    config = transformers.BertConfig(**{**tiny_bert.module.config.to_dict(), "num_labels": 2})
    module = transformers.BertForMaskedLM(config)
    model = TorchModel(module, tiny_bert.preprocessor, tiny_bert.task)
    with pytest.raises(ValueError, match="is the weight of the head too"):
        apply_pass(FactorizeEmbeddings(rank=RANK), model, make_context(train=lines()))


def test_a_damaged_rank_is_told(tiny_bert: TorchModel, make_context: Any, tmp_path: Path):
    model = apply_pass(FactorizeEmbeddings(rank=RANK), tiny_bert, make_context(train=lines()))
    model.save(tmp_path)
    path = tmp_path / "structure.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "table_rank": 4}))
    with pytest.raises(EnvironmentMismatch, match="word_embeddings"):
        load_checkpoint(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "table_rank": 0}))
    with pytest.raises(EnvironmentMismatch, match="table_rank"):
        load_checkpoint(tmp_path)


def test_milder_settings_have_larger_ranks():
    assert [step.rank for step in FactorizeEmbeddings(rank=10).milder()] == [15, 20, 30]
