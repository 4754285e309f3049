from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.data import Dataset
from compressor.models.families.layers import encoder_layers, find_encoder
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes import recovery as _recovery
from compressor.passes.prune_structured import apply as _work
from compressor.passes.prune_structured.latency_table import MeasuredTable, MeasuredTimes, Situation
from compressor.passes.prune_structured.settings import PruneByScores, PruneStructured
from compressor.passes.prune_structured.unit_removal import prune_neurons
from compressor.training.distill_settings import DistillRecovery
from compressor.training.trainer import TrainingRun, TrainingSummary

ContextMaker = Callable[..., PassContext]
UNIFORM: dict[str, dict[str, Any]] = {
    "scores": {"ratio": 0.5},
    "reconstruction": {"method": "reconstruction", "ratio": 0.5},
}


def units(model: TorchModel) -> list[tuple[int, int]]:
    return [(layer.num_heads, layer.num_neurons) for layer in encoder_layers(model.module)]


LOAD_ALL = """
import sys, numpy, torch, transformers
for folder in sys.argv[1:]:
    batch = numpy.load(folder + "/batch.npz")
    kind = "Image" if "pixel_values" in batch else "Sequence"
    auto = getattr(transformers, f"AutoModelFor{kind}Classification")
    model = auto.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(batch[name]) for name in batch.files}).logits
    numpy.save(folder + "/logits.npy", logits.numpy())
assert "compressor" not in sys.modules
"""


def test_uniform_checkpoints_load_with_transformers_alone_in_a_fresh_process(
    tiny_bert: TorchModel,
    tiny_vit: TorchModel,
    text_dataset: Dataset,
    image_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
    tmp_path: Path,
):
    expected = {}
    for method, given in UNIFORM.items():
        for model, data, more in (
            (tiny_vit.clone(), image_dataset, {}),
            (tiny_bert.clone(), text_dataset, {"ratio": 0.2, "head_ratio": 0}),
        ):
            settings = PruneStructured.of({**given, **more, "uniform": True})
            context = make_context(calibration=data)
            pruned = apply_pass(settings, model, context)
            folder = tmp_path / f"{method}-{model.task.name}"
            pruned.save(folder)
            [(heads, neurons), second] = units(pruned)
            assert (heads, neurons) == second
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            assert (config["num_attention_heads"], config["intermediate_size"]) == second
            assert 16 <= neurons < 64
            assert not (folder / "structure.json").exists()
            assert context.facts["plain_checkpoint"] is True
            assert notes[-1].endswith("as config.json says: transformers alone loads this")
            batch = pruned.task.encode(pruned.preprocessor, data.examples[:4])
            np.savez(folder / "batch.npz", **batch)
            expected[folder] = pruned.predict(batch)

    subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *map(str, expected)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
    )

    for folder, logits in expected.items():
        np.testing.assert_allclose(np.load(folder / "logits.npy"), logits, atol=1e-6)


def test_a_uniform_bert_with_fewer_heads_says_why_it_is_not_plain_and_still_loads(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
    tmp_path: Path,
):
    context = make_context(calibration=text_dataset)
    pruned = apply_pass(PruneByScores(ratio=0.5, uniform=True), tiny_bert, context)
    pruned.save(tmp_path / "saved")

    assert units(pruned) == [(2, 32), (2, 32)]
    assert context.facts["plain_checkpoint"] is False
    assert "cannot say 2 heads of 8 in a hidden size of 32" in notes[-1]
    assert "loads with compressor.load_checkpoint, not with transformers alone" in notes[-1]
    assert pruned.module.config.intermediate_size == 32  # what can be said is said
    batch = pruned.task.encode(pruned.preprocessor, text_dataset.examples[:5])
    again = load_checkpoint(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict(batch), pruned.predict(batch))


def test_each_uniform_layer_keeps_its_own_best_units(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    baseline = tiny_bert.clone()
    for layer, dead in zip(
        encoder_layers(tiny_bert.module), (slice(8, 24), slice(0, 16)), strict=True
    ):
        assert layer.attention is not None
        assert layer.feed_forward is not None
        layer.attention.output.weight.data[:, dead] = 0
        layer.feed_forward.ffn_out.weight.data[:, ::2] = 0
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    expected = tiny_bert.predict(batch)
    assert abs(baseline.predict(batch) - expected).max() > 0.01

    settings = PruneByScores(ratio=0.5, uniform=True)
    pruned = apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))

    assert len(set(units(pruned))) == 1
    np.testing.assert_allclose(pruned.predict(batch), expected, atol=1e-5)


def test_uniform_pruning_of_a_model_whose_layers_differ_is_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    context = make_context(calibration=text_dataset)
    pruned = apply_pass(PruneByScores(ratio=0.5, head_ratio=0.3), tiny_bert, context)
    before = units(pruned)
    assert len(set(before)) == 2
    with pytest.raises(ValueError, match="uniform: the layers of this model differ already"):
        apply_pass(PruneByScores(ratio=0.5, uniform=True), pruned, context)
    assert units(pruned) == before


@pytest.mark.parametrize("method", UNIFORM)
def test_uniform_asks_only_that_the_layers_that_stay_are_alike(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, method: str
):
    prune_neurons(find_encoder(tiny_bert.module), {0: list(range(8))})
    assert units(tiny_bert) == [(4, 56), (4, 64)]
    settings = PruneStructured.of({**UNIFORM[method], "drop_layers": [0], "uniform": True})

    [(heads, neurons)] = units(
        apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))
    )

    assert heads < 4 or neurons < 64


