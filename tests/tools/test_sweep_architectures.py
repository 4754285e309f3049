"""Architectures that are written like no other pass through export, parity and int8."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def sweeping(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("sweep_architectures")


def test_feed_forward_networks_with_packed_gates_come_out_right(sweeping: ModuleType):
    lines = list(sweeping.sweep(sweeping.QUICK))
    assert [(line.family, line.head, line.verdict, line.stage) for line in lines] == [
        ("nomic_bert", "classifier", "right", "int8"),
        ("nomic_bert", "cls", "right", "int8"),
        ("dinov2 (gated)", "classifier", "right", "int8"),
    ]


def test_a_crash_is_told_with_its_place(sweeping: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweeping, "build", lambda folder, family, head: 1 / 0)
    [line] = sweeping.sweep(["gpt2"])
    assert (line.verdict, line.stage) == ("CRASH", "build")
    assert "ZeroDivisionError in test_sweep_architectures.py" in line.text
