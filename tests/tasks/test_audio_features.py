"""Vectors of sounds are transformers' own, and judged by their angles and their neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from conftest import TINY
from models.test_checkpoint import edit_config
from numpy.typing import NDArray
from tasks.test_audio_classification import CONVOLUTIONS, RATE, save, tones

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, RecipeError, StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.measurements import LengthRecord
from compressor.models.checkpoint import find_checkpoint
from compressor.models.families.layers import encoder_layers
from compressor.models.torch_model import TorchModel, load_checkpoint, load_foreign
from compressor.passes import PassContext, apply_pass, settings_of
from compressor.passes.prune_structured.fisher import require_one_length
from compressor.pipeline.same_prediction import require_one_prediction
from compressor.progress import SILENT
from compressor.tasks import load_task
from compressor.tasks.sound import Sound

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
LENGTH = 6000  # at which models that normalise over a whole sound read all of them


def of_samples(kind: str, ending: str = "Model", norm: str = "layer", **more: Any) -> Any:
    sizes = {name: value for name, value in CONVOLUTIONS.items() if name != "classifier_proj_size"}
    config = getattr(transformers, f"{kind}Config")(
        **{**TINY, **sizes, "feat_extract_norm": norm, "do_stable_layer_norm": True, **more}
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer")
    return getattr(transformers, f"{kind}{ending}")(config), extractor


def whisper(ending: str = "Model") -> Any:
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=32, num_mel_bins=16,
        max_source_positions=50, vocab_size=50, **IDS,
    )  # fmt: skip
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return getattr(transformers, f"Whisper{ending}")(config), extractor


def spectrogram(ending: str = "Model") -> Any:
    config = transformers.ASTConfig(**TINY, max_length=32, num_mel_bins=16, patch_size=8)
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=32)
    return getattr(transformers, f"AST{ending}")(config), extractor


MODELS = {
    "wav2vec2": lambda: of_samples("Wav2Vec2"),
    "wav2vec2 norms last": lambda: of_samples("Wav2Vec2", do_stable_layer_norm=False),
    "hubert": lambda: of_samples("Hubert"),
    "wavlm": lambda: of_samples("WavLM"),
    "wav2vec2 group": lambda: of_samples("Wav2Vec2", norm="group"),
    "hubert group": lambda: of_samples("Hubert", norm="group", do_stable_layer_norm=False),
    "whisper": whisper,
    "spectrogram": spectrogram,
}


def expected_vectors(
    folder: Path, sounds: list[NDArray[np.float32]], encoder: Any = None
) -> NDArray[np.float32]:
    """Return what transformers computes for each sound alone, pooled by hand."""
    module = encoder or transformers.AutoModel.from_pretrained(folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    module.eval()
    is_group = getattr(module.config, "feat_extract_norm", None) == "group"
    more = {"padding": "max_length", "max_length": LENGTH, "return_attention_mask": True}
    more = more if is_group else {}
    found = []
    for sound in sounds:
        batch = extractor(sound, sampling_rate=RATE, return_tensors="pt", **more)
        with torch.no_grad():
            if module.config.model_type == "whisper":
                states = module.get_encoder()(batch["input_features"]).last_hidden_state
            elif module.config.model_type == "audio-spectrogram-transformer":
                found.append(module(batch["input_values"]).pooler_output[0].numpy())
                continue
            else:  # alone a sound has no padding, so every frame is its own
                states = module(batch["input_values"]).last_hidden_state
        found.append(states[0].mean(dim=0).numpy())
    return np.stack(found)


def loaded(folder: Path, **options: Any) -> TorchModel:
    task = load_task("audio-features", **options)
    reader = task.load_preprocessor(folder)
    length = LENGTH if reader.inputs.needs_length else None
    return load_foreign(
        find_checkpoint(str(folder)), load_task("audio-features", max_length=length, **options)
    )


def vectors(model: TorchModel, sounds: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return model.predict(model.task.encode(model.preprocessor, model.task.given(sounds)))


# Of torch, at what transformers gives it for WavLM.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_transformers_before_and_after_saving_and_in_onnx_runtime(
    name: str, tmp_path: Path
):
    torch.manual_seed(0)
    folder = save(MODELS[name](), tmp_path / "model")
    assert find_checkpoint(str(folder)).infer_task() == "audio-features"
    sounds = [*tones(), np.random.default_rng(0).uniform(-0.3, 0.3, 5999).astype(np.float32)]
    expected = expected_vectors(folder, sounds)
    assert np.ptp(expected, axis=0).max() > 0.01  # they differ
    model = loaded(folder)
    assert vectors(model, sounds) == pytest.approx(expected, abs=1e-5)
    assert model.task.vector_width(model.module.config) == expected.shape[1] == 32

    model.save(tmp_path / "saved")
    again = loaded(tmp_path / "saved")
    assert find_checkpoint(str(tmp_path / "saved")).infer_task() == "audio-features"
    assert vectors(again, sounds) == pytest.approx(expected, abs=1e-5)
    # What is saved is for transformers alone, too.
    assert expected_vectors(tmp_path / "saved", sounds) == pytest.approx(expected, abs=1e-5)

    graph = export_onnx(model, tmp_path / "model.onnx", threads=1)
    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for chosen in ([0], [4], [0, 1, 2, 3, 4]):
        batch = model.task.encode(model.preprocessor, model.task.given([sounds[i] for i in chosen]))
        assert sorted(names) == sorted(batch)
        [found] = session.run(["audio_embeds"], batch)
        assert found == pytest.approx(expected[chosen], abs=1e-4)


def test_padding_that_nothing_tells_is_refused_before_anything_is_measured(tmp_path: Path):
    masked = loaded(save(MODELS["wav2vec2"](), tmp_path / "masked"))
    with pytest.raises(StepFailed, match=r"reads a mask of samples .* sounds of one length"):
        require_one_length(masked, masked.task.given(tones()))
    require_one_length(masked, masked.task.given(tones()[:1] * 3))
    whole = loaded(save(MODELS["hubert group"](), tmp_path / "whole"))
    require_one_length(whole, whole.task.given(tones()))  # all are read at one length


def pruned(model: TorchModel, folder: Path, **settings: Any) -> TorchModel:
    """Return a copy with half of its heads and neurons."""
    kind = {"kind": "prune_structured", "importance": "magnitude", "round_to": 1}
    context = PassContext(
        splits={},
        load_baseline=model.clone,
        device=torch.device("cpu"),
        seed=0,
        work_dir=folder,
        progress=SILENT,
        note=lambda _: None,
    )
    return apply_pass(settings_of({**kind, **settings}), model.clone(), context)


def put_to_zero(dense: TorchModel, left: TorchModel) -> int:
    """Put what reads the units that are gone to zero, and return how many there are."""
    count = 0
    pairs = zip(encoder_layers(dense.module), encoder_layers(left.module), strict=True)
    for before, after in pairs:
        for whole, kept in (
            (before.attention.output, after.attention.output),
            (before.feed_forward.ffn_out, after.feed_forward.ffn_out),
        ):
            columns = whole.weight.data.T
            stays = (columns[:, None] == kept.weight.data.T).all(dim=-1).any(dim=-1)
            whole.weight.data[:, ~stays] = 0
            count += int((~stays).sum())
    return count


@pytest.mark.parametrize("name", ["wav2vec2", "hubert group", "whisper", "spectrogram"])
def test_a_pruned_encoder_computes_what_transformers_does_with_those_units_at_zero(
    name: str, tmp_path: Path
):
    torch.manual_seed(0)
    dense = loaded(save(MODELS[name](), tmp_path / "model"))
    sounds = tones()
    small = pruned(dense, tmp_path, head_ratio=0.5, neuron_ratio=0.5)
    # Two layers, each without 2 of 4 heads of width 8 and 32 of 64 neurons.
    assert put_to_zero(dense, small) == 2 * (2 * 8 + 32)
    dense.save(tmp_path / "zeroed")
    expected = expected_vectors(tmp_path / "zeroed", sounds)

    assert vectors(small, sounds) == pytest.approx(expected, abs=1e-5)
    small.save(tmp_path / "small")
    assert vectors(loaded(tmp_path / "small"), sounds) == pytest.approx(expected, abs=1e-5)


SPEAKERS = {
    **{"tdnn_dim": [16, 16], "tdnn_kernel": [3, 1], "tdnn_dilation": [1, 1]},
    **{"xvector_output_dim": 16, "classifier_proj_size": 16},
}


@pytest.mark.parametrize("kind", ["Wav2Vec2", "WavLM"])
@pytest.mark.parametrize("named", [True, False], ids=["by its name", "by its weights"])
def test_vectors_of_speakers_are_refused_whatever_is_asked(kind: str, named: bool, tmp_path: Path):
    folder = save(of_samples(kind, "ForXVector", **SPEAKERS), tmp_path / "model")
    if not named:
        edit_config(folder, architectures=[f"{kind}Model"])
    files = find_checkpoint(str(folder))
    with pytest.raises(EnvironmentMismatch, match=r"those of speakers, are made by layers after"):
        files.require_head("audio-features")
    with pytest.raises(EnvironmentMismatch, match="of speakers"):
        load_checkpoint(folder)


def test_an_adapter_that_joins_frames_is_refused(tmp_path: Path):
    made = of_samples("Wav2Vec2", add_adapter=True, output_hidden_size=32)
    files = find_checkpoint(str(save(made, tmp_path / "model")))
    for look in (files.infer_task, lambda: files.require_head("audio-features")):
        with pytest.raises(EnvironmentMismatch, match=r"add_adapter is true: .* without an ad"):
            look()


@pytest.mark.parametrize(
    ("made", "does"),
    [
        (lambda: of_samples("Wav2Vec2", "ForCTC", vocab_size=9), "transcribes speech"),
        (lambda: of_samples("Hubert", "ForCTC", vocab_size=9), "transcribes speech"),
        (lambda: of_samples("WavLM", "ForAudioFrameClassification"), "labels the frames"),
        (lambda: whisper("ForConditionalGeneration"), "writes text"),
    ],
    ids=["wav2vec2 ctc", "hubert ctc", "wavlm frames", "whisper"],
)
# Of torch, at what transformers gives it for WavLM.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
def test_the_encoder_below_a_head_gives_vectors_when_they_are_asked_for(
    made: Any, does: str, tmp_path: Path
):
    torch.manual_seed(0)
    folder = save(made(), tmp_path / "model")
    with pytest.raises(EnvironmentMismatch, match=f"{does}.*model.task: audio-features"):
        load_checkpoint(folder)
    # transformers leaves the head out too.
    expected = expected_vectors(folder, tones())
    assert vectors(loaded(folder), tones()) == pytest.approx(expected, abs=1e-5)


def test_pooling_of_a_recipe_chooses_among_what_a_spectrogram_s_encoder_has(tmp_path: Path):
    torch.manual_seed(0)
    folder = save(spectrogram(), tmp_path / "model")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    batch = extractor(tones(), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder)(**batch).last_hidden_state.numpy()
    first = vectors(loaded(folder, pooling="cls"), tones())
    assert first == pytest.approx(states[:, 0], abs=1e-5)
    mean = states[:, 2:].mean(axis=1)  # of patches, after the class token and that of distillation
    model = loaded(folder, pooling="mean", normalize=True)
    long = np.linalg.norm(mean, axis=1, keepdims=True)
    assert vectors(model, tones()) == pytest.approx(mean / long, abs=1e-5)

    model.save(tmp_path / "saved")  # says so, and nothing may contradict it
    assert vectors(loaded(tmp_path / "saved"), tones()) == pytest.approx(mean / long, abs=1e-5)
    with pytest.raises(RecipeError) as caught:
        load_task("audio-features", pooling="cls", normalize=False).vector(tmp_path / "saved")
    assert len(caught.value.mistakes) == 2
    assert "model.pooling: is cls, but config.json of the checkpoint says patch_mean" in str(
        caught.value
    )


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm", "whisper"])
def test_pooling_that_an_encoder_of_frames_has_not_is_refused(name: str, tmp_path: Path):
    folder = save(MODELS[name](), tmp_path / "model")
    kind = name.partition(" ")[0]
    with pytest.raises(RecipeError, match=f"is cls, and model type '{kind}' has vectors of mean"):
        load_task("audio-features", pooling="cls").vector(folder)
    assert load_task("audio-features", pooling="mean").vector(folder).mode == "frame_mean"


@pytest.mark.parametrize(
    ("name", "max_length", "own", "read"),
    [
        ("whisper", None, 16_000, 16_000),  # a second, as `chunk_length` says
        ("spectrogram", None, 5519, 5519),  # 32 frames of 400 samples, 160 apart
        ("spectrogram", 2000, 5519, 2000),
        ("hubert group", LENGTH, None, LENGTH),
        ("hubert", 3000, None, 3000),
    ],
)
def test_how_much_of_a_sound_is_read_is_told_with_how_many_are_longer(
    name: str, max_length: int | None, own: int | None, read: int, tmp_path: Path
):
    torch.manual_seed(0)
    files = find_checkpoint(str(save(MODELS[name](), tmp_path / "model")))
    model = load_foreign(files, load_task("audio-features", max_length=max_length))
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 20_000).astype(np.float32)
    sounds = [Sound(noise[:size], RATE, str(size)) for size in (1500, read, read + 1, 20_000)]
    split = Dataset("search", tuple(sounds), None, np.arange(4), "made up")
    found, _ = require_one_prediction(model, files, {"search": split}, None, None)
    assert found == LengthRecord(own, read, read, read, 4, 2, unit="sample")
    # One more sample changes nothing, and those that are read do.
    whole, cut, less = (
        model.predict(model.task.encode(model.preprocessor, [Sound(noise[:size], RATE, "")]))
        for size in (read + 1, read, read - 1600)
    )
    assert whole == pytest.approx(cut, abs=1e-6)
    assert np.abs(less - cut).max() > 1e-5


def test_a_model_that_reads_sounds_of_any_length_cuts_none(tmp_path: Path):
    torch.manual_seed(0)
    model = loaded(save(MODELS["hubert"](), tmp_path / "model"))
    assert model.task.samples_read(model.preprocessor) is None
