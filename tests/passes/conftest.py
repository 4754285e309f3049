"""What the pipeline lends a pass, for tests that apply one directly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext
from compressor.progress import SILENT

ContextMaker = Callable[..., PassContext]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def make_context(tmp_path: Path, notes: list[str]) -> ContextMaker:
    def make(baseline: Path | None = None, **splits: Dataset) -> PassContext:
        def load_baseline() -> TorchModel:
            assert baseline is not None, "this test's settings need no baseline"
            return load_checkpoint(baseline)

        return PassContext(
            splits=splits,
            load_baseline=load_baseline,
            device=torch.device("cpu"),
            seed=0,
            work_dir=tmp_path / "work",
            progress=SILENT,
            note=notes.append,
        )

    return make
