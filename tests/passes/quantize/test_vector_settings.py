"""Vectors as int8 and as bits: what the graph gives, what it costs, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compressor
from compressor.data import Dataset
from compressor.errors import RecipeError, StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint
from compressor.passes import apply_pass
from compressor.passes.quantize.vector_settings import QuantizeVectors
from compressor.pipeline.inputs import require_fitting_passes
from compressor.tasks import load_task

TEXTS = ["a good film", "bad", "the plot was very quite lovely and the story is dull"]
INT8 = {"kind": "quantize_vectors"}
BITS = {"kind": "quantize_vectors", "precision": "ubinary"}


@pytest.fixture(scope="module")
def exported(tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return export_onnx(load_checkpoint(tiny_encoder_dir), path, threads=1)


def recipe(checkpoint: Path, folder: Path, metric: str, *passes: dict[str, Any]) -> Any:
    rows = [f"{word} {other}" for word in ("good", "bad", "the") for other in TEXTS * 4]
    (folder / "rows.csv").write_text(
        "text\n" + "\n".join(f"{row} film {i}" for i, row in enumerate(rows))
    )
    return {
        "model": {"checkpoint": str(checkpoint)},
        "data": {"search": {"path": str(folder / "rows.csv")}},
        "budget": {"max_drop": 0.9, "metric": metric},
        "passes": [*passes],
        "benchmark": {
            "batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "warmup_runs": 1,
            "threads": 1,
        },
    }  # fmt: skip


def codes_and_floats(
    settings: QuantizeVectors, exported: OnnxModel, context: Any
) -> tuple[Any, Any]:
    read = context.load_baseline()
    batch = read.task.encode(read.preprocessor, TEXTS)
    return apply_pass(settings, exported, context).predict(batch), exported.predict(batch)


def test_int8_numbers_are_a_scale_apart_and_the_largest_is_127(
    exported: OnnxModel,
    tiny_encoder_dir: Path,
    unlabelled: Dataset,
    make_context: Any,
    notes: list[str],
):
    context = make_context(tiny_encoder_dir, calibration=replace(unlabelled, examples=TEXTS))
    codes, floats = codes_and_floats(QuantizeVectors(), exported, context)
    assert codes.dtype == np.int8
    output = context.facts["output"]
    assert np.abs(codes.astype(int)).max() == 127
    np.testing.assert_allclose(codes * output["scale"], floats, atol=output["scale"] * 0.501)
    assert {key: output[key] for key in ("precision", "dtype", "dimensions", "bytes")} == {
        "precision": "int8", "dtype": "int8", "dimensions": 32, "bytes": 32
    }  # fmt: skip
    assert notes[-1] == "A vector of 32 numbers takes 32 bytes in place of 128."


def test_bits_are_those_of_sentence_transformers(
    exported: OnnxModel, tiny_encoder_dir: Path, make_context: Any, notes: list[str]
):
    settings = QuantizeVectors(precision="ubinary")
    codes, floats = codes_and_floats(settings, exported, make_context(tiny_encoder_dir))
    assert codes.dtype == np.uint8
    # As quantize_embeddings(precision="ubinary") of sentence-transformers does it.
    np.testing.assert_array_equal(codes, np.packbits(floats > 0).reshape(len(TEXTS), -1))
    assert notes == ["A vector of 32 numbers takes 4 bytes in place of 128."]


def test_a_vector_that_is_not_finite_stops_the_pass(
    exported: OnnxModel,
    tiny_encoder_dir: Path,
    unlabelled: Dataset,
    make_context: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(
        OnnxModel, "predict", lambda _self, _batch: np.full((3, 32), np.nan, np.float32)
    )
    context = make_context(tiny_encoder_dir, calibration=unlabelled)
    with pytest.raises(StepFailed, match="a vector of a calibration row is not finite"):
        apply_pass(QuantizeVectors(), exported, context)


@pytest.mark.parametrize("metric", ["cosine", "recall@10_original_index"])
def test_bits_are_not_compared_number_by_number(
    tiny_encoder_dir: Path, tmp_path: Path, metric: str
):
    loaded = compressor.load_recipe(recipe(tiny_encoder_dir, tmp_path, metric, BITS))
    task = load_task("sentence-embedding")
    with pytest.raises(RecipeError, match="leaves the sign of each number alone, and"):
        require_fitting_passes(loaded, task, None)
    require_fitting_passes(
        compressor.load_recipe(recipe(tiny_encoder_dir, tmp_path, metric, INT8)), task, None
    )


@pytest.mark.parametrize("later", [{"kind": "quantize_dynamic"}, INT8])
def test_nothing_that_reads_floats_can_follow(
    tiny_encoder_dir: Path, tmp_path: Path, later: dict[str, Any]
):
    with pytest.raises(RecipeError, match=r"it needs outputs in float, and these are integers"):
        compressor.load_recipe(recipe(tiny_encoder_dir, tmp_path, "cosine", INT8, later))


def test_a_classifier_is_refused():
    [(setting, why)] = QuantizeVectors().unfit_for(load_task("text-classification"))
    assert setting == "kind"
    assert why == "quantizes vectors of texts, and text-classification gives none; remove it"


def test_a_repair_gives_int8_in_place_of_bits():
    [milder] = QuantizeVectors(precision="ubinary").milder()
    assert milder == QuantizeVectors()
    assert not list(QuantizeVectors().milder())


def test_a_run_says_what_bits_cost_and_what_they_take(tiny_encoder_dir: Path, tmp_path: Path):
    passes = ({"kind": "cut_vectors", "dimensions": 24}, BITS)
    loaded = compressor.load_recipe(recipe(tiny_encoder_dir, tmp_path, "rank_agreement", *passes))
    report = compressor.run(loaded, output=tmp_path / "run", device="cpu", progress=False)
    cut, bits = report.passes
    assert cut.score_after is not None
    assert bits.score_after is not None
    assert 0.1 < bits.score_after < cut.score_after
    artifact = tmp_path / "run" / "artifact"
    vectors = compressor.load_artifact(artifact)(TEXTS)
    assert (vectors.dtype, vectors.shape) == (np.uint8, (3, 3))
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["output"] == {
        "precision": "ubinary", "dtype": "uint8", "dimensions": 24, "bytes": 3,
        "baseline_bytes": 128,
    }  # fmt: skip
    table = (tmp_path / "run" / "report.md").read_text()
    assert "| A vector, bytes |" in table
    assert "| Final artifact |" in table
    card = (artifact / "README.md").read_text()
    assert "| Bytes of a vector | 128 | 3 |" in card
    assert "np.unpackbits(codes, axis=1)" in card
    assert "Output `sentence_embedding`: uint8 of shape (batch, bytes)" in card
