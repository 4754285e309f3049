"""Sounds are prepared as transformers prepares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers
from numpy.typing import NDArray
from onnx import TensorProto, helper

import compressor
from compressor.artifact import needs_transformers, seal_artifact
from compressor.runtime import EnvironmentMismatch, RecipeError, load_artifact
from compressor.runtime.manifest import NEEDS_TRANSFORMERS
from compressor.runtime.sounds import SoundProcessor
from compressor.tasks import load_task

RATE = 16_000
RANDOM = np.random.default_rng(0)
PLACES = np.arange(6000)
TONE = (np.sin(PLACES * 0.3) / 2).astype(np.float32)
SOUNDS = [
    (RANDOM.normal(size=4000) * 0.2).astype(np.float32).clip(-1, 1),
    (np.sin(PLACES * PLACES * 1e-5) / 3 + RANDOM.normal(size=6000) * 0.05).astype(np.float32),
    (RANDOM.normal(size=20_000) * 1e-3).astype(np.float32),
    np.zeros(3000, np.float32),
]
SMALL = {"feature_size": 16, "chunk_length": 1}
EXTRACTORS: dict[str, Any] = {
    "whisper": transformers.WhisperFeatureExtractor(chunk_length=2),
    "whisper of 128 bins": transformers.WhisperFeatureExtractor(feature_size=128, chunk_length=1),
    "ast": transformers.ASTFeatureExtractor(num_mel_bins=40, max_length=64),
    "ast as it is": transformers.ASTFeatureExtractor(
        num_mel_bins=32, max_length=8, do_normalize=False
    ),
    "wav2vec2": transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "wav2vec2 as it is": transformers.Wav2Vec2FeatureExtractor(
        do_normalize=False, padding_value=0.5
    ),
}
CONFIGS = {
    "wav2vec2": {"model_type": "wav2vec2", "feat_extract_norm": "layer"},
    "group": {"model_type": "wav2vec2", "feat_extract_norm": "group"},
    "whisper": {"model_type": "whisper"},
    "ast": {"model_type": "audio-spectrogram-transformer"},
}


def write_sound_artifact(
    folder: Path, name: str, *, facts: dict[str, Any] | None = None, max_length: int | None = None
) -> Path:
    """Write an artifact whose logits are the mean and the largest number that a model reads."""
    folder.mkdir(exist_ok=True)
    extractor = EXTRACTORS.get(name, EXTRACTORS["wav2vec2"])
    of_samples = name in ("wav2vec2", "group")
    main = "input_features" if name == "whisper" else "input_values"
    shape: list[Any] = ["batch", "a"] if of_samples else ["batch", "a", "b"]
    rows = main if of_samples else "rows"
    nodes = [] if of_samples else [
        helper.make_node("ReduceMean", [main], ["rows"], axes=[2], keepdims=0)
    ]  # fmt: skip
    nodes += [
        helper.make_node("ReduceMean", [rows], ["mean"], axes=[1]),
        helper.make_node("ReduceMax", [rows], ["largest"], axes=[1]),
        helper.make_node("Concat", ["mean", "largest"], ["logits"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "numbers",
        [helper.make_tensor_value_info(main, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    extractor.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    task = load_task("audio-classification", max_length=max_length)
    seal_artifact(folder, task=task, labels=["mean", "largest"], facts=facts or {})
    return folder


@pytest.mark.parametrize("name", ["ast", "ast as it is"])
def test_spectrograms_of_ast_are_those_of_transformers_to_the_last_bit(name: str):
    extractor = EXTRACTORS[name]
    expected = extractor(SOUNDS, sampling_rate=RATE, return_tensors="np")["input_values"]
    [found] = SoundProcessor(extractor.to_dict())(SOUNDS, sampling_rate=RATE).values()
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["whisper", "whisper of 128 bins"])
def test_spectrograms_of_whisper_are_those_of_transformers(name: str):
    extractor = EXTRACTORS[name]
    expected = extractor(SOUNDS, sampling_rate=RATE, return_tensors="np")["input_features"]
    processor = SoundProcessor(extractor.to_dict())
    [found] = processor(SOUNDS, sampling_rate=RATE).values()
    assert found.dtype == np.float32
    away = np.abs(found - expected)
    assert np.median(away) < 1e-6
    assert away.max() < 1e-4  # torch computes in float32, which shows where there is no energy
    for sound in (*SOUNDS, TONE):  # and without torch, to the last bit
        padded = np.zeros(extractor.n_samples, np.float32)
        padded[: len(sound)] = sound[: len(padded)]
        without_torch = extractor._np_extract_fbank_features(padded[None], "cpu")
        assert np.array_equal(
            processor([sound], sampling_rate=RATE)["input_features"], without_torch
        )


@pytest.mark.parametrize("options", [{"padding": "longest"}, {"padding": "max_length"}])
@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2 as it is"])
def test_samples_are_those_of_transformers_to_the_last_bit(name: str, options: dict[str, Any]):
    extractor = EXTRACTORS[name]
    more = {**options, "return_attention_mask": True, "sampling_rate": RATE}
    if options["padding"] == "max_length":
        more["max_length"] = 20_000
    expected = extractor(SOUNDS, return_tensors="np", **more)
    found = SoundProcessor(extractor.to_dict())(SOUNDS, **more)
    assert np.array_equal(found["input_values"], expected["input_values"])
    assert np.array_equal(found["attention_mask"], expected["attention_mask"])


@pytest.mark.parametrize("name", CONFIGS)
def test_predictions_are_those_of_the_package(name: str, tmp_path: Path):
    limit = 5000 if name == "group" else None
    light = load_artifact(write_sound_artifact(tmp_path / "a", name, max_length=limit))
    facts = {NEEDS_TRANSFORMERS: "a test says so"}
    slow = write_sound_artifact(tmp_path / "b", name, facts=facts, max_length=limit)
    full, same = compressor.load_artifact(slow), compressor.load_artifact(tmp_path / "a")
    near = pytest.approx(full.logits(SOUNDS), abs=1e-5)
    assert light.logits(SOUNDS) == near
    assert light.logits(SOUNDS, batch_size=1) == pytest.approx(
        full.logits(SOUNDS, batch_size=1), abs=1e-5
    )
    assert light(SOUNDS) == same(SOUNDS)
    assert [item["label"] for item in light(SOUNDS)] == [item["label"] for item in full(SOUNDS)]


def test_a_run_finds_that_transformers_is_not_needed_but_for_other_numbers(tmp_path: Path):
    folder = write_sound_artifact(tmp_path / "a", "whisper")
    task = load_task("audio-classification")
    examples = task.given([*SOUNDS, TONE])
    assert needs_transformers(folder, task, task.load_preprocessor(folder), examples) == {}
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    preprocessor = task.load_preprocessor(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "hop_length": 161}))
    assert needs_transformers(folder, task, preprocessor, examples) == {
        NEEDS_TRANSFORMERS: "WhisperFeatureExtractor reads otherwise than its file alone says"
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"feature_extractor_type": "SeamlessM4TFeatureExtractor"},
            "SeamlessM4TFeatureExtractor is",
        ),
        ({"padding_side": "left"}, "padding on the left is not computed here"),
        ({"dither": 0.1}, "dither is not computed here; load the artifact with the package"),
        ({"n_fft": None}, "WhisperFeatureExtractor without n_fft is not computed here"),
    ],
)
def test_an_extractor_that_does_more_is_refused(change: dict[str, Any], words: str, tmp_path: Path):
    folder = write_sound_artifact(tmp_path, "whisper")
    path = folder / "preprocessor_config.json"
    settings = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    assert load_task("audio-classification").light_preprocessor(folder) is None
    with pytest.raises(EnvironmentMismatch, match=words):
        load_artifact(folder, verify=False)


@pytest.mark.parametrize(
    "value", [TONE, ["a.wav"], [np.zeros(5, np.int16)], [np.full(5, 17.0)], []]
)
def test_what_is_no_list_of_sounds_is_refused_in_the_words_of_the_package(
    value: Any, tmp_path: Path
):
    folder = write_sound_artifact(tmp_path, "ast")
    with pytest.raises(ValueError, match=r"give a list|must be") as ours:
        compressor.load_artifact(folder)(value)
    with pytest.raises(ValueError, match=r"give a list|must be") as found:
        load_artifact(folder)(value)
    assert str(found.value) == str(ours.value)


def test_a_sound_that_is_too_short_is_named(tmp_path: Path):
    light = load_artifact(write_sound_artifact(tmp_path, "ast"))
    short: NDArray[np.float32] = np.zeros(399, np.float32)
    with pytest.raises(
        RecipeError, match=r"example 1: the sound has 399 samples, .* needs 400 for"
    ):
        light([TONE, short])
