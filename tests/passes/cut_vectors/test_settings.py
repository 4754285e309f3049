"""Vectors lose their last numbers, in PyTorch, in what is saved and in the graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import compressor
from compressor.errors import RecipeError, StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import Ahead, apply_pass, look_ahead
from compressor.passes.cut_vectors.settings import CutVectors
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.pipeline.inputs import require_fitting_passes
from compressor.tasks import load_task

TEXTS = ["a good film", "bad", "the plot was very quite lovely and the story is dull"]


def vectors_of(model: Any, task: TorchModel) -> np.ndarray:
    return model.predict(task.task.encode(task.preprocessor, TEXTS))


def first(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    kept = vectors[:, :dimensions]
    return kept / np.linalg.norm(kept, axis=1, keepdims=True)


def test_the_first_numbers_stay_and_have_length_1_again(
    tiny_encoder: TorchModel, make_context: Any, notes: list[str], tmp_path: Path
):
    right = first(vectors_of(tiny_encoder, tiny_encoder), 8)
    model = apply_pass(CutVectors(dimensions=8), tiny_encoder, make_context())
    np.testing.assert_allclose(vectors_of(model, model), right, atol=1e-6)
    assert notes == [
        "8 of 32 numbers of a vector stay, so an index of vectors takes 25% of the room"
    ]
    np.testing.assert_allclose(vectors_of(model.clone(), model), right, atol=1e-6)
    graph = export_onnx(model, tmp_path / "model.onnx", threads=1)
    np.testing.assert_allclose(vectors_of(graph, model), right, atol=1e-6)


def test_what_is_saved_is_a_matrix_to_others_and_a_cut_here(
    tiny_encoder: TorchModel, make_context: Any, tmp_path: Path
):
    model = apply_pass(CutVectors(dimensions=8), tiny_encoder, make_context())
    model.save(tmp_path / "saved")
    weight = load_file(tmp_path / "saved" / "2_Dense" / "model.safetensors")["linear.weight"]
    np.testing.assert_array_equal(weight.numpy(), np.eye(8, 32))
    again = load_checkpoint(tmp_path / "saved")
    assert not list(again.module.sentence_dense.parameters())  # so nothing of it is quantized
    np.testing.assert_allclose(vectors_of(again, again), vectors_of(model, model), atol=1e-6)
    twice = apply_pass(CutVectors(dimensions=4), again, make_context())
    np.testing.assert_allclose(
        vectors_of(twice, twice), first(vectors_of(model, model), 4), atol=1e-6
    )


def test_vectors_that_were_not_scaled_are_cut_alone(
    tiny_encoder_dir: Path, make_context: Any, tmp_path: Path
):
    copy = shutil.copytree(tiny_encoder_dir, tmp_path / "copy")
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(json.dumps(modules[:2]))
    model = load_checkpoint(copy)
    right = vectors_of(model, model)[:, :8]
    cut = apply_pass(CutVectors(dimensions=8), model, make_context())
    np.testing.assert_allclose(vectors_of(cut, cut), right, atol=1e-6)


def test_as_many_numbers_as_there_are_are_refused_before_anything_runs(
    tiny_encoder: TorchModel,
):
    ahead = Ahead(tiny_encoder, {}, 0)
    with pytest.raises(StepFailed, match="dimensions is 32, and vectors have 32 numbers"):
        look_ahead(CutVectors(dimensions=32), tiny_encoder, ahead)


def recipe(checkpoint: Path, folder: Path, metric: str | None) -> Any:
    rows = [f"{word} {other}" for word in ("good", "bad", "the") for other in TEXTS * 4]
    (folder / "rows.csv").write_text(
        "text\n" + "\n".join(f"{row} film {i}" for i, row in enumerate(rows))
    )
    return {
        "model": {"checkpoint": str(checkpoint)},
        "data": {"search": {"path": str(folder / "rows.csv")}},
        "budget": {"max_drop": 0.9} | ({} if metric is None else {"metric": metric}),
        "passes": [{"kind": "cut_vectors", "dimensions": 8}, {"kind": "quantize_dynamic"}],
        "benchmark": {
            "batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "warmup_runs": 1,
            "threads": 1,
        },
    }  # fmt: skip


@pytest.mark.parametrize("metric", [None, "cosine", "ndcg@10_original_index"])
def test_a_metric_that_compares_number_by_number_is_refused(
    tiny_encoder_dir: Path, tmp_path: Path, metric: str | None
):
    loaded = compressor.load_recipe(recipe(tiny_encoder_dir, tmp_path, metric))
    with pytest.raises(RecipeError, match=r"set budget\.metric to one of rank_agreement, spearman"):
        require_fitting_passes(loaded, load_task("sentence-embedding"), None)


def test_a_classifier_is_refused():
    [(setting, why)] = CutVectors(dimensions=8).unfit_for(load_task("text-classification"))
    assert (setting, why) == (
        "kind",
        "cuts vectors of texts, and text-classification gives none; remove it",
    )


def test_a_run_says_what_the_cut_costs(tiny_encoder_dir: Path, tmp_path: Path):
    loaded = compressor.load_recipe(recipe(tiny_encoder_dir, tmp_path, "rank_agreement"))
    report = compressor.run(loaded, output=tmp_path / "run", device="cpu")
    cut, quantized = report.passes
    assert cut.kind == "cut_vectors"
    assert cut.score_after is not None
    assert 0.1 < cut.score_after < 1.0
    assert quantized.kind == QuantizeDynamic.model_fields["kind"].default
    assert report.embedding is not None
    vectors = compressor.load_artifact(tmp_path / "run" / "artifact")(TEXTS)
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_learning_from_vectors_that_were_not_cut_is_refused_before_anything_runs(
    tiny_encoder_dir: Path, tmp_path: Path
):
    changes = recipe(tiny_encoder_dir, tmp_path, "rank_agreement")
    changes["data"]["train"] = {"path": str(tmp_path / "rows.csv")}
    changes["passes"] = [{"kind": "cut_vectors", "dimensions": 8}, {"kind": "distill"}]
    with pytest.raises(RecipeError, match=r"passes\[1\]\.kind: .*numbers, the teacher's 32"):
        compressor.run(compressor.load_recipe(changes), output=tmp_path / "run", device="cpu")
