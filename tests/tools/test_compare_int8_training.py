"""What the comparison of int8 trainings reads from its command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

import pytest

from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain


@pytest.fixture(scope="module")
def comparing(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """Return the script as a module."""
    return load_script("compare_int8_training")


def test_settings_of_the_training_are_written_as_in_a_recipe(comparing: ModuleType):
    given = ["activations=static", "learning_rate=1e-5", "max_steps=4", "keep_if_worse=true"]

    training = QuantizeAwareTrain.model_validate(dict(map(comparing.setting, given)))

    assert (training.activations, training.learning_rate) == ("static", 1e-5)
    assert (training.max_steps, training.keep_if_worse) == (4, True)


@pytest.mark.parametrize("text", ["activations", "=static", "max_steps=[1"])
def test_text_that_is_no_setting_is_refused_by_what_it_says(comparing: ModuleType, text: str):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        comparing.setting(text)

    assert repr(text) in str(caught.value)
