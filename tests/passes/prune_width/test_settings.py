from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.export.parity import check_parity
from compressor.export.to_onnx import export_onnx
from compressor.models.families.layers import UnsupportedArchitecture, encoder_layers
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.finetune.settings import Finetune
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.passes.prune_width.settings import PruneWidth
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.training.losses import hidden_state_loss

ContextMaker = Callable[..., PassContext]
ROOT = Path(__file__).parents[2]


def width(**settings: Any) -> PruneWidth:
    return PruneWidth.model_validate({"round_to": 4, **settings})


def encode(model: TorchModel, dataset: Dataset) -> Any:
    return model.task.encode(model.preprocessor, dataset.examples)


def logits(model: TorchModel, dataset: Dataset) -> Any:
    return model.predict(encode(model, dataset))


def test_a_fraction_of_the_width_goes_without_reading_labels(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    settings = PruneWidth(ratio=0.4)
    assert settings.required_splits() == {"calibration"}
    pruned = apply_pass(
        settings, tiny_bert, make_context(calibration=replace(text_dataset, labels=None))
    )
    assert pruned.module.config.hidden_size == 16  # 19.2, to the nearest multiple of 16
    assert [(it.num_heads, it.num_neurons) for it in encoder_layers(pruned.module)] == [(4, 64)] * 2
    length = encode(pruned, text_dataset)["attention_mask"].sum() / 48
    assert notes == [
        "hidden size 32 -> 16",
        f"least squares on 48 calibration rows without labels, {length:.1f} tokens each on average",
    ]


@pytest.mark.parametrize("importance", ["random", "magnitude"])
def test_without_compensation_some_kinds_of_importance_read_no_data(
    tiny_vit: TorchModel, make_context: ContextMaker, importance: Any
):
    settings = width(width=20, importance=importance, compensate=False)
    assert settings.required_splits() == frozenset()
    assert apply_pass(settings, tiny_vit, make_context()).module.config.hidden_size == 20


@pytest.mark.parametrize("kind", ["bert", "vit"])
@pytest.mark.parametrize("importance", ["random", "reconstruction"])
def test_compensation_brings_the_answers_back_towards_the_wide_models(
    tiny_bert: TorchModel,
    tiny_vit: TorchModel,
    text_dataset: Dataset,
    image_dataset: Dataset,
    make_context: ContextMaker,
    kind: str,
    importance: Any,
):
    model, data = {"bert": (tiny_bert, text_dataset), "vit": (tiny_vit, image_dataset)}[kind]
    expected = logits(model, data)
    context = make_context(calibration=data)
    settings = {"width": 24, "importance": importance}
    plain = apply_pass(width(compensate=False, **settings), model.clone(), context)
    fitted = apply_pass(width(**settings), model.clone(), context)

    def distance(found: TorchModel) -> float:
        return float(abs(logits(found, data) - expected).mean())

    assert distance(fitted) < 0.5 * distance(plain)


def test_a_stream_with_features_that_say_nothing_loses_nothing(
    tiny_vit: TorchModel, image_dataset: Dataset, make_context: ContextMaker
):
    # Eight features are copies of others, so a linear map of those that stay says everything.
    for name, value in tiny_vit.module.named_parameters():
        rows = value.data
        if name.endswith(("o_proj.weight", "o_proj.bias", "fc2.weight", "fc2.bias")) or (
            "projection" in name
        ):
            rows[:8] = rows[8:16]
        elif name.endswith(("cls_token", "position_embeddings")):
            rows[..., :8] = rows[..., 8:16]
    expected = logits(tiny_vit, image_dataset)
    settings = width(width=24, ridge=1e-6)
    pruned = apply_pass(settings, tiny_vit, make_context(calibration=image_dataset))
    # The norm over 24 features has another variance in every token; that much stays.
    spread = expected.std()
    assert abs(logits(pruned, image_dataset) - expected).mean() < 0.2 * spread


def test_a_narrow_checkpoint_loads_in_another_process_and_trains_on(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, tmp_path: Path
):
    pruned = apply_pass(width(width=20), tiny_bert, make_context(calibration=text_dataset))
    expected = logits(pruned, text_dataset)
    pruned.save(tmp_path / "narrow")
    np.savez(tmp_path / "batch.npz", **encode(pruned, text_dataset))
    script = (
        "import sys, numpy\n"
        "from compressor.models.torch_model import load_checkpoint\n"
        "batch = dict(numpy.load(f'{sys.argv[1]}/batch.npz'))\n"
        "numpy.save(f'{sys.argv[1]}/logits.npy', "
        "load_checkpoint(f'{sys.argv[1]}/narrow').predict(batch))\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-6)

    loaded = load_checkpoint(tmp_path / "narrow")
    context = make_context(work="training", train=text_dataset)
    context.work_dir.mkdir()
    trained = apply_pass(Finetune(max_steps=2, batch_size=8), loaded, context)
    assert abs(logits(trained, text_dataset) - expected).max() > 1e-4


def test_a_narrow_model_is_pruned_exported_and_quantized(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, tmp_path: Path
):
    context = make_context(calibration=text_dataset)
    narrow = apply_pass(width(width=20), tiny_bert, context)
    again = PruneStructured.of({"method": "reconstruction", "ratio": 0.3})
    narrow = apply_pass(again, narrow, make_context(work="again", calibration=text_dataset))
    narrow = apply_pass(
        width(width=16), narrow, make_context(work="third", calibration=text_dataset)
    )
    narrow.save(tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    np.testing.assert_array_equal(logits(loaded, text_dataset), logits(narrow, text_dataset))

    exported = export_onnx(loaded, tmp_path / "narrow.onnx", threads=1)
    batches = [encode(loaded, text_dataset), loaded.task.encode(loaded.preprocessor, ["good"])]
    check_parity(narrow, exported, batches, limit=1e-4)
    context = make_context(work="int8")
    context.work_dir.mkdir()
    small = apply_pass(QuantizeDynamic(min_elements=64), exported, context)
    assert abs(small.predict(batches[0]) - exported.predict(batches[0])).max() < 0.5
    assert small.size().bytes_on_disk < exported.size().bytes_on_disk


def test_distillation_brings_the_narrow_model_back_towards_the_baseline(
    tiny_bert: TorchModel, tiny_bert_dir: Path, text_dataset: Dataset, make_context: ContextMaker
):
    baseline = logits(tiny_bert, text_dataset)
    context = make_context(tiny_bert_dir, train=text_dataset)
    plain = {"width": 20, "importance": "magnitude", "compensate": False}
    raw = apply_pass(width(**plain), tiny_bert.clone(), context)
    recovery = {
        "kind": "distill",
        "epochs": 5,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "hidden_weight": 1.0,
    }
    settings = width(**plain, recovery=recovery)
    assert settings.required_splits() == {"train"}

    recovered = apply_pass(settings, tiny_bert, context)

    def distance(model: TorchModel) -> float:
        return float(abs(logits(model, text_dataset) - baseline).mean())

    assert distance(recovered) < distance(raw)


def test_hidden_states_are_compared_with_the_same_features_of_the_teachers(
    tiny_vit: TorchModel,
    tiny_vit_dir: Path,
    image_dataset: Dataset,
    make_context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
):
    compared: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(student: torch.Tensor, teacher: torch.Tensor, mask: Any) -> torch.Tensor:
        compared.append((student, teacher))
        return hidden_state_loss(student, teacher, mask)

    monkeypatch.setattr("compressor.training.layer_losses.hidden_state_loss", loss)
    recovery = {"kind": "distill", "max_steps": 1, "batch_size": 8, "hidden_weight": 1.0}
    settings = width(width=20, compensate=False, importance="random", recovery=recovery)
    apply_pass(settings, tiny_vit, make_context(tiny_vit_dir, train=image_dataset))
    # Before the first layer nothing is normalised, so what stays is as it was.
    torch.testing.assert_close(*compared[0], atol=1e-6, rtol=0)
    assert [states.shape[-1] for states, _ in compared] == [20, 20, 20]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.9, "round_to": 16}, "leaves 0 in multiples of 16"),
        ({"ratio": 0.1, "round_to": 16}, "leaves 32 in multiples of 16"),
        ({"width": 64}, "the model is 32 wide, so a narrower one has 1 to 31, got 64"),
        ({"width": 32}, "a narrower one has 1 to 31, got 32"),
        ({"width": 20, "round_to": None}, "20 is not a multiple of 16, .* use 16 or 32"),
    ],
)
def test_what_this_model_cannot_give_is_refused_before_anything_changes(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    settings: dict[str, Any],
    message: str,
):
    before = logits(tiny_bert, text_dataset)
    with pytest.raises(ValueError, match=message):
        apply_pass(width(**settings), tiny_bert, make_context(calibration=text_dataset))
    np.testing.assert_array_equal(logits(tiny_bert, text_dataset), before)


