"""Marks for tests that compute in OpenVINO, without loading it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

IS_THERE = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not IS_THERE, reason="the package openvino is not installed")

_CPU = Path("/proc/cpuinfo")
needs_bfloat16 = pytest.mark.skipif(
    not (_CPU.is_file() and "avx512_bf16" in _CPU.read_text(encoding="utf-8")),
    reason="this CPU has no bfloat16",
)
