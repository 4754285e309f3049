"""What cannot be done with a model that is divided among processes is refused by name."""

from __future__ import annotations

import pytest
from torch import nn

from compressor.errors import StepFailed
from compressor.machine.launchers import Launch
from compressor.machine.team import ALONE, Team
from compressor.training.sharding import _layers, require_divisible

DIVIDED = Team(Launch(0, 2, sharded=True))


@pytest.mark.parametrize(
    ("has_after_step", "precision", "optimizer", "told"),
    [
        (True, "float32", "adamw", "pruned or rounded between its steps"),
        (False, "float16", "adamw", "bfloat16 does not"),
        (False, "float32", "adafactor", "rows and columns of whole matrices"),
    ],
)
def test_a_training_that_needs_the_whole_model_is_refused(
    has_after_step: bool, precision: str, optimizer: str, told: str
):
    given = {"has_after_step": has_after_step, "precision": precision, "optimizer": optimizer}
    require_divisible(ALONE, **given)
    require_divisible(Team(Launch(0, 2)), **given)
    with pytest.raises(StepFailed, match=told):
        require_divisible(DIVIDED, **given)


def test_a_plain_training_can_be_divided():
    require_divisible(DIVIDED, has_after_step=False, precision="bfloat16", optimizer="adamw")


def test_the_layers_of_the_largest_list_are_gathered_one_by_one():
    model = nn.Module()
    model.small = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    assert _layers(model) == list(model.layers)


def test_layers_that_share_a_parameter_are_gathered_together():
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model.head = nn.Linear(4, 4)
    model.head.weight = model.layers[1].weight
    assert _layers(model) == []
