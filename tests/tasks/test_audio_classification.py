"""Sounds are read as transformers' feature extractors read them, alone and in a batch."""

from __future__ import annotations

import io
import struct
import wave
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY
from numpy.typing import NDArray
from rich.console import Console

from compressor.data import Dataset, DataSettings, SplitSource, load_splits
from compressor.data.describe import describe_splits
from compressor.errors import EnvironmentMismatch, RecipeError, StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.inspection.checkpoint import inspect_checkpoint
from compressor.inspection.terminal import render_checkpoint
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import TorchModel, load_checkpoint, load_foreign
from compressor.passes.prune_magnitude.masks import prunable_weights
from compressor.runtime.sounds import given_sounds
from compressor.tasks import load_task
from compressor.tasks.columns import SoundColumns
from compressor.tasks.examples import length_of
from compressor.tasks.sound import Sound, StoredSound, read_wav
from compressor.training.distill_settings import DistillSettings
from compressor.training.mixing import Mix, run_mixed
from compressor.training.recovery import check_distillation

RATE = 16_000
LABELS = {
    "id2label": {0: "low", 1: "high", 2: "none"},
    "label2id": {"low": 0, "high": 1, "none": 2},
}
CONVOLUTIONS = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
}


def of_samples(kind: str, norm: str) -> tuple[Any, Any]:
    config = getattr(transformers, f"{kind}Config")(
        **TINY, **CONVOLUTIONS, **LABELS, feat_extract_norm=norm, do_stable_layer_norm=True
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer")
    return getattr(transformers, f"{kind}ForSequenceClassification")(config), extractor


def whisper() -> tuple[Any, Any]:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=1, encoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=32, num_mel_bins=16,
        max_source_positions=50, classifier_proj_size=16, vocab_size=50, **ids, **LABELS,
    )  # fmt: skip
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return transformers.WhisperForAudioClassification(config), extractor


def spectrogram() -> tuple[Any, Any]:
    patches = {"max_length": 32, "num_mel_bins": 16, "patch_size": 8}
    config = transformers.ASTConfig(**TINY, **patches, **LABELS)
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=32)
    return transformers.ASTForAudioClassification(config), extractor


MODELS = {
    "wav2vec2": lambda: of_samples("Wav2Vec2", "layer"),
    "hubert": lambda: of_samples("Hubert", "layer"),
    "whisper": whisper,
    "spectrogram": spectrogram,
}


def save(made: tuple[Any, Any], folder: Path) -> Path:
    module, extractor = made
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    module.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def tones() -> list[NDArray[np.float32]]:
    places = np.arange(5000)
    return [
        np.sin(places[: 2000 + 700 * row] * (row + 1) / 20).astype(np.float32) * 0.5
        for row in range(4)
    ]


