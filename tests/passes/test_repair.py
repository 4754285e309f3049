"""What passes offer when a gate fails follows from their settings, in an order fixed beforehand."""

from __future__ import annotations

import pytest

from compressor.passes import PASSES
from compressor.passes.distill.settings import Distill
from compressor.passes.finetune.settings import Finetune
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.passes.prune_structured.settings import PruneByScores
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.passes.repair import halfway, ladder, longer
from compressor.passes.trim_vocabulary.settings import TrimVocabulary
from compressor.training.distill_settings import DistillRecovery
from compressor.training.settings import FinetuneSettings


def test_a_fraction_goes_down_by_quarters():
    sparsities = [step.sparsity for step in PruneMagnitude(sparsity=0.8).milder()]
    assert sparsities == [0.6, 0.4, 0.2]


def test_longer_recovery_follows_the_ladder_at_half_of_the_ratio():
    step = PruneByScores(ratio=0.8, recovery=DistillRecovery(epochs=3, max_steps=10))
    offers = [
        (milder.ratio, milder.recovery.epochs, milder.recovery.max_steps)
        for milder in step.milder()
        if milder.recovery is not None
    ]
    assert offers == [(0.6, 3, 10), (0.4, 3, 10), (0.2, 3, 10), (0.4, 6, 20), (0.4, 12, 40)]


def test_ratios_of_heads_and_neurons_go_down_together():
    step = PruneByScores(head_ratio=0.4, neuron_ratio=0.8)
    first = next(step.milder())
    assert (first.head_ratio, first.neuron_ratio, first.ratio) == (0.3, 0.6, None)


def test_a_ratio_of_zero_stays_zero():
    first = next(PruneByScores(ratio=0.4, head_ratio=0).milder())
    assert (first.ratio, first.head_ratio) == (0.3, 0)


def test_more_and_more_layers_stay():
    step = PruneByScores(layers=3, recovery=DistillRecovery(epochs=1))
    offers = [
        (milder.layers, milder.recovery.epochs) for milder in step.milder() if milder.recovery
    ]
    assert offers == [(4, 1), (5, 1), (6, 1), (7, 1), (4, 2), (4, 4)]


def test_rarer_and_rarer_pieces_stay():
    step = TrimVocabulary(min_count=10)
    offers = [(milder.min_count, milder.keep_first) for milder in step.milder()]
    first = [(1, 5_000), (1, 10_000), (1, 20_000), (1, 50_000), (1, 100_000)]
    assert offers == [(5, 0), (2, 0), (1, 0), *first]
    middle = step.halfway(TrimVocabulary(min_count=5))
    assert middle is not None
    assert middle.min_count == 7
    assert TrimVocabulary(min_count=2).halfway(TrimVocabulary(min_count=1)) is None


def test_fewer_layers_are_dropped_one_by_one():
    offers = [step.drop_layers for step in PruneByScores(drop_layers=(1, 3, 5)).milder()]
    assert offers == [(1, 3), (1,)]


def test_training_passes_offer_longer_training():
    assert [step.epochs for step in Finetune(epochs=2).milder()] == [4, 8]
    assert [step.epochs for step in Distill(epochs=400).milder()] == [800, 1000]
    assert [step.epochs for step in QuantizeAwareTrain(epochs=0.5).milder()] == [1, 2]


def test_int8_offers_finer_scales_then_sensitive_weights_then_tables_in_float():
    offers = [
        (step.activations, step.keep_sensitive, step.embeddings)
        for step in QuantizeDynamic(activations="per_tensor").milder()
    ]
    assert offers == [
        ("per_token", 0, "int8"),
        ("per_token", 1, "int8"),
        ("per_token", 2, "int8"),
        ("per_token", 4, "int8"),
        ("per_token", 8, "int8"),
        ("per_token", 0, False),
    ]
    last = QuantizeDynamic(embeddings=False, keep_sensitive=4)
    assert [step.keep_sensitive for step in last.milder()] == [8]


def test_int4_tables_become_int8_before_anything_else_gets_milder():
    offers = [
        (step.activations, step.keep_sensitive, step.embeddings)
        for step in QuantizeDynamic(activations="per_tensor", embeddings="int4").milder()
    ]
    assert offers[:3] == [
        ("per_tensor", 0, "int8"),
        ("per_token", 0, "int8"),
        ("per_token", 1, "int8"),
    ]


def test_a_pass_without_milder_settings_offers_none():
    assert list(TrimVocabulary(drop="unreachable").milder()) == []


def test_the_strongest_is_looked_for_between_what_failed_and_what_passed():
    failed, passed = PruneMagnitude(sparsity=0.8), PruneMagnitude(sparsity=0.6)
    middle = failed.halfway(passed)
    assert middle is not None
    assert middle.sparsity == 0.7


def test_fractions_that_hardly_differ_have_nothing_between_them():
    assert PruneMagnitude(sparsity=0.615).halfway(PruneMagnitude(sparsity=0.6)) is None


def test_nothing_lies_between_settings_that_differ_in_more_than_fractions():
    failed = PruneByScores(ratio=0.6, recovery=DistillRecovery(epochs=1))
    assert failed.halfway(PruneByScores(ratio=0.4, recovery=DistillRecovery(epochs=2))) is None
    assert Finetune(epochs=1).halfway(Finetune(epochs=4)) is None


def test_the_helpers_without_a_fraction_yield_nothing():
    assert list(ladder(Finetune())) == []
    assert halfway(Finetune(), Finetune()) is None
    assert [step.max_steps for step in longer(FinetuneSettings())] == [None, None]


@pytest.mark.parametrize("kind", PASSES)
def test_how_to_go_on_is_no_setting_of_the_work(kind: str):
    variants = PASSES[kind].settings.variants()
    fields = {name: field for item in variants for name, field in item.model_fields.items()}
    assert "on_failure" in fields
    assert fields["on_failure"].default is None


def test_more_weights_than_auto_usually_keeps_are_kept_after_it():
    auto = QuantizeDynamic(embeddings=False, keep_sensitive="auto")
    assert [step.keep_sensitive for step in auto.milder()] == [4, 8]
