"""What the check without VNNI stands on: a product that must saturate, and an emulator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from compressor.onnx_graph.integer_matmuls import find_integer_matmuls


@pytest.fixture(scope="module")
def checking(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """Return the script as a module."""
    return load_script("check_avx2")


def test_the_product_that_goes_first_must_saturate_without_vnni(checking: ModuleType):
    [product] = find_integer_matmuls(checking.full_range())
    assert product.can_saturate
    assert product.risk is not None
    assert product.risk.worst_sum == 254


def test_numbers_that_are_wrong_fail_the_check(
    checking: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    wrong = checking.ExactnessCheck("layer.0", "MatMulNBits", 10, 3, 0)
    monkeypatch.setattr(checking, "check_integers", lambda *_: (wrong,))
    monkeypatch.setattr(checking.onnx, "load", lambda _: checking.full_range())
    assert checking.check([Path("model.onnx")]) == 1
    assert "MatMulNBits layer.0: 3 wrong" in capsys.readouterr().out


def test_an_emulation_that_does_not_saturate_shows_nothing(
    checking: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    right = checking.ExactnessCheck("product", "MatMulIntegerToFloat", 10, 0, 0)
    monkeypatch.setattr(checking, "check_integers", lambda *_: (right,))
    assert checking.check([Path("model.onnx")]) == checking.CANNOT_TELL


def test_without_an_emulator_the_check_says_so(
    checking: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(checking.shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["check_avx2.py", "model.onnx"])
    assert checking.main() == checking.CANNOT_TELL
    assert "valgrind is not installed" in capsys.readouterr().out