@pytest.mark.parametrize("rows", [1, 5, 8, 20])
def test_however_few_the_rows_compensation_is_no_worse_on_others_than_none(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, rows: int
):
    few = replace(text_dataset, examples=text_dataset.examples[:rows], labels=None)
    others = replace(text_dataset, examples=text_dataset.examples[20:], labels=None)
    baseline = logits(tiny_bert, others)
    context = make_context(calibration=few)

    fitted = apply_pass(width(width=16), tiny_bert.clone(), context)
    plain = apply_pass(
        width(width=16, compensate=False), tiny_bert.clone(), make_context(calibration=few)
    )

    errors = [abs(logits(model, others) - baseline).mean() for model in (fitted, plain)]
    assert errors[0] <= errors[1]
    assert context.facts["reconstruction"]["rows"] == rows


def test_the_head_alone_leaves_rows_out_where_tokens_are_enough(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    long = tuple(" ".join([text] * 6) for text in text_dataset.examples[:12])
    few = replace(text_dataset, examples=long, labels=None)
    context = make_context(calibration=few)
    apply_pass(width(width=16), tiny_bert, context)
    recorded = context.facts["reconstruction"]
    assert recorded["tokens_that_differ"] >= recorded["tokens_needed"] == 4 * 65
    assert recorded["rows_needed"] == 17
    assert sorted(recorded["fits"]) == ["'bert.pooler.dense'", "'classifier'"]


def test_a_recovery_without_labels_is_told_before_anything_is_cut(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    unlabelled = replace(text_dataset, labels=None)
    context = make_context(calibration=unlabelled, train=unlabelled)
    with pytest.raises(ValueError, match="fine-tuning needs labels"):
        apply_pass(width(width=16, recovery={"kind": "finetune"}), tiny_bert, context)
    assert tiny_bert.module.config.hidden_size == 32


def test_weights_that_are_not_finite_are_refused_by_name(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    tiny_bert.module.bert.encoder.layer[1].output.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'bert\.encoder\.layer\.1\.output\.dense\.weight' holds"):
        apply_pass(width(width=20), tiny_bert, make_context(calibration=text_dataset))


def test_an_unsupported_architecture_is_refused_by_name(
    tiny_bert: TorchModel, make_context: ContextMaker
):
    tiny_bert.module.config.is_decoder = True
    with pytest.raises(UnsupportedArchitecture, match="'bert'"):
        apply_pass(
            width(width=20, importance="random", compensate=False), tiny_bert, make_context()
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of ratio and width"),
        ({"ratio": 0.5, "width": 16}, "give one of ratio and width"),
        ({"ratio": 1.0}, "less than 1"),
        ({"width": 0}, "greater than 0"),
        ({"width": 30, "round_to": 16}, "not a multiple of round_to 16; use 16 or 32"),
        ({"width": 8, "round_to": 16}, "not a multiple of round_to 16; use 16, or"),
        ({"ratio": 0.5, "importance": "taylor"}, "'random', 'magnitude', 'activation'"),
        ({"ratio": 0.5, "widht": 3}, "Extra inputs are not permitted"),
        (
            {"ratio": 0.5, "recovery": {"kind": "distill", "sublayer_weight": 1}},
            "sublayer_weight compares outputs of one width",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        PruneWidth.model_validate(settings)