def logits(model: TorchModel, sounds: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    task = model.task
    return model.predict(task.encode(model.preprocessor, task.given(sounds)))


def wav(values: NDArray[Any], width: int = 2, channels: int = 1, rate: int = RATE) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(width)
        stream.setframerate(rate)
        stream.writeframes(values.tobytes())
    return content.getvalue()


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_transformers_alone_and_in_a_batch(name: str, tmp_path: Path):
    torch.manual_seed(0)
    folder = save(MODELS[name](), tmp_path / "model")
    assert find_checkpoint(str(folder)).infer_task() == "audio-classification"
    model = load_checkpoint(folder)
    own = transformers.AutoModelForAudioClassification.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    expected = []
    for tone in tones():
        batch = extractor(tone, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            expected.append(own(**batch).logits.numpy())
    assert logits(model, tones()) == pytest.approx(np.concatenate(expected), abs=1e-5)
    model.save(tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    assert logits(again, tones()) == pytest.approx(np.concatenate(expected), abs=1e-5)


def test_sounds_are_padded_where_the_mask_is_counted(tmp_path: Path):
    torch.manual_seed(0)
    made = of_samples("Wav2Vec2", "layer")
    made[1].padding_side = "left"  # which transformers computes wrongly in a batch
    model = load_checkpoint(save(made, tmp_path))
    alone = [logits(model, [tone]) for tone in tones()]
    assert logits(model, tones()) == pytest.approx(np.concatenate(alone), abs=1e-5)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_the_code_of_the_model_card_reads_a_sound_as_the_artifact(
    norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = load_foreign(
        find_checkpoint(str(save(of_samples("Hubert", norm), tmp_path))),
        load_task("audio-classification", max_length=6000),
    )
    samples = (np.sin(np.arange(4000) / 9) * 9000).astype("<i2")
    (tmp_path / "sound.wav").write_bytes(wav(samples))
    (tmp_path / "manifest.json").write_text('{"max_length": 6000}')
    sound = samples / np.float32(2**15)
    expected = model.task.encode(model.preprocessor, model.task.given([sound]))
    shapes = {
        name: SimpleNamespace(name=name, shape=value.shape) for name, value in expected.items()
    }
    read: dict[str, Any] = {}
    session = SimpleNamespace(
        get_inputs=lambda: list(shapes.values()),
        run=lambda _, inputs: read.update(inputs) or [np.eye(3)[:1]],
    )
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: session)
    monkeypatch.chdir(tmp_path)
    code = model.task.words.code.format(provider="'CPUExecutionProvider'", labels=["low"])
    exec(code, {})  # noqa: S102 - the code under test
    assert read.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(read[name], values, atol=1e-6)


def test_the_graph_reads_a_mask_and_sounds_of_any_length(tmp_path: Path):
    torch.manual_seed(0)
    model = load_checkpoint(save(MODELS["wav2vec2"](), tmp_path / "model"))
    graph = export_onnx(model, tmp_path / "model.onnx", threads=1)
    long = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)
    for sounds in ([*tones(), long], [long], tones()[3:]):
        batch = model.task.encode(model.preprocessor, model.task.given(sounds))
        assert graph.predict(batch) == pytest.approx(model.predict(batch), abs=1e-4)


def test_the_examples_that_are_traced_differ_in_length():
    # With a mask of ones alone a graph is traced that reads none.
    task = load_task("audio-classification")
    assert len({length_of(task.dummy_example(length)) for length in (9, 6)}) == 2


def test_a_model_that_reads_padding_is_given_a_length(tmp_path: Path):
    torch.manual_seed(0)
    model = load_checkpoint(save(of_samples("Wav2Vec2", "group"), tmp_path / "model"))
    example = model.task.encode(model.preprocessor, [model.task.dummy_example(2)])
    assert example["input_values"].shape == (1, 1600)  # `compress inspect` looks at one sound
    with pytest.raises(RecipeError, match=r"^export.max_length: .*set how many samples"):
        logits(model, tones())
    model = replace(model, task=replace(model.task, max_length=3000))
    together = logits(model, tones())
    alone = np.concatenate([logits(model, [tone]) for tone in tones()])
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        (Sound(np.zeros(4000, np.float32), 8000, "row 3"), "row 3: the sound has 8,000 samples a"),
        (Sound(np.zeros(20, np.float32), RATE, "row 4"), "row 4: .* 20 samples, .* needs 30 for"),
    ],
)
def test_what_the_model_cannot_hear_is_told_with_its_row(sound: Sound, words: str, tmp_path: Path):
    torch.manual_seed(0)
    model = load_checkpoint(save(MODELS["wav2vec2"](), tmp_path / "model"))
    with pytest.raises(RecipeError, match=words):
        model.task.require_readable(model.preprocessor, [sound], str)
    with pytest.raises(RecipeError, match=words):
        model.task.encode(model.preprocessor, [sound])


@pytest.mark.parametrize(("name", "shortest"), [("wav2vec2", 30), ("spectrogram", 400)])
def test_sounds_are_not_cut_to_less_than_a_frame(name: str, shortest: int, tmp_path: Path):
    torch.manual_seed(0)
    model = load_checkpoint(save(MODELS[name](), tmp_path / "model"))
    model = replace(model, task=replace(model.task, max_length=shortest - 1))
    words = f"^max_length: is {shortest - 1} samples, and the model needs {shortest} for a first"
    with pytest.raises(RecipeError, match=words):
        model.task.require_readable(model.preprocessor, model.task.given(tones()), str)
    with pytest.raises(RecipeError, match=words):
        logits(model, tones())
    model = replace(model, task=replace(model.task, max_length=shortest))
    assert logits(model, tones()).shape == (4, 3)


def test_a_transcriber_is_refused(tmp_path: Path):
    config = transformers.Wav2Vec2Config(**TINY, **CONVOLUTIONS, vocab_size=9)
    made = transformers.Wav2Vec2ForCTC(config), transformers.Wav2Vec2FeatureExtractor()
    with pytest.raises(EnvironmentMismatch, match="Wav2Vec2ForCTC transcribes speech, and no"):
        find_checkpoint(str(save(made, tmp_path / "model"))).infer_task()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (wav(np.array([0, 128, 255], np.uint8), width=1), [-1, 0, 127 / 128]),
        (wav(np.array([-(2**15), 2**14], "<i2")), [-1, 0.5]),
        (wav(np.array([0, 0, 0x40, 0, 0, 0x80], np.uint8), width=3), [0.5, -1]),
        (wav(np.array([2**30, -(2**31)], "<i4"), width=4), [0.5, -1]),
        (wav(np.array([2**14, -(2**14), 2**14, 2**14], "<i2"), channels=2), [0, 0.5]),
    ],
)
def test_whole_numbers_of_every_width_become_samples(content: bytes, expected: list[float]):
    sound = read_wav(content, "row 0")
    assert sound.rate == RATE
    assert sound.samples.tolist() == expected


