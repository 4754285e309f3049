"""Every integer of a pruned random checkpoint is right, in every int8 form."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def checking(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_integers")


def test_no_integer_of_a_pruned_model_differs_in_any_form(checking: ModuleType):
    name, model, examples = checking.random_model(2)
    found = dict(checking.check(model, examples))
    assert name == "2: xlm-roberta, pruned"
    assert set(found) == set(checking.FORMS)
    numbers = [item for checks in found.values() for item in checks]
    assert sum(item.wrong + item.saturated for item in numbers) == 0
    assert all(item.compared > 0 for item in numbers)


def test_no_integer_differs_after_training_for_int8(checking: ModuleType):
    _, model, examples = checking.random_model(0)
    found = dict(checking.check_trained(model, examples))
    assert {"trained", "trained, static"} == set(found)
    numbers = [item for checks in found.values() for item in checks]
    assert sum(item.wrong + item.saturated for item in numbers) == 0
    assert all(item.compared > 0 for item in numbers)


def test_a_wrong_number_is_named(checking: ModuleType):
    bad = checking.ExactnessCheck("layer.0", "MatMulInteger", 10, 3, 1)
    assert checking.describe([bad]) == "layer.0: 3 wrong, 1 saturated"


def test_the_random_models_are_of_every_supported_architecture(checking: ModuleType):
    from compressor.models.families import FAMILIES, EncoderParts

    known = {name for name, it in FAMILIES.items() if isinstance(it.encoder, EncoderParts)}
    # transformers has no classifier of these.
    known -= {"splinter", "bert-generation", "dinov3_vit"}
    # Towers of pairs, sounds, and what `tools/check_families.py` alone makes random models of.
    known -= {"clip", "clip_text_model", "clip_vision_model"}
    known -= {"siglip", "siglip_text_model", "siglip_vision_model"}
    known -= {"wav2vec2", "hubert", "whisper", "audio-spectrogram-transformer"}
    known -= {"mt5", "t5", "xmod"}
    assert known <= {*checking.TEXT, *checking.IMAGE}