@pytest.mark.parametrize("method", UNIFORM)
def test_uniform_is_refused_before_layers_are_measured_where_too_few_are_alike(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, method: str
):
    config = tiny_bert.module.config
    config.num_hidden_layers = 3
    model = TorchModel(type(tiny_bert.module)(config), tiny_bert.preprocessor, tiny_bert.task)
    prune_neurons(find_encoder(model.module), {0: list(range(8)), 1: list(range(16))})
    settings = PruneStructured.of({**UNIFORM[method], "layers": 2, "uniform": True})

    with pytest.raises(ValueError, match="uniform: the layers of this model differ already"):
        apply_pass(settings, model, make_context(calibration=text_dataset))

    assert units(model) == [(4, 56), (4, 48), (4, 64)]


@pytest.mark.parametrize("method", UNIFORM)
def test_a_uniform_ratio_that_would_empty_the_layers_is_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, method: str
):
    settings = PruneStructured.of({**UNIFORM[method], "ratio": 0.95, "uniform": True})
    with pytest.raises(ValueError, match=r"ratio: .*0\.95"):
        apply_pass(settings, tiny_bert, make_context(calibration=text_dataset))
    assert units(tiny_bert) == [(4, 64), (4, 64)]


@pytest.mark.parametrize(
    ("schedule", "neurons"),
    [
        # Of 64 neurons 32 go: after half of the way, 1 - (1/2)^3 = 7/8 of them, or half.
        ("cubic", [64 - 28, 32]),
        ("linear", [64 - 16, 32]),
    ],
)
def test_steps_follow_their_schedule(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
    schedule: str,
    neurons: list[int],
):
    seen: list[tuple[int, int, float, int | None]] = []

    def finetune(
        model: TorchModel, _: Dataset, settings: Any, run: TrainingRun, **_carried: Any
    ) -> Any:
        seen.append((units(model)[0][1], run.seed, settings.epochs, settings.max_steps))
        return TrainingSummary(1, 1.0, 1.0)

    monkeypatch.setattr(_recovery, "finetune", finetune)
    settings = PruneStructured.of(
        {
            "neuron_ratio": 0.5,
            "scope": "layer",
            "round_to": 4,
            "steps": 2,
            "step_schedule": schedule,
            "recovery": {"kind": "finetune", "epochs": 1.0, "max_steps": 7},
        }
    )
    apply_pass(settings, tiny_bert, make_context(calibration=text_dataset, train=text_dataset))
    # Both steps share the epoch and the limit, and read the rows in orders of their own.
    assert seen == [(neurons[0], 0, 0.5, 3), (neurons[1], 1, 0.5, 3)]


def test_one_step_takes_the_recovery_as_it_is():
    recovery = DistillRecovery(epochs=2.5, max_steps=9)
    training = _recovery.RecoveryTraining(recovery, None)
    assert training.in_parts(1) == training


def test_reconstruction_takes_what_a_latency_table_says(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    # A made-up machine on which heads cost nearly nothing and neurons all there is.
    others = MeasuredTimes({0: 0.1, 4: 0.2}, {0: 0.1, 64: 3.3})
    last = MeasuredTimes({0: 0.1, 4: 0.2}, {0: 0.1, 64: 0.9})
    asked: list[Situation] = []

    def measured(situation: Situation, _: Any) -> MeasuredTable:
        asked.append(situation)
        place = tmp_path / "table.json"
        return MeasuredTable(others, last, place, False, "it was damaged", {"format": 3})

    monkeypatch.setattr(_work, "latency_of_sub_layers", measured)
    settings = PruneStructured.of(
        {
            **UNIFORM["reconstruction"],
            "target": "latency",
            "latency_precision": "int8",
            "latency_threads": 3,
        }
    )
    context = make_context(calibration=text_dataset)

    pruned = apply_pass(settings, tiny_bert, context)

    before = 2 * 0.2 + 3.3 + 0.9
    left = sum(
        times.table.attention[heads] + times.table.feed_forward[neurons]
        for times, (heads, neurons) in zip((others, last), units(pruned), strict=True)
    )
    assert 0.3 * before < left <= 0.5 * before
    # Heads take 0.4 ms, empty sub-layers 0.2 ms, so 1.7 ms are left for neurons: all 64 of the last
    # layer for 0.8 ms, and 16 of the first layer for 0.05 ms each.
    assert units(pruned) == [(4, 16), (4, 64)]
    encoded = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    [situation] = asked
    assert (situation.max_heads, situation.max_neurons, situation.round_to) == (4, 64, 16)
    assert situation.num_tokens == round(encoded["attention_mask"].sum() / 48)
    assert (situation.precision, situation.batch_size, situation.threads) == ("int8", 1, 3)
    assert situation.one_token_last
    assert notes[:2] == [
        "the latency table was measured again: it was damaged",
        f"latency table measured: int8, batch 1, {situation.num_tokens} tokens, 3 threads of the "
        f"CPU, on the wall clock; one token read of the last layer",
    ]
    assert notes[2].startswith(f"encoder latency left: {100 * left / before:.1f}%")
    assert context.facts["latency_table"] == {"format": 3}


@pytest.mark.parametrize(
    ("device", "settings", "blocks"),
    [
        ("cpu", {"method": "reconstruction"}, 16),
        ("cuda", {"method": "reconstruction"}, 64),
        ("cuda", {"method": "reconstruction", "round_to": 8}, 8),
        ("cpu", {}, 8),
    ],
)
def test_blocks_of_neurons_are_what_the_kernels_like(
    device: str, settings: dict[str, Any], blocks: int
):
    found = PruneStructured.of({"ratio": 0.5, **settings}).blocks_on(device)
    assert found == blocks