@pytest.mark.parametrize("content", [b"", b"no sound", wav(np.zeros(3, "<i2"))[:20]])
def test_what_is_no_wav_file_is_told(content: bytes):
    with pytest.raises(EnvironmentMismatch, match=r"row 7: the sound is no WAV file"):
        read_wav(content, "row 7")


def riff(kind: int, samples: NDArray[Any], *, extensible: bool = False) -> bytes:
    """Return a WAV file of one channel, of a kind that the standard library does not write."""
    width = samples.itemsize
    chunk = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else kind, 1, RATE, RATE * width, width, 8 * width
    )
    if extensible:
        chunk += struct.pack("<HHIH", 22, 8 * width, 0, kind) + bytes(14)
    body = b"WAVEfmt " + struct.pack("<I", len(chunk)) + chunk + b"LIST\x03\0\0\0abc\0"
    body += b"data" + struct.pack("<I", samples.nbytes) + samples.tobytes()
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "content",
    [
        riff(3, np.array([0.25, -1.0], "<f4")),
        riff(3, np.array([0.25, -1.0], "<f8")),
        riff(3, np.array([0.25, -1.0], "<f4"), extensible=True),
        riff(1, np.array([2**13, -(2**15)], "<i2"), extensible=True),
    ],
)
def test_floats_and_extensible_files_are_read(content: bytes):
    sound = read_wav(content, "row 0")
    assert (sound.rate, sound.samples.tolist()) == (RATE, [0.25, -1.0])


def test_samples_a_little_above_1_are_read_from_an_array_as_from_a_file():
    samples = np.array([0.5, 1.13, -1.02], np.float32)
    [given] = load_task("audio-classification").given([samples])
    assert np.array_equal(given.samples, samples)
    [alone] = given_sounds([samples])
    assert np.array_equal(alone, samples)
    assert np.array_equal(read_wav(riff(3, samples), "row 1").samples, samples)
    for value in (np.nan, np.inf, 17.0):
        with pytest.raises(ValueError, match=r"finite and in -1\.\.1"):
            given_sounds([np.array([0.1, value], np.float32)])


@pytest.mark.parametrize("value", [np.nan, np.inf, 12_000.0])
def test_floats_that_are_no_samples_are_refused(value: float):
    with pytest.raises(EnvironmentMismatch, match=r"row 8: the sound has floats .* by 32768"):
        read_wav(riff(3, np.array([0.5, value], "<f4")), "row 8")


def test_another_coding_is_told_how_to_be_converted(tmp_path: Path):
    path = tmp_path / "a.wav"
    path.write_bytes(riff(7, np.zeros(4, np.uint8)))
    with pytest.raises(EnvironmentMismatch, match=r"format 7, 8 bits.*pcm_s16le"):
        read_wav(path, "row 1")


def test_equal_sounds_are_counted_among_splits(tmp_path: Path):
    for row, tone in enumerate(tones()):
        (tmp_path / f"{row}.wav").write_bytes(wav((tone * 2**15).astype("<i2")))
    for name, rows in {"a": "0 1 2", "b": "2 3"}.items():
        text = "".join(f"{row}.wav,low\n" for row in rows.split())
        (tmp_path / f"{name}.csv").write_text("audio,label\n" + text)
    settings = DataSettings(
        search=SplitSource(path=tmp_path / "a.csv"),
        certification=SplitSource(path=tmp_path / "b.csv"),
    )
    splits = load_splits(
        settings,
        label_names=("low", "high", "none"),
        columns=SoundColumns(),
        needed=["search", "certification"],
        seed=0,
    )
    found = {item.name: item.shared_with for item in describe_splits(splits)}
    assert found == {"search": {"certification": 1}, "certification": {"search": 1}}


def test_sounds_of_a_split_are_read_whenever_they_are_heard(tmp_path: Path):
    first, second = (wav((tone * 2**15).astype("<i2")) for tone in tones()[:2])
    path = tmp_path / "a.wav"
    path.write_bytes(first)
    (tmp_path / "rows.csv").write_text("audio,label\na.wav,low\na.wav,high\n")
    [split] = load_splits(
        DataSettings(search=SplitSource(path=tmp_path / "rows.csv")),
        label_names=("low", "high", "none"),
        columns=SoundColumns(),
        needed=["search"],
        seed=0,
    ).values()
    [sound, _] = split.examples
    assert isinstance(sound, StoredSound)
    assert length_of(sound) == len(tones()[0])
    path.write_bytes(second)
    assert np.array_equal(sound.read().samples, read_wav(second, "").samples)
    assert load_task("audio-classification").given([sound]) == [sound]


