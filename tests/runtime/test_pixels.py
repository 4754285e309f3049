"""Pictures are prepared as transformers prepares them, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers
from onnx import TensorProto, helper
from PIL import Image

import compressor
from compressor.artifact import seal_artifact
from compressor.runtime import EnvironmentMismatch, load_artifact
from compressor.runtime.manifest import NEEDS_TRANSFORMERS
from compressor.runtime.pixels import ImageProcessor
from compressor.tasks import load_task

RANDOM = np.random.default_rng(0)
IMAGES = [
    RANDOM.integers(0, 256, shape, dtype=np.uint8)
    for shape in ((40, 30, 3), (17, 51, 3), (8, 8, 3), (64, 64), (90, 33), (3, 5, 3))
]
SQUARE = {"height": 16, "width": 20}
PROCESSORS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "resized": (transformers.ViTImageProcessorPil, {"size": SQUARE}),
    "resized by the nearest": (transformers.ViTImageProcessorPil, {"size": SQUARE, "resample": 0}),
    "cropped": (
        transformers.CLIPImageProcessorPil,
        {"size": {"shortest_edge": 18}, "crop_size": {"height": 15, "width": 16}},
    ),
    "cropped beyond its edge": (
        transformers.CLIPImageProcessorPil,
        {"do_resize": False, "crop_size": {"height": 35, "width": 32}},
    ),
    "of SigLIP": (transformers.SiglipImageProcessorPil, {"size": SQUARE}),
    "of BiT": (
        transformers.BitImageProcessorPil,
        {"size": {"shortest_edge": 21}, "crop_size": {"height": 16, "width": 16}},
    ),
    "neither rescaled nor normalised": (
        transformers.ViTImageProcessorPil,
        {"size": SQUARE, "do_rescale": False, "do_normalize": False},
    ),
    "with one mean": (
        transformers.ViTImageProcessorPil,
        {"size": SQUARE, "image_mean": 0.25, "image_std": 0.5},
    ),
}


def write_image_artifact(
    folder: Path, processor: Any, *, channels: int = 3, facts: dict[str, Any] | None = None
) -> Path:
    """Write an artifact whose logits are means of pixels."""
    folder.mkdir(exist_ok=True)
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["rows"], axes=[2], keepdims=0),
        helper.make_node("ReduceMax", ["rows"], ["logits"], axes=[2], keepdims=0),
    ]
    shape = ["batch", channels, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", channels])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    processor.save_pretrained(folder)
    config = {"model_type": "vit", "num_channels": channels}
    (folder / "config.json").write_text(json.dumps(config))
    task, labels = load_task("image-classification"), [f"channel {n}" for n in range(channels)]
    seal_artifact(folder, task=task, labels=labels, facts=facts or {})
    return folder


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_transformers(name: str, channels: int, tmp_path: Path):
    kind, settings = PROCESSORS[name]
    grey = {"image_mean": [0.3], "image_std": [0.7]} if channels == 1 and "mean" not in name else {}
    processor = kind(**{**settings, **grey, "do_convert_rgb": channels == 3})
    folder = write_image_artifact(tmp_path, processor, channels=channels)
    task = load_task("image-classification")
    slow, light = task.load_preprocessor(folder), ImageProcessor.load(folder)
    for image in IMAGES:
        expected = task.encode(slow, [image])["pixel_values"]
        [found] = light([image]).values()
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)


def test_predictions_are_those_of_the_package(tmp_path: Path):
    processor = transformers.ViTImageProcessorPil(size=SQUARE)
    light = load_artifact(write_image_artifact(tmp_path / "a", processor))
    facts = {NEEDS_TRANSFORMERS: "a test says so"}
    full = compressor.load_artifact(write_image_artifact(tmp_path / "b", processor, facts=facts))
    pictures: list[Any] = [*IMAGES, Image.fromarray(IMAGES[0]).convert("P")]
    assert light(pictures, batch_size=2) == full(pictures)
    assert light.logits(pictures).tolist() == full.logits(pictures).tolist()


def test_a_processor_that_does_more_is_refused(tmp_path: Path):
    folder = write_image_artifact(tmp_path, transformers.ViTImageProcessorPil(size=SQUARE))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    for change, told in (
        ({"image_processor_type": "PoolFormerImageProcessor"}, "PoolFormerImageProcessor is not"),
        ({"size": {"longest_edge": 4}}, "a size of longest_edge is not computed here"),
        ({"do_pad": True}, "do_pad is not computed here; load the artifact with the package"),
    ):
        (folder / "preprocessor_config.json").write_text(json.dumps({**settings, **change}))
        assert load_task("image-classification").light_preprocessor(folder) is None
        with pytest.raises(EnvironmentMismatch, match=told):
            load_artifact(folder, verify=False)


def test_images_that_stay_at_several_sizes_are_refused(tmp_path: Path):
    processor = transformers.ViTImageProcessorPil(do_resize=False)
    light = load_artifact(write_image_artifact(tmp_path, processor))
    with pytest.raises(EnvironmentMismatch, match="leaves images at several sizes, such as 8x8"):
        light(IMAGES[:3])


@pytest.mark.parametrize("value", [IMAGES[0], "a text", ["a text"], [np.zeros((2, 2))], []])
def test_what_is_no_list_of_images_is_refused_in_the_words_of_the_package(
    value: Any, tmp_path: Path
):
    folder = write_image_artifact(tmp_path, transformers.ViTImageProcessorPil(size=SQUARE))
    with pytest.raises(ValueError, match=r"give a list|must be") as ours:
        compressor.load_artifact(folder)(value)
    with pytest.raises(ValueError, match=r"give a list|must be") as found:
        load_artifact(folder)(value)
    assert str(found.value) == str(ours.value)
