"""Where and how the training tests run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from compressor.progress import Advance
from compressor.training.trainer import TrainingRun


class RecordingProgress:
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, int | None]] = []
        self.details: list[str] = []

    def stage(self, title: str) -> None:
        raise AssertionError(f"training announced the stage {title}, which is the pipeline's word")

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        self.bars.append((description, total))

        def advance(amount: int = 1, detail: str = "") -> None:
            self.details += [detail] * amount

        yield advance


@pytest.fixture
def progress() -> RecordingProgress:
    return RecordingProgress()


@pytest.fixture
def training_run(tmp_path: Path, progress: RecordingProgress) -> TrainingRun:
    return TrainingRun(torch.device("cpu"), 0, tmp_path / "work", progress, "training")
