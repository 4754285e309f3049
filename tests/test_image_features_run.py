"""A run on an encoder of images, from recipe to report and artifact."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow
import pyarrow.parquet
import pytest
import torch
import transformers
from conftest import TINY
from PIL import Image

import compressor
from compressor.export.to_onnx import export_onnx
from compressor.measurements import RunReport
from compressor.models.torch_model import load_checkpoint

SIZES = {"image_size": 8, "patch_size": 4}


def shaken(module: Any) -> Any:
    """Return a module whose outputs depend on the image, and not on its biases alone."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def save(module: Any, folder: Path) -> Path:
    module.save_pretrained(folder)
    transformers.ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def pictures(seed: int, count: int) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    return [
        Image.fromarray(random.integers(0, 256, (8, 8 + row % 3, 3)).astype(np.uint8))
        for row in range(count)
    ]


def write_parquet(path: Path, images: list[Image.Image]) -> Path:
    """Write images as data sets on the Hub store them, with a column for slices."""
    rows = []
    for row, image in enumerate(images):
        content = io.BytesIO()
        image.save(content, "PNG")
        rows.append({"bytes": content.getvalue(), "path": f"{row}.png"})
    sources = ["web" if row % 2 else "print" for row in range(len(rows))]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "source": sources}), path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunReport, Path]:
    folder = tmp_path_factory.mktemp("image-features")
    sizes = {name: value for name, value in TINY.items() if name != "intermediate_size"}
    config = transformers.Dinov2Config(**sizes, **SIZES, mlp_ratio=2)
    save(shaken(transformers.Dinov2Model(config)), folder / "model")
    splits = {"train": 48, "search": 150, "certification": 300}
    recipe = {
        "model": {"checkpoint": str(folder / "model")},
        "data": {
            name: {"path": str(write_parquet(folder / f"{name}.parquet", pictures(seed, count)))}
            for seed, (name, count) in enumerate(splits.items())
        },
        "budget": {"max_drop": 0.12, "slices": ["source"]},
        "passes": [
            {"kind": "prune_structured", "importance": "fisher", "ratio": 0.1},
            {"kind": "distill", "epochs": 1, "batch_size": 16},
            {"kind": "quantize_dynamic", "min_elements": 64},
        ],
        "benchmark": {"batch_sizes": [1], "num_runs": 2, "warmup_runs": 1, "threads": 1},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    output = folder / "run"
    report = compressor.run(
        compressor.load_recipe(folder / "recipe.yaml"), output=output, device="cpu"
    )
    return report, output


def test_the_run_is_scored_by_cosine_and_proven(finished: tuple[RunReport, Path]):
    report, _ = finished
    assert (report.task, report.metric, report.labels) == ("image-features", "image_cosine", ())
    assert report.baseline is not None
    assert report.final is not None
    assert report.baseline.score.value == pytest.approx(1.0)
    assert 0.88 < report.final.score.value < 0.9999
    assert report.certificate is not None
    assert report.certificate.verdict == "certified"
    assert {item.name for item in report.slices} == {"source = web", "source = print"}


def test_the_report_shows_pictures_and_their_nearest_ones(finished: tuple[RunReport, Path]):
    report, output = finished
    assert all(item.before.startswith("row ") for item in report.predictions)
    assert all(item.image is not None for item in report.predictions)
    assert report.flips
    assert report.flips[0].lost_confidence == max(
        item.lost_confidence or 0 for item in report.flips
    )
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Images with another nearest neighbour" in page


def test_the_model_card_says_what_the_graph_gives(finished: tuple[RunReport, Path]):
    card = (finished[1] / "artifact" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-feature-extraction" in card
    assert "Output `image_embeds`: float32 of shape (batch, width)" in card


def test_the_artifact_gives_vectors_that_do_not_depend_on_the_batch(
    finished: tuple[RunReport, Path],
):
    artifact = compressor.load_artifact(finished[1] / "artifact", threads=1)
    images = pictures(9, 5)
    together = artifact(images)
    assert together.shape == (5, 32)
    alone = np.concatenate([artifact([image]) for image in images])
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_the_graph_of_a_pair_gives_what_transformers_does(tmp_path: Path):
    towers = {
        "text_config": {**TINY, "vocab_size": 50, "max_position_embeddings": 16, "eos_token_id": 2},
        "vision_config": {**TINY, **SIZES},
    }
    module = shaken(transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=24)))
    model = load_checkpoint(save(module, tmp_path / "model"))
    graph = export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    for images in (pictures(1, 1), pictures(2, 5)):
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = module.get_image_features(pixels).pooler_output.numpy()
        [found] = session.run(["image_embeds"], {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_vectors_that_are_cut_and_quantized_keep_neighbours(
    finished: tuple[RunReport, Path], tmp_path: Path
):
    given = finished[1].parent
    recipe = {
        "model": {"checkpoint": str(given / "model"), "normalize": True},
        "data": {name: {"path": str(given / f"{name}.parquet")} for name in ("train", "search")},
        "budget": {"max_drop": 0.9, "metric": "neighbour_agreement"},
        "passes": [
            {"kind": "cut_vectors", "dimensions": 24},
            {"kind": "quantize_vectors", "precision": "int8"},
        ],
        "benchmark": {"batch_sizes": [1], "num_runs": 2, "warmup_runs": 1, "threads": 1},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    report = compressor.run(
        compressor.load_recipe(tmp_path / "recipe.yaml"), output=tmp_path / "run", device="cpu"
    )
    cut, quantized = report.passes
    assert cut.score_after is not None
    assert quantized.score_after is not None
    # One of 149 others is found by chance.
    assert 0.05 < quantized.score_after <= 1.0
    codes = compressor.load_artifact(tmp_path / "run" / "artifact")(pictures(7, 3))
    assert (codes.dtype, codes.shape) == (np.int8, (3, 24))
    card = (tmp_path / "run" / "artifact" / "README.md").read_text(encoding="utf-8")
    assert "codes" in card