@pytest.mark.parametrize("name", MODELS)
def test_only_a_model_that_takes_padding_in_needs_a_length(name: str, tmp_path: Path):
    sounds = [Sound(tone, RATE, "a tone") for tone in tones()]
    task = load_task("audio-classification")
    reader = task.load_preprocessor(save(MODELS[name](), tmp_path / "model"))
    assert task.needed_length(reader, sounds) is None
    whole = task.load_preprocessor(save(of_samples("Wav2Vec2", "group"), tmp_path / "whole"))
    assert task.needed_length(whole, sounds) == max(map(len, tones()))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(5, np.float32), "give a list of sounds"),
        ([np.zeros(5, np.int16)], "example 0: must be float samples"),
        ([np.full(5, 17.0)], "example 0: samples must be finite and in -1..1"),
        (["a.wav"], "example 0: must be a sound"),
    ],
)
def test_what_is_no_list_of_sounds_is_refused(value: Any, words: str):
    with pytest.raises(ValueError, match=words):
        load_task("audio-classification").given(value)


@pytest.mark.parametrize(
    ("name", "reads_with"),
    [("wav2vec2", "Wav2Vec2FeatureExtractor"), ("spectrogram", "ASTFeatureExtractor")],
)
def test_inspect_shows_what_reads_sounds(name: str, reads_with: str, tmp_path: Path):
    facts = inspect_checkpoint(str(save(MODELS[name](), tmp_path / "model")), timing=False)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(render_checkpoint(facts))
    told = captured.get()
    assert ("800 samples" in told, "token" in told) == (name == "wav2vec2", False)
    assert (facts.task, facts.tokenizer.type) == ("audio-classification", reads_with)
    assert (facts.tokenizer.vocabulary, facts.tokenizer.max_length) == (None, None)
    supported = {saving.kind: saving.supported for saving in facts.savings}
    assert (supported["quantize_dynamic"], supported["trim_vocabulary"]) == (True, False)


def test_single_weights_are_pruned_in_convolutions_that_read_sounds(tmp_path: Path):
    module = load_checkpoint(save(MODELS["wav2vec2"](), tmp_path / "model")).module
    found = prunable_weights(module, include_embeddings=False)
    assert "wav2vec2.feature_extractor.conv_layers.0.conv.weight" in found
    assert not any(name.startswith("classifier") for name in found)


@pytest.mark.parametrize("name", ["wav2vec2", "spectrogram"])
def test_sounds_are_mixed_as_the_model_reads_them(name: str, tmp_path: Path):
    model = load_checkpoint(save(MODELS[name](), tmp_path / "model"))
    short, long = tones()[0], tones()[3]
    encoded = model.task.encode(model.preprocessor, model.task.given([short, long]))
    inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}

    with torch.no_grad():
        found = run_mixed(model.module, inputs, Mix(0.25, torch.tensor([1, 0]))).logits

    values = inputs["input_values"]
    mixed = {"input_values": 0.25 * values + 0.75 * values.flip(0)}
    if "attention_mask" in inputs:  # the longer of two says where samples are
        mixed["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    with torch.no_grad():
        torch.testing.assert_close(found, model.module(**mixed).logits)


def test_layers_are_not_compared_where_a_mask_is_of_samples(tmp_path: Path):
    model = load_checkpoint(save(MODELS["wav2vec2"](), tmp_path / "model"))
    sounds = tuple(Sound(tone, RATE, "a tone") for tone in tones())
    rows = Dataset("train", sounds, None, np.arange(4), "generated")
    check_distillation(model, model.clone(), rows, DistillSettings())
    with pytest.raises(StepFailed, match=r"'wav2vec2' reads a mask of samples.* set hidden_weight"):
        check_distillation(model, model.clone(), rows, DistillSettings(hidden_weight=1.0))


def test_a_spectrogram_is_not_made_of_less_than_one_frame(tmp_path: Path):
    model = load_checkpoint(save(MODELS["spectrogram"](), tmp_path / "model"))
    with pytest.raises(RecipeError, match=r"row 5: the sound has 399 samples, .* needs 400 for"):
        model.task.encode(model.preprocessor, [Sound(np.zeros(399, np.float32), RATE, "row 5")])


def test_a_file_that_ends_too_early_is_told_with_its_row():
    content = wav(np.zeros(1000, np.int16))
    with pytest.raises(EnvironmentMismatch, match="row 6: the sound ends after 500 of its 1,000 s"):
        read_wav(content[:-1000], "row 6")


def test_a_file_that_was_written_to_a_pipe_is_read_to_its_end():
    content = wav(np.zeros(1000, np.int16))
    length = content.index(b"data") + 4
    piped = content[:length] + b"\xff" * 4 + content[length + 4 :]
    assert len(read_wav(piped, "row 7")) == 1000
