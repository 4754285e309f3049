"""Foreign errors of any type blame the checkpoint; ours, and those of memory, pass."""

from __future__ import annotations

import pytest
import torch

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.guard import foreign


@pytest.mark.parametrize(
    "error", [KeyError("x"), Exception("x"), TypeError("x"), RecursionError("x"), OSError("x")]
)
def test_an_error_of_any_type_blames_the_checkpoint_and_is_its_cause(error: Exception):
    with (
        pytest.raises(
            EnvironmentMismatch, match=rf"^what \({type(error).__name__}: .*\); do$"
        ) as e,
        foreign("what", "do"),
    ):
        raise error
    assert e.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        RecipeError("ours"),
        MemoryError("x"),
        torch.OutOfMemoryError("x"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        KeyboardInterrupt("x"),
    ],
)
def test_other_errors_pass(error: BaseException):
    with pytest.raises(type(error)), foreign("what", "do"):
        raise error


def test_a_long_foreign_message_is_cut():
    with pytest.raises(EnvironmentMismatch) as caught, foreign("what", "do"):
        raise ValueError("x" * 10_000)
    assert len(str(caught.value)) < 700
